"""What is recorded of a model: the line that its memory follows, and how far it sees."""

from __future__ import annotations

import math
from collections.abc import Callable

from connectomics_zoo.fit.memory import StepBytes, prediction_bytes, training_bytes
from connectomics_zoo.fit.receptive_field import measure_reach
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs.costs import Cost

EDGES = {3: (64, 128), 2: (512, 1024)}
"""By the number of axes, edges of the two patches, in voxels, or the next legal ones, that the line goes through."""


def cost_of(spec: ModelSpec) -> Cost:
    """Return what a model costs on a GPU with its own channels, and how far it sees; takes seconds."""
    precision = spec.training.precision
    training = _line(spec, lambda size: training_bytes(spec, size, batch=1, precision=precision, where="cuda"))
    prediction = _line(spec, lambda size: prediction_bytes(spec, size, batch=1, precision="32-true", where="cuda"))
    reach = measure_reach(spec)
    return Cost(precision, *training, *prediction, reach.field, reach.halo)


def _line(spec: ModelSpec, step: Callable[[tuple[int, ...]], StepBytes]) -> tuple[int, float]:
    """Return bytes that no size changes, and bytes a voxel."""
    sizes = [spec.input.size.round_up((edge,) * len(spec.input.axes)) for edge in EDGES[len(spec.input.axes)]]
    if sizes[0] == sizes[1]:  # the smallest one is larger than both
        wanted = zip(sizes[0], spec.training.patch_size, strict=True)
        sizes[1] = spec.input.size.round_up(tuple(max(edge + 1, patch) for edge, patch in wanted))
    small, large = (step(size) for size in sizes)
    if sizes[0] == sizes[1]:  # a network with one legal size
        return small.weights + small.program, round((small.kept + small.working) / math.prod(sizes[0]), 2)
    slope = (large.total - small.total) / (math.prod(sizes[1]) - math.prod(sizes[0]))
    return round(small.total - slope * math.prod(sizes[0])), round(slope, 2)
