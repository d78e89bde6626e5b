"""Grows what a phantom consists of: neurites, and organelles inside of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from connectomics_zoo.phantom.grid import Floats, Grid, Integers, smooth_noise

MEMBRANE_NM = 26.0  # both leaflets and the cleft
_NEURITE_SPACING_NM = 380.0
_NEURITE_STEP_NM = 120.0
_ATTEMPTS = 20_000


@dataclass(frozen=True)
class Organelles:
    """Bodies inside of cells; `surface_nm` is negative inside, 0 on the surface, and capped far away."""

    labels: Integers
    surface_nm: Floats
    along_nm: Floats
    """Position along the axis of the body, for cristae."""


def grow_cells(rng: np.random.Generator, *, grid: Grid) -> Integers:
    """Return a label from 1 up for each voxel: a warped power diagram of bent chains of balls."""
    extent = np.array(grid.shape) * np.array(grid.spacing_nm)
    counts = [math.ceil(length / _NEURITE_SPACING_NM) + 2 for length in extent]
    lattice = np.stack(np.meshgrid(*(np.arange(count) for count in counts), indexing="ij"), -1).reshape(-1, 3)
    starts = (lattice - 0.5 + rng.uniform(-0.45, 0.45, lattice.shape)) * _NEURITE_SPACING_NM
    balls, owners = [], []
    for owner, start in enumerate(starts, start=1):
        heading = _unit(rng.standard_normal(3))
        radius = rng.uniform(40, 120) if rng.random() < 0.6 else rng.uniform(200, 360)
        point = start
        for _ in range(rng.integers(2, 9)):
            balls.append((*point, radius))
            owners.append(owner)
            heading = _unit(heading + 0.45 * rng.standard_normal(3))
            point = point + _NEURITE_STEP_NM * heading
    sites = np.array(balls)
    # The power |x - p|^2 - r^2 is, up to a constant, a squared distance in four dimensions.
    sites[:, 3] = np.sqrt(sites[:, 3].max() ** 2 - sites[:, 3] ** 2)
    tree, owner_of = cKDTree(sites), np.array(owners, dtype=np.int32)
    warp = [70.0 * smooth_noise(rng, grid=grid, scale_nm=170.0) for _ in range(3)]
    cells = np.empty(grid.shape, dtype=np.int32)
    rows, columns = (np.arange(size) * step for size, step in zip(grid.shape[1:], grid.spacing_nm[1:], strict=True))
    for plane in range(grid.shape[0]):  # plane by plane, to hold few coordinates at a time
        at = np.zeros((*grid.shape[1:], 4), dtype=np.float32)
        at[..., 0] = plane * grid.spacing_nm[0] + warp[0][plane]
        at[..., 1] = rows[:, None] + warp[1][plane]
        at[..., 2] = columns[None, :] + warp[2][plane]
        cells[plane] = owner_of[tree.query(at)[1]]
    return cells


def _unit(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(vector / np.linalg.norm(vector))


def distance_to_membrane(cells: Integers, *, grid: Grid) -> Floats:
    """Return the distance in nm of each voxel to the nearest face between two cells."""
    touches = np.zeros(cells.shape, dtype=bool)
    for axis in range(3):
        ahead = np.diff(cells, axis=axis) != 0
        before, after = [slice(None)] * 3, [slice(None)] * 3
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        touches[tuple(before)] |= ahead
        touches[tuple(after)] |= ahead
    if not touches.any():
        return np.full(cells.shape, 1e4, dtype=np.float32)
    distance = ndimage.distance_transform_edt(~touches, sampling=grid.spacing_nm)
    return np.asarray(distance + min(grid.spacing_nm[1:]) / 2, dtype=np.float32)


def label_half_width(grid: Grid) -> float:
    """Distance in nm up to which voxels are labelled membrane; at least the two voxels at each face."""
    return max(MEMBRANE_NM / 2, 0.51 * max(grid.spacing_nm[1:]))


def _margin(grid: Grid) -> float:
    """Distance in nm that organelles keep from faces, so that not even their rim is labelled membrane."""
    return max(22.0, label_half_width(grid) + max(grid.spacing_nm))


def grow_organelles(
    rng: np.random.Generator,
    *,
    grid: Grid,
    depth: Floats,
    fraction: float,
    radii: tuple[float, float],
    length: float,
) -> Organelles:
    """Grow bent tubes inside of cells until they fill `fraction` of the volume; `depth` shrinks around them.

    Each is a chain of balls that stay clear of every membrane, of the cell's or of another organelle.
    """
    result = Organelles(
        labels=np.zeros(grid.shape, np.int32),
        surface_nm=np.full(grid.shape, 60.0, np.float32),
        along_nm=np.zeros(grid.shape, np.float32),
    )
    candidates = np.flatnonzero(depth > 0.7 * radii[0] + _margin(grid))
    wanted = fraction * depth.size
    filled = number = attempts = 0
    while filled < wanted and attempts < _ATTEMPTS and candidates.size:
        attempts += 1
        voxel = np.unravel_index(rng.choice(candidates), grid.shape)
        start = np.array(voxel) * np.array(grid.spacing_nm)
        size, extent = rng.uniform(*radii), length * rng.uniform(0.3, 1.6)
        chain = _grow_chain(rng, grid=grid, depth=depth, start=start, radius=size, length=extent)
        if chain is not None:
            number += 1
            room = min(wanted - filled, wanted / 4)  # even a small volume gets several
            filled += _paint_chain(rng, chain, grid=grid, depth=depth, into=result, label=number, room=room)
    return result


def _grow_chain(
    rng: np.random.Generator,
    *,
    grid: Grid,
    depth: Floats,
    start: npt.NDArray[np.float64],
    radius: float,
    length: float,
) -> npt.NDArray[np.float64] | None:
    """Return balls (z, y, x, radius, position along the chain), or None if not even the first has room."""

    margin = _margin(grid)

    def room(point: npt.NDArray[np.float64]) -> float:
        index = tuple(np.round(point / grid.spacing_nm).astype(int))
        inside = all(0 <= value < size for value, size in zip(index, grid.shape, strict=True))
        return float(depth[index]) - margin if inside else -1.0

    first = min(radius, room(start))
    if first < 0.6 * radius:
        return None
    heading = _unit(rng.standard_normal(3))
    balls = [np.array([*start, first, 0.0])]
    for sign in (1.0, -1.0):
        point, direction, size, along = start, sign * heading, first, 0.0
        while abs(along) < length / 2:
            step = 0.35 * size
            # Of several ways ahead the roomiest is taken, so that the tube follows its neurite.
            ways = [_unit(direction + 0.35 * rng.standard_normal(3)) for _ in range(8)]
            rooms = [room(point + step * way) for way in ways]
            best = int(np.argmax(rooms))
            size = min(0.8 * size + 0.2 * radius, rooms[best])
            if size < 0.6 * radius:
                break
            point, direction = point + step * ways[best], ways[best]
            along += sign * step
            balls.append(np.array([*point, size, along]))
    return np.array(sorted(balls, key=lambda ball: ball[4]))


def _paint_chain(
    rng: np.random.Generator,
    chain: npt.NDArray[np.float64],
    *,
    grid: Grid,
    depth: Floats,
    into: Organelles,
    label: int,
    room: float,
) -> int:
    """Paint balls while there is `room` (voxels), lower `depth` around them, and return how many voxels that took."""
    spacing = np.array(grid.spacing_nm)
    reach = chain[:, 3:4].max() + 150.0
    low = np.maximum(np.floor((chain[:, :3] - reach).min(0) / spacing), 0).astype(int)
    high = np.minimum(np.ceil((chain[:, :3] + reach).max(0) / spacing) + 1, grid.shape).astype(int)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    axes = np.ogrid[box]
    where = [(axis * step).astype(np.float32) for axis, step in zip(axes, grid.spacing_nm, strict=True)]
    surface = np.full([part.stop - part.start for part in box], reach, np.float32)
    along = np.zeros_like(surface)
    tangents = np.gradient(chain[:, :3], axis=0) if len(chain) > 1 else np.array([[1.0, 0.0, 0.0]])
    tilt = 0.7 * rng.standard_normal(3)
    for (z, y, x, radius, position), tangent in zip(chain, tangents, strict=True):
        offset = (where[0] - z, where[1] - y, where[2] - x)
        distance = np.sqrt(offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2) - np.float32(radius)
        nearer = distance < surface
        surface = np.where(nearer, distance, surface)
        axis = _unit(_unit(tangent + 1e-9) + tilt)
        ahead = np.float32(position) + sum(np.float32(a) * o for a, o in zip(axis, offset, strict=True))
        along = np.where(nearer, ahead, along)
        if np.count_nonzero(surface < 0) >= room:
            break
    inside = surface < 0
    into.labels[box][inside] = label
    closer = surface < into.surface_nm[box]
    into.surface_nm[box][closer] = surface[closer]
    into.along_nm[box][closer] = along[closer]
    np.minimum(depth[box], surface, out=depth[box])
    return int(np.count_nonzero(inside))
