"""The program of torch.export from which several formats are made."""

from __future__ import annotations

from torch.export import ExportedProgram

from connectomics_zoo.export.exported import Exported
from connectomics_zoo.network.program import trace_dynamic


def program_of(exported: Exported) -> ExportedProgram:
    """Return the program of the network for the sizes that are asked for."""
    asked = (exported.sizes, exported.any_batch)
    if asked not in exported.programs:
        try:
            exported.programs[asked] = trace_dynamic(
                exported.network,
                exported.sample_shape,
                sizes=exported.sizes,
                axes=exported.spec.input.axes,
                any_batch=exported.any_batch,
            )
        except Exception as error:  # the next format would fail likewise, as late
            exported.programs[asked] = error
    program = exported.programs[asked]
    if isinstance(program, Exception):
        raise program
    return program
