"""Whether uint8 that does not say what it holds can be probabilities."""

from __future__ import annotations

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes import Box, Volume
from connectomics_zoo.volumes.label_look import LabelLook

_SECTIONS = 32
"""That are looked at at a time."""

_LOOK = (256, 1024, 1024)
"""Voxels (z, y, x) in the middle of a volume that are looked at, at most: it may be larger than the memory."""


def refuse_label_bytes(predicted: Volume, box: Box) -> None:
    """Refuse uint8 that looks like labels, or may be such, where the file does not say that it is a prediction.

    Raises:
        VolumeError: naming the option with which it is taken for probabilities.
    """
    stored = predicted.stored()
    if (
        predicted.dtype != "uint8"
        or predicted.content is not None
        or stored.task is not None
        or stored.scale is not None
    ):
        return
    look = LabelLook()
    box = box.middle(_LOOK)
    (first, stop), *_ = box.ranges
    for start in range(first, stop, _SECTIONS):
        look.add(predicted.read(box.replace(z=(start, min(start + _SECTIONS, stop)))))
    if not any(look.values) or look.bytes_hold() == "probability":
        return
    raise VolumeError(
        f"{predicted.location}: holds uint8 up to {max(look.values)} with hard edges, as labels have, and objects are "
        "made of probabilities (255 for 1): give a prediction, or if this is one, say threshold=0.5."
    )
