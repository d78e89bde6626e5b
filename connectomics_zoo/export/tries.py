"""Writes a network with as many sizes as a format can have: every legal one, else some of them, else one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from connectomics_zoo.export.check import Comparison, SizeFailedError, compare
from connectomics_zoo.export.exported import Exported, NotExportableError, fixed_sizes, is_dynamic, is_fixed
from connectomics_zoo.export.formats import NetworkWriter
from connectomics_zoo.export.provenance import provenance
from connectomics_zoo.schema.model import SizeRule

_COARSE = 16
"""Step, in voxels, that networks of five levels take; those that pad are exported with it where theirs is finer."""


def write_compared(
    writer: NetworkWriter, exported: Exported, path: Path, *, name: str
) -> tuple[Exported, tuple[Comparison, ...]]:
    """Write the network at `path`, and return it as it was written, with each input that it was compared at.

    Args:
        writer: the module of the format.
        exported: the network, with the sizes that were asked for.
        path: where nothing is.
        name: the name of the format.

    Raises:
        NotExportableError: the format cannot have the network, not even with one size.
        CheckFailedError: the network itself computes nothing of use.
    """
    failures: list[NotExportableError] = []
    for sizes, any_batch in _tries(exported, failures):
        attempt = replace(exported, sizes=sizes, any_batch=any_batch)
        attempt = replace(attempt, provenance=provenance(attempt))
        try:
            writer.write(attempt, path)
            return attempt, compare(attempt, writer.reader(path), name=name)
        except NotExportableError as error:
            failures.append(error)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    raise failures[-1]


def _tries(exported: Exported, failures: list[NotExportableError]) -> Iterator[tuple[SizeRule, bool]]:
    """Yield sizes and whether any batch is taken, from what was asked for to one input; the last failure decides."""
    wanted = exported.sizes
    if is_dynamic(wanted):
        yield wanted, True
        failed = failures[-1]
        if isinstance(failed, SizeFailedError) and failed.at_minimum:
            yield _from_the_next(wanted), True
        elif _coarser(wanted) != wanted:
            yield _coarser(wanted), True
        wanted = fixed_sizes(exported.usual_size)
    yield wanted, True
    yield wanted, False


def _from_the_next(rule: SizeRule) -> SizeRule:
    """Return the rule without the smallest size of each axis."""
    pairs = zip(rule.minimum, rule.step, strict=True)
    return SizeRule(minimum=tuple(low if is_fixed(low, step) else low + step for low, step in pairs), step=rule.step)


def _coarser(rule: SizeRule) -> SizeRule:
    """Return the legal sizes that are a multiple of 16 apart."""
    pairs = zip(rule.minimum, rule.step, strict=True)
    return SizeRule(
        minimum=rule.minimum,
        step=tuple(step if is_fixed(low, step) else math.lcm(step, _COARSE) for low, step in pairs),
    )
