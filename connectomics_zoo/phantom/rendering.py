"""Renders a phantom's structure the way an electron microscope shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from connectomics_zoo.phantom.grid import Floats, Grid, Integers, smooth_noise
from connectomics_zoo.phantom.structure import Organelles


def render(
    rng: np.random.Generator,
    *,
    grid: Grid,
    cells: Integers,
    depth: Floats,
    mitochondria: Organelles,
    bodies: Organelles,
) -> Floats:
    """Return the specimen's brightness, about 0.1 (membranes) to 0.8 (lumen), on the fine grid."""
    scene = _render_cytoplasm(rng, grid=grid, cells=cells, depth=depth)
    density = np.clip(0.45 + 0.08 * smooth_noise(rng, grid=grid, scale_nm=240.0), 0.25, 0.6)
    # Postsynaptic densities and the like: here and there a membrane is thicker.
    width = 8.0 + 7.0 * (smooth_noise(rng, grid=grid, scale_nm=160.0) > 1.5)
    scene -= density * np.exp(-((depth / width) ** 2))
    _render_mitochondria(rng, scene, grid=grid, mitochondria=mitochondria)
    inside = bodies.labels > 0
    scene[inside] = 0.4 + 0.06 * smooth_noise(rng, grid=grid, scale_nm=30.0)[inside]
    scene -= 0.22 * np.exp(-((bodies.surface_nm / 7.0) ** 2))
    return scene


def _render_cytoplasm(rng: np.random.Generator, *, grid: Grid, cells: Integers, depth: Floats) -> Floats:
    tones = np.clip(rng.normal(0.66, 0.045, cells.max() + 1), 0.5, 0.78).astype(np.float32)
    scene = tones[cells] + np.float32(0.03) * smooth_noise(rng, grid=grid, scale_nm=110.0)
    scene += np.float32(0.04) * smooth_noise(rng, grid=grid, scale_nm=28.0)
    # Ribosomes: dark dots everywhere, denser in patches. Vesicles: dark rings, in clusters, side by side.
    patches = np.clip(0.5 + 0.4 * smooth_noise(rng, grid=grid, scale_nm=260.0), 0.1, 1.0)
    _stamp(rng, scene, grid=grid, where=patches, spacing_nm=48.0, radius_nm=0.0, width_nm=7.0, darkness=0.2)
    clusters = (smooth_noise(rng, grid=grid, scale_nm=230.0) > 0.8) & (depth > 35.0)
    _stamp(rng, scene, grid=grid, where=clusters, spacing_nm=58.0, radius_nm=17.0, width_nm=6.0, darkness=0.3)
    # Endoplasmic reticulum: dark sheets, the zero level of smooth noise, in parts of the cells.
    sheets = np.exp(-((smooth_noise(rng, grid=grid, scale_nm=120.0) / 0.1) ** 2))
    scene -= 0.2 * sheets * np.clip(smooth_noise(rng, grid=grid, scale_nm=300.0) - 0.5, 0, 1)
    return np.asarray(scene, dtype=np.float32)


def _stamp(
    rng: np.random.Generator,
    scene: Floats,
    *,
    grid: Grid,
    where: npt.NDArray[Any],
    spacing_nm: float,
    radius_nm: float,
    width_nm: float,
    darkness: float,
) -> None:
    """Draw dark shells around the points of a jittered lattice, with the probability `where` at each point."""
    spacing, size = np.array(grid.spacing_nm), np.array(grid.shape)
    knots = np.indices(np.ceil(size * spacing / spacing_nm).astype(int)).reshape(3, -1).T
    centres = (knots + rng.uniform(0.2, 0.8, knots.shape)) * spacing_nm / spacing
    nearest = np.minimum(centres.astype(int), size - 1)
    centres = centres[rng.random(len(centres)) < where[tuple(nearest.T)]]
    reach = np.ceil((radius_nm + 2 * width_nm) / spacing).astype(int)
    for offset in np.ndindex(*(2 * reach + 1)):
        voxels = np.round(centres).astype(int) + offset - reach
        distance = np.linalg.norm((voxels - centres) * spacing, axis=1)
        inside = ((voxels >= 0) & (voxels < size)).all(axis=1)
        shade = darkness * np.exp(-(((distance - radius_nm) / width_nm) ** 2))
        scene[tuple(voxels[inside].T)] -= shade[inside].astype(np.float32)


def _render_mitochondria(rng: np.random.Generator, scene: Floats, *, grid: Grid, mitochondria: Organelles) -> None:
    """Draw matrix, cristae and the dark outer membrane into `scene`."""
    count = mitochondria.labels.max() + 1
    inside = mitochondria.labels > 0
    label, surface = mitochondria.labels[inside], mitochondria.surface_nm[inside]
    matrix = rng.normal(0.5, 0.04, count).astype(np.float32)[label]
    period = rng.uniform(38.0, 52.0, count).astype(np.float32)[label]
    bent = mitochondria.along_nm[inside] + 13.0 * smooth_noise(rng, grid=grid, scale_nm=70.0)[inside]
    waves = np.cos(2 * np.pi * bent / period)
    strength = np.clip(0.75 + 0.5 * smooth_noise(rng, grid=grid, scale_nm=90.0)[inside], 0.1, 1.3)
    fade = np.clip(-surface / 15.0, 0, 1)
    grain = 0.03 * smooth_noise(rng, grid=grid, scale_nm=26.0)[inside]
    scene[inside] = matrix + grain + strength * fade * (0.07 - 0.3 * np.clip(waves, 0, 1) ** 2)
    scene -= 0.3 * np.exp(-((mitochondria.surface_nm / 8.0) ** 2))


def acquire(rng: np.random.Generator, *, scene: Floats, grid: Grid) -> npt.NDArray[np.uint8]:
    """Cut `scene` into sections and take their picture: thickness, blur, shot noise, uneven brightness."""
    sections = scene.reshape(-1, grid.cuts, *grid.shape[1:]).mean(axis=1)
    sections = ndimage.gaussian_filter(sections, (0.0 if grid.cuts > 1 else 0.5, 0.6, 0.6))
    dose = 190.0
    counts = rng.poisson(dose * np.clip(sections, 0.02, None)).astype(np.float32) / dose
    counts = ndimage.gaussian_filter(counts, (0.0, 0.5, 0.5))
    counts += np.float32(0.02) * rng.standard_normal(counts.shape, dtype=np.float32)
    if grid.cuts > 1:
        gains = 1 + 0.05 * rng.standard_normal((len(counts), 1, 1))
        counts = counts * gains + 0.02 * rng.standard_normal((len(counts), 1, 1))
    return np.asarray(np.clip(np.round(265 * counts), 0, 255), dtype=np.uint8)
