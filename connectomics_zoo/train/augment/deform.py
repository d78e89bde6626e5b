"""Rotation, scale and elastic deformation, by one resampling: linear for the image, the nearest voxel for labels."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from connectomics_zoo.schema.augmentation import AugmentationSpec
from connectomics_zoo.train.augment.chance import Sample, happens
from connectomics_zoo.train.augment.symmetry import is_isotropic

NEARLY_CUBE = 2.0
"""A patch whose longest edge is more than this many shortest ones is not rotated out of its sections: most of what
would come into it lies outside, where there are only reflections."""

Array = NDArray[np.float32]


def deform(
    sample: Sample,
    *,
    spec: AugmentationSpec,
    voxel_size_nm: tuple[float, ...] | None,
    generator: np.random.Generator,
) -> Sample:
    """Return `sample` rotated, scaled and bent; what comes from outside is its reflection, image and labels alike.

    Sections stay where they are unless voxels are isotropic.
    """
    shape = sample.labels.shape[-3:]
    isotropic = is_isotropic(voxel_size_nm)
    in_space = isotropic and max(shape) <= NEARLY_CUBE * min(shape)
    edges = np.ones(3) if voxel_size_nm is None else np.array(voxel_size_nm)
    matrix = None
    if happens(spec.affine, generator):
        matrix = _random_matrix(spec, in_space=in_space, generator=generator) * edges / edges[:, np.newaxis]
    bend = happens(spec.elastic, generator) and spec.elastic_amplitude > 0
    if matrix is None and not bend:
        return sample
    axes = (0, 1, 2) if in_space or (isotropic and bend) else (1, 2)
    coordinates = _coordinates(shape, axes, np.eye(3) if matrix is None else matrix)
    if bend:
        for axis in axes:
            coordinates[axis] = coordinates[axis] + _displacement(shape, spec, voxel_size_nm, generator)
    for axis in axes:
        coordinates[axis] = _reflect(coordinates[axis], shape[axis] - 1)
    nearest = _nearest(coordinates, shape)
    return Sample(
        _interpolate(sample.image, [coordinates[axis] for axis in axes]),
        _taken(sample.labels, nearest),
        _taken(sample.annotated, nearest),
    )


def _taken(array: NDArray[Any], nearest: NDArray[np.intp]) -> NDArray[Any]:
    """Return the values of `array` (…, Z, Y, X) at flat indices (Z, Y, X) of its voxels."""
    if array.ndim == 3:
        return array.reshape(-1)[nearest]
    return np.stack([volume.reshape(-1)[nearest] for volume in array])


def _random_matrix(spec: AugmentationSpec, *, in_space: bool, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return the matrix (3, 3) that takes an offset (z, y, x) from the centre to where its value comes from, in lengths
    of which every axis has the same."""
    axis = generator.standard_normal(3) if in_space else np.array([1.0, 0.0, 0.0])
    z, y, x = axis / np.linalg.norm(axis)
    angle = math.radians(generator.uniform(-spec.rotation_degrees, spec.rotation_degrees))
    cross = np.array([[0, -x, y], [x, 0, -z], [-y, z, 0]])
    rotation = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    factor = generator.uniform(1 - spec.scale, 1 + spec.scale)
    zoom = np.diag([factor if in_space else 1.0, factor, factor])
    matrix: NDArray[np.float64] = rotation @ np.linalg.inv(zoom)
    return matrix


def _coordinates(shape: tuple[int, ...], axes: tuple[int, ...], matrix: NDArray[np.float64]) -> list[Array]:
    """Return where the value of each voxel comes from, for z, y and x, in arrays that broadcast to `shape`."""
    centre = [(length - 1) / 2 for length in shape]
    offsets = [
        (np.arange(length, dtype=np.float32) - np.float32(middle)).reshape([-1 if i == axis else 1 for i in range(3)])
        for axis, (length, middle) in enumerate(zip(shape, centre, strict=True))
    ]
    result = []
    for axis in range(3):
        if axis not in axes:
            result.append(offsets[axis] + np.float32(centre[axis]))
            continue
        total: Array = np.full((1, 1, 1), centre[axis], np.float32)
        for other in range(3):
            if matrix[axis, other] != 0:
                total = total + np.float32(matrix[axis, other]) * offsets[other]
        result.append(total)
    return result


def _displacement(
    shape: tuple[int, ...],
    spec: AugmentationSpec,
    voxel_size_nm: tuple[float, ...] | None,
    generator: np.random.Generator,
) -> Array:
    """Return a smooth random displacement (Z, Y, X) along one axis, in pixels; control points are as far apart along
    every axis, and sections whose thickness is unknown are displaced alike."""
    spacing = [math.inf, spec.elastic_spacing, spec.elastic_spacing]
    if voxel_size_nm is not None:
        spacing = [max(spec.elastic_spacing * voxel_size_nm[2] / edge, 1.0) for edge in voxel_size_nm]
    along_z, along_y, along_x = (_spline(length, step) for length, step in zip(shape, spacing, strict=True))
    points = generator.standard_normal((along_z.shape[1], along_y.shape[1], along_x.shape[1]), dtype=np.float32)
    points *= np.float32(spec.elastic_amplitude)
    bent: Array = np.tensordot(along_z, along_y @ (points @ along_x.T), axes=(1, 0))
    return bent


@lru_cache(maxsize=64)
def _spline(length: int, spacing: float) -> Array:
    """Return weights (length, points) of a cubic B-spline, whose squares sum to 1, so that the variance stays 1."""
    position = np.arange(length) / spacing
    first = np.floor(position).astype(int)
    part = position - first
    weights = np.zeros((length, int(first[-1]) + 4), np.float64)
    pieces = ((1 - part) ** 3, 3 * part**3 - 6 * part**2 + 4, -3 * part**3 + 3 * part**2 + 3 * part + 1, part**3)
    for step, piece in enumerate(pieces):
        weights[np.arange(length), first + step] = piece / 6
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    rounded: Array = weights.astype(np.float32)
    return rounded


def _reflect(coordinate: Array, last: int) -> Array:
    """Return `coordinate` mirrored into 0..last, about the middles of the outermost voxels."""
    mirrored = last - np.abs(last - np.abs(coordinate))
    inside: Array = np.clip(mirrored, 0, last).astype(np.float32, copy=False)
    return inside


def _nearest(coordinates: list[Array], shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return the flat index of the voxel nearest to each coordinate, of `shape`."""
    z, y, x = (np.rint(coordinate).astype(np.int32) for coordinate in coordinates)
    index = (z * shape[1] + y) * shape[2] + x
    nearest: NDArray[np.intp] = np.broadcast_to(index, shape).astype(np.intp)
    return nearest


def _interpolate(image: Array, coordinates: list[Array]) -> Array:
    """Return the values of `image` (C, Z, Y, X) at coordinates along its last axes: (y, x), or (z, y, x)."""
    shape = image.shape[1:]
    lengths = shape[-len(coordinates) :]
    grid = np.empty((*shape, len(coordinates)), np.float32)
    for place, (coordinate, length) in enumerate(zip(reversed(coordinates), reversed(lengths), strict=True)):
        grid[..., place] = coordinate * np.float32(2 / max(length - 1, 1)) - np.float32(1)
    source = torch.from_numpy(image)
    # Of sections that stay where they are, each is a picture of its own.
    source = source[None] if len(coordinates) == 3 else source.transpose(0, 1)
    target = torch.from_numpy(grid)
    target = target[None] if len(coordinates) == 3 else target
    moved = functional.grid_sample(source, target, mode="bilinear", padding_mode="border", align_corners=True)
    moved = moved[0] if len(coordinates) == 3 else moved.transpose(0, 1)
    result: Array = moved.contiguous().numpy()
    return result
