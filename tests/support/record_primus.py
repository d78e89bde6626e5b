"""Records what the original Primus computes for name-seeded weights: `python tests/support/record_primus.py`.

Primus of dynamic-network-architectures needs timm, and timm torchvision, which often cannot be installed beside a
given torch; of it, timm imports a few names that Primus never calls, so that empty modules can stand for it here. The
record was made with dynamic-network-architectures 0.4.4, timm 1.0.22 and torch 2.13.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

FILE = Path(__file__).parent / "data" / "primus.json"

CASES: dict[str, dict[str, Any]] = {
    "cubes": {"img_size": [16, 16, 24], "token_size": [8, 8, 8], "embed_dim": 24, "depth": 2, "num_heads": 2},
    "slabs": {"img_size": [4, 8, 16], "token_size": [2, 4, 4], "embed_dim": 36, "depth": 1, "num_heads": 3},
}
"""Fields of `zoo.builders.nnunet_primus.Config`; one input and three output channels."""

STEP = 97
"""Every so many of the output's elements are recorded."""


class Anything(type):
    """A class that has an attribute of any name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class EmptyModule(types.ModuleType):
    """Has a class of any name."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {})


class Emptiness(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `torchvision` and all that is in it as empty modules."""

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        """Answer for torchvision alone."""
        is_it = name.partition(".")[0] == "torchvision"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_it else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Make the empty module."""
        return EmptyModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Run nothing."""


def main() -> None:
    """Write `FILE`."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.meta_path.insert(0, Emptiness())
    import torch
    from dynamic_network_architectures.architectures.primus import Primus

    from connectomics_zoo.network.seeding import seed_parameters, seeded_input

    record = {}
    for name, case in CASES.items():
        network = Primus(
            1,
            case["embed_dim"],
            tuple(case["token_size"]),
            3,
            case["depth"],
            case["num_heads"],
            tuple(case["img_size"]),
            drop_path_rate=0.2,
            scale_attn_inner=True,
            init_values=0.1,
        ).eval()
        seed_parameters(network)
        with torch.no_grad():
            output = network(seeded_input((2, 1, *case["img_size"])))
        record[name] = {
            "state": {key: list(value.shape) for key, value in network.state_dict().items()},
            "shape": list(output.shape),
            "values": [round(value, 7) for value in output.flatten()[::STEP].tolist()],
        }
    FILE.write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
