"""Measures what is given away, from the very files: numbers for the card, scores again, and a picture."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from connectomics_zoo.errors import VolumeError, ZooError
from connectomics_zoo.network.build import count_parameters, fingerprint, probe_network, probe_shape
from connectomics_zoo.pictures.comparison import draw_comparison
from connectomics_zoo.predict import predict
from connectomics_zoo.push.folder import PICTURE_FILE
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.model import ParameterCounts, Probe
from connectomics_zoo.schema.progress import silent
from connectomics_zoo.tasks.targets import make_targets
from connectomics_zoo.train.run import score_validation
from connectomics_zoo.verify.run import score_objects
from connectomics_zoo.volumes import open_volume
from connectomics_zoo.volumes.box import region_box
from connectomics_zoo.volumes.pair_reader import PairReader
from connectomics_zoo.volumes.values import read_prediction
from connectomics_zoo.weights.load import load

MOST_PIXELS = 1024
"""Voxels of a section that are predicted and drawn along each axis: the middle ones."""

SECTIONS = 2
PICTURE_WIDTH = 1600
"""Pixels of the picture, which a browser loads."""

Notify = Callable[[str], None]
"""Is told what is being done, or could not be."""


@dataclass(frozen=True)
class Measured:
    """What was measured of the files that are given away."""

    parameters: ParameterCounts
    """Parameters of the network, with and without the deep-supervision heads."""
    fingerprint: str
    """Digest over keys, shapes and types of its state dict."""
    probe: Probe
    """What it computes with these weights for the name-seeded input."""
    scores: dict[str, float]
    """The task's metrics once more, and those of its objects, on the validation data; empty where that is not at
    hand."""
    has_picture: bool
    """Whether there is a picture of a prediction beside the truth."""


def measure_numbers(folder: Path, run: RunSpec) -> tuple[ParameterCounts, str, Probe]:
    """Return parameters, fingerprint and probe of the network whose files lie in `folder`."""
    network = load(folder)
    probe = probe_network(network, run.model, probe_shape(run.model))
    single = load(folder, deep_supervision=False) if len(run.model.outputs) > 1 else network
    counts = ParameterCounts(training=count_parameters(network), inference=count_parameters(single))
    return counts, fingerprint(network), probe


def measure_package(folder: Path, run: RunSpec, *, pictures: bool, notify: Notify) -> Measured:
    """Measure the files in `folder`, and draw the picture into it.

    Args:
        folder: a run folder without places of this machine.
        run: the spec of that run with them.
        pictures: draw a picture, which shows the data.
        notify: is told what could not be measured.
    """
    parameters, digest, probe = measure_numbers(folder, run)
    scores: dict[str, float] = {}
    has_picture = False
    with _readers(run, notify) as readers:
        if readers:
            notify(f"scoring again on {', '.join(pair.image for pair in run.data.validation)}")
            scores = score_validation(folder, run) | measure_objects(folder, run, notify=notify)
        if readers and pictures:
            _draw(folder, run, readers[0])
            has_picture = True
    return Measured(parameters, digest, probe, scores, has_picture)


def measure_objects(folder: Path, run: RunSpec, *, notify: Notify) -> dict[str, float]:
    """Return the scores of the objects that the files in `folder` give, empty where there are none.

    Args:
        folder: a run folder without places of this machine.
        run: the spec of that run with them.
        notify: is told what is measured, and what could not be.
    """
    if not run.task.decode.is_instances or not run.data.validation:
        return {}
    notify(f"scoring objects on {', '.join(pair.image for pair in run.data.validation)}")
    try:
        return score_objects(folder, run)
    except ZooError as error:
        notify(f"the scores of objects were not measured: {error}")
        return {}


@contextmanager
def _readers(run: RunSpec, notify: Notify) -> Iterator[list[PairReader]]:
    """Open the validation volumes; give none if one is not at hand, and tell so."""
    readers: list[PairReader] = []
    try:
        try:
            readers = [PairReader(pair, run.data) for pair in run.data.validation]
        except VolumeError as error:
            notify(f"no score was measured again and no picture was made: the validation data is not at hand ({error})")
        if not run.data.validation:
            notify("no score was measured and no picture was made: the run has no validation data")
        yield readers
    finally:
        for reader in readers:
            reader.close()


def _draw(folder: Path, run: RunSpec, reader: PairReader) -> None:
    """Draw image, truth, prediction and errors of the middle of the first validation region."""
    image = reader.image
    # As deep as a window.
    part = region_box(reader.pair.region, shape=image.shape, location=image.location)
    depth = math.ceil(run.window[0] * reader.grid.ratios[0])
    box = (part if reader.regions is None else reader.regions[0]).middle((depth, MOST_PIXELS, MOST_PIXELS))
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "prediction.h5"
        predict(folder, image.location, place, region=str(box), dtype="float32", progress=silent)
        with open_volume(place) as volume:
            values = read_prediction(volume, volume.whole, task=run.task)
    channel = _drawn_channel(run)
    if run.task.decode.method == "argmax":
        shown = (values.argmax(axis=0) == channel).astype(np.float32)
    else:
        shown = values[channel]
    labels, annotated = reader.read_volume_truth(box)
    targets = make_targets(
        labels,
        task=run.task,
        voxel_size_nm=image.voxel_size_nm,
        annotated=annotated,
        volumes=tuple(reader.labels),
        classes=reader.pair.annotated,
    )
    known = targets.known[channel]
    grey = image.read(box)
    rows = _drawn_rows(known)
    draw_comparison(
        folder / PICTURE_FILE,
        raw=(grey if grey.ndim == 3 else grey[0])[rows],
        truth=targets.values[channel][rows],
        known=known[rows],
        prediction=shown[rows],
        threshold=run.task.decode.cut,
        voxel_size_nm=image.voxel_size_nm,
        section_names=[f"z = {box.start[0] + row}" for row in rows],
        title=f"{run.task.channels[channel].name}, on validation data",
    )
    _shrink(folder / PICTURE_FILE)


def _drawn_rows(known: NDArray[np.bool_]) -> list[int]:
    """Return evenly spaced sections of those of which something is known (Z, Y, X), or of all where there is none."""
    sections = np.flatnonzero(known.any(axis=(1, 2))) if known.any() else np.arange(len(known))
    count = min(SECTIONS, len(sections))
    return [int(sections[int((index + 0.5) * len(sections) / SECTIONS)]) for index in range(count)]


def _drawn_channel(run: RunSpec) -> int:
    """Return the first channel that is scored and was trained, or the first one."""
    return next((index for index in run.task.scored if run.task.channels[index].losses), 0)


def _shrink(path: Path) -> None:
    """Make the picture small enough for a web page: fewer pixels, 256 colours, of which none is lost to the greys."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    if small.width > PICTURE_WIDTH:
        height = round(small.height * PICTURE_WIDTH / small.width)
        small = small.resize((PICTURE_WIDTH, height), Image.Resampling.LANCZOS)
    small.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
