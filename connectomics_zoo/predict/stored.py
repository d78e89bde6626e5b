"""What the volume that is written says of itself."""

from __future__ import annotations

from collections.abc import Sequence

from connectomics_zoo.network.device import Precision
from connectomics_zoo.predict.checks import DType, Output
from connectomics_zoo.predict.ensemble import Member
from connectomics_zoo.schema.experiment import PredictionSpec, RunSpec
from connectomics_zoo.schema.provenance import Decoding, Provenance, UsedWeights
from connectomics_zoo.volumes import Content, Placement, StoredPrediction
from connectomics_zoo.volumes.prediction import scale_of, this_program


def make_provenance(
    members: Sequence[Member], *, chosen: PredictionSpec, precision: Precision, output: Output
) -> Provenance:
    """Return how what is predicted comes to be.

    Args:
        members: the networks.
        chosen: window, overlap, views and merge.
        precision: of the network.
        output: what is written.
    """
    program, task = this_program(), members[0].spec.task
    labels = Decoding(task=task.name, decode=task.decode, program=program) if output == "label" else None
    weights, *others = map(_used_weights, members)
    return Provenance(
        program=program,
        weights=weights,
        others=tuple(others) or None,
        prediction=chosen,
        precision=precision,
        decoding=labels,
    )


def _used_weights(member: Member) -> UsedWeights:
    return UsedWeights(
        # A folder's name may be no text in any encoding.
        reference=member.trained.name.encode("utf-8", "backslashreplace").decode(),
        model=member.spec.model.reference,
        sha256=member.trained.sha256(),
    )


def make_stored(
    run: RunSpec, *, output: Output, dtype: DType, placement: Placement | None, provenance: Provenance
) -> StoredPrediction:
    """Return what the volume that is written says of itself.

    Args:
        run: what is predicted with.
        output: what is written.
        dtype: its data type.
        placement: where it lies in the volume that is predicted.
        provenance: how it comes to be.
    """
    if output == "label":
        # Of a single channel, a label is a yes, and there is nothing to be told apart.
        task = run.task if len(run.task.channels) > 1 else None
        return StoredPrediction("label", task, placement, None, provenance)
    # With tanh, or without an activation, the values are no probabilities; the file says by its task what they are.
    is_probability = all(channel.activation not in ("tanh", "none") for channel in run.task.channels)
    content: Content | None = "probability" if is_probability else None
    scale = scale_of(run.task) if dtype == "uint8" else None
    return StoredPrediction(content, run.task, placement, scale, provenance)
