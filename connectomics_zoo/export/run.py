"""`export`: a network to a file or folder in the format of another program, compared with torch's before it appears."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from connectomics_zoo.errors import InputSizeError, ZooError
from connectomics_zoo.export.check import TOLERANCE, Comparison
from connectomics_zoo.export.exported import Activation, Exported, fixed_sizes, is_dynamic
from connectomics_zoo.export.formats import FORMATS, NetworkWriter, check_name, names_of, network_writer
from connectomics_zoo.export.source import activated, find_source
from connectomics_zoo.export.tries import write_compared
from connectomics_zoo.files.atomic import PartialOutput, check_place, refuse_existing
from connectomics_zoo.schema.model import ModelSpec, SizeRule
from connectomics_zoo.schema.report import Report
from connectomics_zoo.specs.exports import Outcome


@dataclass(frozen=True)
class ExportReport(Report):
    """What was exported, what it takes, and how far it is from torch."""

    reference: str
    """The reference."""
    out: str
    """The file or folder."""
    format: str
    """Its format."""
    size_bytes: int
    """Bytes of all files."""
    dynamic: bool
    """Whether it takes several spatial sizes."""
    sizes: str
    """Those, such as `16 + n*16, 32 + n*16, 32 + n*16`."""
    any_batch: bool
    """Whether it takes batches of any size, else of one."""
    activation: Activation
    """`none` where it returns logits, `task` where it returns the values of the task's channels."""
    tolerance: float
    """How far it may be from torch, as a fraction of the largest absolute value that torch computes."""
    compared: tuple[Comparison, ...]
    """Each input that it was compared at."""
    provenance: dict[str, str]
    """What its metadata say."""
    notes: tuple[str, ...] = ()
    """What it cannot do that was asked for."""


def export_network(
    ref: str | Path,
    output: str | Path,
    *,
    format: str,
    size: Sequence[int] | None = None,
    activation: Activation = "none",
) -> ExportReport:
    """Export the network of a reference; the output appears whole, compared with torch, or not at all.

    Args:
        ref: `name` or `name@1.0.0` (initial weights), `name.tag`, `hf://org/repo@revision`, a YAML file or a folder.
        output: the file, or the folder where the format has several files; nothing may be there.
        format: a name in `formats.FORMATS`.
        size: take this spatial size (z, y, x) alone; by default every legal size, as far as the format can.
        activation: `none` for logits, `task` for the values of the task's channels.

    Raises:
        UnknownNameError: there is no such model or format.
        MissingPackageError: a package that the format needs is not installed.
        InputSizeError: the network does not accept the size.
        SpecError: there is no task to take activations from.
        OutputError: something is there, or it cannot be written.
        NotExportableError: the format cannot have the network.
        CheckFailedError: what was written computes something else than torch.
    """
    writer, place = network_writer(format), Path(output)
    check_name(format, place)
    refuse_existing(place)
    check_place(place, overwrite=False)
    exported = replace(_prepared(ref, size=size, activation=activation), suffix=place.suffix.lower())
    partial = PartialOutput(place, overwrite=False)
    with partial.writing():
        made, compared = write_compared(writer, exported, partial.path, name=format)
        size_bytes = _bytes_of(partial.path)
    return ExportReport(
        reference=str(ref),
        out=str(place),
        format=format,
        size_bytes=size_bytes,
        dynamic=is_dynamic(made.sizes),
        sizes=made.sizes.describe(),
        any_batch=made.any_batch,
        activation=activation,
        tolerance=TOLERANCE,
        compared=compared,
        provenance=dict(made.provenance),
        notes=tuple(_notes(made, exported.sizes)),
    )


def try_formats(spec: Path, known: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """Return how exporting the model of a spec goes in each format that takes initial weights; nothing is kept.

    Where a format cannot have several sizes, the smallest legal one is tried.

    Args:
        spec: its file.
        known: by format, what was found before and is not tried again.

    Raises:
        MissingPackageError: a package that a format needs is not installed.
        SpecError: the spec cannot be read.
    """
    names = [name for name in names_of("network") if not FORMATS[name].trained_only]
    writers = {name: network_writer(name) for name in names if name not in known}
    outcomes = dict(known)
    if writers:
        exported = _prepared(spec, size=None, activation="none")
        exported = replace(exported, reference=exported.spec.name, usual_size=exported.spec.input.size.minimum)
        outcomes |= {name: _try_format(writer, exported, name=name) for name, writer in writers.items()}
    return {name: outcomes[name] for name in names}


def _try_format(writer: NetworkWriter, exported: Exported, *, name: str) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="zoo-export-") as folder:
        place = Path(folder) / f"{exported.spec.name}{FORMATS[name].suffix or ''}"
        try:
            made, compared = write_compared(writer, exported, place, name=name)
        except ZooError as error:
            return Outcome(reason=str(error))
    return Outcome(
        sizes=made.sizes.describe(),
        every_size=made.sizes == exported.sizes,
        dynamic=is_dynamic(made.sizes),
        any_batch=made.any_batch,
        difference=float(f"{max(one.difference / one.largest for one in compared):.1g}"),
    )


def _prepared(ref: str | Path, *, size: Sequence[int] | None, activation: Activation) -> Exported:
    """Return the network of a reference as it is to be written, for every size that is asked for."""
    source = find_source(ref)
    return Exported(
        reference=str(ref),
        network=activated(source, activation, name=str(ref)),
        spec=source.spec,
        sizes=source.spec.input.size if size is None else _legal(source.spec, tuple(size)),
        any_batch=True,
        activation=activation,
        provenance={},
        usual_size=source.spec.training.patch_size if source.run is None else source.run.window,
        trained=source.trained,
        run=source.run,
        task=source.task,
    )


def _legal(spec: ModelSpec, size: tuple[int, ...]) -> SizeRule:
    """Return the rule of one size, which must be legal."""
    rule = spec.input.size
    if not rule.allows(size):
        nearest = "" if len(size) != len(rule.minimum) else f", such as {', '.join(map(str, rule.round_up(size)))}"
        raise InputSizeError(
            f"{spec.name} does not accept the spatial size {', '.join(map(str, size))}, legal are {rule.describe()} "
            f"voxels along {', '.join(spec.input.axes)}{nearest}."
        )
    return fixed_sizes(size)


def _notes(made: Exported, wanted: SizeRule) -> Iterator[str]:
    if made.trained is None:
        yield "the weights are initial values, not trained ones" + _instead(made.spec)
    if made.sizes != wanted:
        yield (
            f"the format cannot have every legal size of this network ({wanted.describe()}), it takes "
            f"{made.sizes.describe()}"
        )
    if not made.any_batch:
        yield "it takes one sample at a time"


def _instead(spec: ModelSpec) -> str:
    return "" if not spec.weights else f": give {spec.name}.{next(iter(spec.weights))} for those that there are"


def _bytes_of(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


export = export_network
"""What `zoo.export` is."""
