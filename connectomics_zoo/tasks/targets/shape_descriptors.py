"""Local shape descriptors: what an object looks like around each of its voxels.

Sheridan et al. 2023, "Local shape descriptors for neuron segmentation", Nature Methods 20; scaled as
github.com/funkelab/lsd does at 5333bde, with its Gaussian window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.tasks.targets.labels import each_object

TRUNCATE = 3.0
"""Half the width of the Gaussian window in sigmas; beyond, it is 0."""

SMALLEST_VARIANCE_NM2 = 1e-3
"""What is less counts as this, so that a flat object has correlations."""

Array = NDArray[np.float32]


def shape_descriptors(labels: NDArray[Any], *, sigma_nm: float, voxel_size_nm: tuple[float, ...]) -> dict[str, Array]:
    """Return the ten descriptors by their names in `TargetSpec.component`, each (Z, Y, X) in 0..1, 0 on background.

    At every voxel of an object, of the part of it in the window around that voxel: the offset to its mean position
    (0.5 for none, 0 and 1 for sigma), the variances of its positions over sigma², their correlations (0.5 for none),
    and its share of the window. What lies outside of the patch is not part of it.

    Args:
        labels: (Z, Y, X), 0 for background.
        sigma_nm: width of the window.
        voxel_size_nm: edge lengths (z, y, x) of a voxel.
    """
    results: dict[str, Array] = {}
    for box, inside in each_object(labels):
        for name, values in _describe(inside, sigma_nm=sigma_nm, voxel_size_nm=voxel_size_nm).items():
            result = results.setdefault(name, np.zeros(labels.shape, dtype=np.float32))
            result[box][inside] = values.clip(0, 1)
    return results


def _describe(
    inside: NDArray[np.bool_], *, sigma_nm: float, voxel_size_nm: tuple[float, ...]
) -> dict[str, NDArray[np.float64]]:
    """The descriptors of an object in its box, at its voxels alone, in order."""
    windows = [_windows(sigma_nm, edge, length) for edge, length in zip(voxel_size_nm, inside.shape, strict=True)]
    moments = _moments(inside, windows)
    size = moments[0, 0, 0]
    result = {"size": size}
    units = {"z": (1, 0, 0), "y": (0, 1, 0), "x": (0, 0, 1)}
    means = {axis: moments[unit] / size for axis, unit in units.items()}
    variances = {}
    for axis, unit in units.items():
        twice = (2 * unit[0], 2 * unit[1], 2 * unit[2])
        variances[axis] = (moments[twice] / size - means[axis] ** 2).clip(SMALLEST_VARIANCE_NM2)
        result[f"offset_{axis}"] = means[axis] / sigma_nm * 0.5 + 0.5
        result[f"variance_{axis}"] = variances[axis] / sigma_nm**2
    for one, other in ("zy", "zx", "yx"):
        first, second = units[one], units[other]
        both = (first[0] + second[0], first[1] + second[1], first[2] + second[2])
        covariance = moments[both] / size - means[one] * means[other]
        result[f"pearson_{one}{other}"] = covariance / np.sqrt(variances[one] * variances[other]) * 0.5 + 0.5
    return result


def _windows(sigma_nm: float, edge_nm: float, length: int) -> Array:
    """The window along an axis, times the offset in it to the power of 0, 1 and 2: (3, to voxel, from voxel).

    As matrices, by which an object is several times faster multiplied than it is filtered.
    """
    radius = int(TRUNCATE * sigma_nm / edge_nm + 0.5)
    total = np.exp(-0.5 * (np.arange(-radius, radius + 1) * edge_nm / sigma_nm) ** 2).sum()
    steps = np.arange(length) - np.arange(length)[:, np.newaxis]
    offset = steps * edge_nm
    weights = np.where(abs(steps) <= radius, np.exp(-0.5 * (offset / sigma_nm) ** 2) / total, 0)
    return np.stack([weights, weights * offset, weights * offset**2]).astype(np.float32)


def _moments(inside: NDArray[np.bool_], windows: list[Array]) -> dict[tuple[int, int, int], NDArray[np.float64]]:
    """Weighted sums over the object of the offsets (z, y, x) from each of its voxels, by the powers of those.

    About the voxel itself, not about the corner of the patch: nothing cancels, and the window is a product.
    """
    moments = {}
    sections = inside.reshape(len(inside), -1).astype(np.float32)
    for z in range(3):
        along_z = (windows[0][z] @ sections).reshape(inside.shape)
        for y in range(3 - z):
            along_y = windows[1][y] @ along_z
            for x in range(3 - z - y):
                along_x = along_y @ windows[2][x].T
                moments[z, y, x] = along_x[inside].astype(np.float64)
    return moments
