"""`export`: a network to a file or folder in the format of another program, compared with torch's before it appears."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from connectomics_zoo.errors import InputSizeError
from connectomics_zoo.export.check import TOLERANCE, Comparison, SizeFailedError, compare
from connectomics_zoo.export.exported import Activation, Exported, NotExportableError, fixed_sizes, is_dynamic
from connectomics_zoo.export.formats import NetworkWriter, check_name, network_writer
from connectomics_zoo.export.provenance import provenance
from connectomics_zoo.export.source import Source, activated, find_source
from connectomics_zoo.files.atomic import PartialOutput, check_place, remove_folder
from connectomics_zoo.schema.limits import MAX_EDGE
from connectomics_zoo.schema.model import ModelSpec, SizeRule
from connectomics_zoo.schema.report import Report

_COARSE = 16
"""Step, in voxels, that networks of five levels take; those that pad are exported with it where theirs is finer."""


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
    check_place(place, overwrite=False)
    source = find_source(ref)
    network = activated(source, activation, name=str(ref))
    wanted = source.spec.input.size if size is None else _legal(source.spec, tuple(size))
    exported = Exported(
        reference=str(ref),
        network=network,
        spec=source.spec,
        sizes=wanted,
        any_batch=True,
        activation=activation,
        provenance={},
        trained=source.trained,
        run=source.run,
        task=source.task,
        suffix=place.suffix.lower(),
    )
    partial = PartialOutput(place, overwrite=False)
    with partial.writing():
        made, compared = _written(writer, exported, source, partial.path, name=format)
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
        notes=tuple(_notes(source, made, wanted)),
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


def _written(
    writer: NetworkWriter, exported: Exported, source: Source, path: Path, *, name: str
) -> tuple[Exported, tuple[Comparison, ...]]:
    """Write the network with as many sizes as the format can have, and return it as it was written.

    Raises:
        NotExportableError: not even with one.
    """
    failures: list[NotExportableError] = []
    for sizes, any_batch in _tries(exported.sizes, _usual_size(source), failures):
        said = provenance(source, sizes=sizes, any_batch=any_batch, activation=exported.activation)
        attempt = replace(exported, sizes=sizes, any_batch=any_batch, provenance=said)
        try:
            writer.write(attempt, path)
            return attempt, compare(attempt, writer.reader(path), name=name)
        except NotExportableError as error:
            failures.append(error)
            _clear(path)
    raise failures[-1]


def _tries(
    wanted: SizeRule, usual: tuple[int, ...], failures: list[NotExportableError]
) -> Iterator[tuple[SizeRule, bool]]:
    """Yield sizes and whether any batch is taken, from what was asked for to one input; the last failure decides."""
    if is_dynamic(wanted):
        yield wanted, True
        if _fails_at_minimum(failures):
            yield _from_the_next(wanted), True
        elif not isinstance(failures[-1], SizeFailedError) and _coarser(wanted) != wanted:
            yield _coarser(wanted), True
        wanted = fixed_sizes(usual)
    yield wanted, True
    yield wanted, False


def _fails_at_minimum(failures: list[NotExportableError]) -> bool:
    return isinstance(failures[-1], SizeFailedError) and failures[-1].at_minimum


def _from_the_next(rule: SizeRule) -> SizeRule:
    """Return the rule without the smallest size of each axis."""
    pairs = list(zip(rule.minimum, rule.step, strict=True))
    return SizeRule(minimum=tuple(low if low + step > MAX_EDGE else low + step for low, step in pairs), step=rule.step)


def _coarser(rule: SizeRule) -> SizeRule:
    """Return the legal sizes that are a multiple of 16 apart."""
    steps = tuple(step if step >= MAX_EDGE // 2 else math.lcm(step, _COARSE) for step in rule.step)
    return SizeRule(minimum=rule.minimum, step=steps)


def _usual_size(source: Source) -> tuple[int, ...]:
    """Return the size that the network is used at: the window of its weights, else the patch of its recipe."""
    return source.spec.training.patch_size if source.run is None else source.run.window


def _notes(source: Source, made: Exported, wanted: SizeRule) -> Iterator[str]:
    if source.trained is None:
        yield "the weights are initial values, not trained ones" + _instead(source.spec)
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


def _clear(path: Path) -> None:
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)


export = export_network
"""What `zoo.export` is."""
