"""The sliding window written the naive way, over the whole volume in memory, to compare the real one with."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import torch


def fake_forward(windows: torch.Tensor) -> torch.Tensor:
    """Two channels that depend on the whole window, as a norm per window does, and on the place in it."""
    mean = windows.mean(dim=(1, 2, 3, 4), keepdim=True)
    ramp = torch.linspace(0, 1, windows.shape[-1]) + torch.linspace(0, 2, windows.shape[-3])[:, None, None]
    first = windows[:, :1]
    return torch.cat([first - mean + 0.1 * ramp, first * mean], dim=1)


def naive(array, *, factors, window, overlap, forward=fake_forward):
    """The whole volume in memory: means by area, all windows, weighted sums in float64, interpolation."""
    array = array if array.ndim == 4 else array[None]
    small = np.stack([naive_network(channel, factors) for channel in array]).astype(np.float32)
    size = small.shape[1:]
    padded = np.pad(small, [(0, 0), *((0, max(0, w - s)) for w, s in zip(window, size, strict=True))], mode="reflect")
    starts = []
    for length, edge in zip(padded.shape[1:], window, strict=True):
        step = max(1, int(edge * (1 - overlap) + 1e-9))
        starts.append(sorted({*range(0, length - edge + 1, step), length - edge}))
    gauss = [np.exp(-0.5 * ((np.arange(w) - (w - 1) / 2) / (w / 8)) ** 2) for w in window]
    weight = gauss[0][:, None, None] * gauss[1][:, None] * gauss[2]
    total = np.zeros((2, *padded.shape[1:]))
    weights = np.zeros(padded.shape[1:])
    for z, y, x in itertools.product(*starts):
        part = (slice(z, z + window[0]), slice(y, y + window[1]), slice(x, x + window[2]))
        values = forward(torch.from_numpy(padded[(slice(None), *part)].copy()[None]))[0].numpy()
        total[(slice(None), *part)] += weight * values
        weights[part] += weight
    result = (total / weights)[(slice(None), *(slice(s) for s in size))]
    for axis, (factor, length) in enumerate(zip(factors, array.shape[1:], strict=True)):
        if factor < 1:
            result = naive_mean_along(result, axis + 1, 1 / Fraction(factor))[
                (slice(None),) * (axis + 1) + (slice(length),)
            ]
            continue
        factor = float(factor)
        centres = (np.arange(result.shape[axis + 1]) + 0.5) * factor - 0.5
        voxels = np.arange(length)
        result = np.apply_along_axis(lambda row, c=centres, v=voxels: np.interp(v, c, row), axis + 1, result)
    return result


def naive_network(array, ratios):
    """A volume in network voxels of any ratio: means by area along coarser axes, interpolation along finer ones."""
    array = array.astype(float)
    for axis, ratio in enumerate(ratios):
        if ratio >= 1:
            array = naive_mean_along(array, axis, Fraction(ratio))
        else:
            count = math.ceil(array.shape[axis] / ratio)
            positions = (np.arange(count) + 0.5) * float(ratio) - 0.5
            voxels = np.arange(array.shape[axis])
            array = np.apply_along_axis(lambda row, p=positions, v=voxels: np.interp(p, v, row), axis, array)
    return array


def parts_along(array, axis, ratio):
    """Every voxel cut into parts, and what each target has of them (axis, axis + 1): NaN where there is none."""
    parts = np.repeat(array.astype(float), ratio.denominator, axis=axis)
    missing = -parts.shape[axis] % ratio.numerator
    parts = np.pad(parts, [(0, missing if i == axis else 0) for i in range(parts.ndim)], constant_values=np.nan)
    return parts.reshape(*parts.shape[:axis], -1, ratio.numerator, *parts.shape[axis + 1 :])


def naive_mean_along(array, axis, ratio):
    return np.nanmean(parts_along(array, axis, ratio), axis=axis + 1)


def naive_means(array, factors):
    out = np.zeros([-(-size // factor) for size, factor in zip(array.shape, factors, strict=True)])
    for index in np.ndindex(out.shape):
        out[index] = array[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factors, strict=True))].mean()
    return out
