"""The second output of a prediction: the spread, with a job's folder of its own beside it while it is unfinished.

The job of the prediction says which blocks are done of both. The spread appears first and the prediction last, so that
where the prediction is, both are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.blocks.job import Cut, JobDescription, is_same, refuse_another
from connectomics_zoo.blocks.output import BlockOutput
from connectomics_zoo.errors import OutputError, ZooError
from connectomics_zoo.predict.job import Prediction
from connectomics_zoo.predict.request import absolute
from connectomics_zoo.volumes import StoredPrediction, open_volume
from connectomics_zoo.volumes.prediction import PROBABILITY


def outputs_of(prediction: Prediction, cutting: Cut, *, overwrite: bool) -> list[BlockOutput]:
    """Return where the blocks are written: the output, and the one of the spread where that is asked for.

    Raises:
        OutputError: an output is not possible there.
    """
    outputs = [prediction.output(cutting, overwrite=overwrite)]
    location = prediction.request.spread
    if location is not None:
        # What was finished before the process was killed is no other's.
        is_own = overwrite or _is_finished(prediction, location)
        outputs.append(prediction.output(cutting, overwrite=is_own, location=location))
    return outputs


def stored_of(prediction: Prediction) -> list[StoredPrediction]:
    """Return what the outputs say of themselves."""
    stored = prediction.stored()
    if prediction.request.spread is None:
        return [stored]
    assert stored.provenance is not None
    count = len(prediction.spec.task.channels)
    spread = StoredPrediction(
        placement=stored.placement,
        scale=(PROBABILITY,) * count if prediction.request.dtype == "uint8" else None,
        provenance=stored.provenance.model_copy(update={"quantity": "spread"}),
    )
    return [stored, spread]


def values_to_store(prediction: Prediction, values: NDArray[np.float32]) -> list[NDArray[Any]]:
    """Return what `forward` gave (C, Z, Y, X) as it is written to each output."""
    count = len(prediction.spec.task.channels)
    stored = [prediction.to_store(values[:count])]
    if prediction.request.spread is not None:
        spread, dtype = values[count:], np.dtype(prediction.request.dtype)
        stored.append(
            np.rint(np.clip(255 * spread, 0, 255)).astype(dtype) if dtype == np.uint8 else spread.astype(dtype)
        )
    return stored


def begin_spread(prediction: Prediction, outputs: list[BlockOutput], *, overwrite: bool) -> None:
    """Begin the output of the spread, where there is one.

    Raises:
        OutputError: it cannot be written, or is the unfinished output of another job.
    """
    for spread in outputs[1:]:
        there, asked = spread.job.describe(), _describe(prediction, spread)
        if there is not None and not overwrite:
            refuse_another(there, asked, location=spread.location)
        spread.job.clear()
        spread.create(stored_of(prediction)[1])
        spread.job.begin(asked)


def refuse_lost_spread(prediction: Prediction, outputs: list[BlockOutput]) -> None:
    """Refuse to go on where what is done of the spread is gone, or is another job's by now.

    Raises:
        OutputError: it is.
    """
    for spread in outputs[1:]:
        there = spread.job.describe()
        is_there = there is not None and is_same(there, _describe(prediction, spread))
        if not is_there and not _is_finished(prediction, spread.location):
            raise OutputError(
                f"{spread.location}: what was done of the spread is not there, give the place that it was begun at, or "
                "begin anew with --overwrite."
            )


def finish_spread(prediction: Prediction, outputs: list[BlockOutput]) -> None:
    """Let the output of the spread appear, where there is one.

    Raises:
        OutputError: see `BlockOutput.finish`.
    """
    for spread in outputs[1:]:
        spread.finish(stored_of(prediction)[1])


def is_spread_finished(prediction: Prediction) -> bool:
    """Whether the output of the spread is there, as this prediction would make it, or none is asked for."""
    location = prediction.request.spread
    return location is None or _is_finished(prediction, location)


def _describe(prediction: Prediction, spread: BlockOutput) -> JobDescription:
    description = prediction.describe(spread.cut)
    identity = {**description.identity, "spread of": absolute(prediction.request.out)}
    return description.model_copy(update={"identity": identity})


def _is_finished(prediction: Prediction, location: str) -> bool:
    try:
        with open_volume(location) as found:
            return (found.shape, found.stored()) == (prediction.geometry.box.shape, stored_of(prediction)[1])
    except ZooError:
        return False
