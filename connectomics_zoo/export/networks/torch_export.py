"""A program of torch.export: one file .pt2, whose extra file `zoo.json` says where it comes from."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from connectomics_zoo.export.exported import Exported, not_exportable
from connectomics_zoo.export.networks.program import program_of

EXTRA_FILE = "zoo.json"
"""What torch.export.load and torch.jit.load return it as, with `extra_files={"zoo.json": ""}`."""


def write(exported: Exported, output: Path) -> None:
    """Write the program; see `NetworkWriter`."""
    with not_exportable(exported, "torch-export"):
        program = program_of(exported)
        buffer = io.BytesIO()  # it takes the name of a file only if that ends in .pt2
        torch.export.save(program, buffer, extra_files={EXTRA_FILE: provenance_json(exported)})
    output.write_bytes(buffer.getbuffer())


def reader(output: Path) -> Callable[[Tensor], Tensor]:
    """Return the program as torch runs it; see `NetworkWriter`."""
    with output.open("rb") as file:
        return cast("Callable[[Tensor], Tensor]", torch.export.load(file).module())


def provenance_json(exported: Exported) -> str:
    """Return where the network comes from as the text of a JSON file."""
    return json.dumps(dict(exported.provenance), indent=2, ensure_ascii=False) + "\n"
