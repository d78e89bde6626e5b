"""What PyTorch Connectomics (PyTC) has under `model` in its configurations: keys, defaults, and who reads them.

The two generations are described in `schema/pytc.py`. What is of an architecture, its builder declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connectomics_zoo.schema.builder import pytc_architectures
from connectomics_zoo.schema.pytc import INPUT_SIZE, Generation

_NNUNETS = "it is whatever network a pickled nnU-Net checkpoint holds, and no pickle is loaded here"

UNSUPPORTED = dict.fromkeys(("nnunet", "nnunet_pretrained", "nnunet_2d_pretrained", "nnunet_3d_pretrained"), _NNUNETS)
"""Architectures of PyTC that are not built here, and why."""


@dataclass(frozen=True)
class Layout:
    """One generation of PyTC's `model` section."""

    generation: Generation
    architecture: str
    """The key that names the architecture."""
    deep_supervision: str
    """The key that turns deep supervision on."""
    common: Mapping[str, Any]
    """Every key that is of no architecture, and its default."""
    not_network: frozenset[str]
    """Keys that do not concern the network: they are accepted and not read."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Every key and its default."""
        found = dict(self.common)
        for architecture in pytc_architectures().values():
            keys, defaults = architecture.sections[self.generation]
            found |= {keys[setting]: default for setting, default in defaults.items()}
        return found

    def settings(self, architecture: str) -> dict[str, str]:
        """Return setting -> key for what the network of `architecture` follows."""
        declared = pytc_architectures()[architecture]
        keys = declared.sections[self.generation].keys
        return {name: keys[name] for name in declared.settings}

    def setting(self, key: str) -> str:
        """Return the setting that a key is of, or nothing."""
        names = {name for item in pytc_architectures() for name, own in self.settings(item).items() if own == key}
        return min(names, default="")

    def own_defaults(self, architecture: str) -> dict[str, Any]:
        """Return key -> value for what is taken where a key is absent although the default is another."""
        own = pytc_architectures()[architecture].own_defaults
        return {self.settings(architecture)[setting]: value for setting, value in own.items()}


def profiles() -> dict[str, dict[str, Any]]:
    """Return what each `arch.profile` of the nested generation fills in where a key is absent."""
    return {
        name: {NESTED.architecture: architecture.name}
        | {NESTED.settings(architecture.name)[setting]: value for setting, value in values.items()}
        for architecture in pytc_architectures().values()
        for name, values in architecture.profiles.items()
    }


_LOSS = {"deep_supervision_weights": None, "deep_supervision_clamp_min": -20.0, "deep_supervision_clamp_max": 20.0}
_LOSSES: dict[str, Any] = {"losses": None, "loss_terms": None, "loss_balancing": {}}
_WEIGHTS = {"external_weights_path": None, "external_weights_key_prefix": "model.", "checkpoint": None}
_NNUNET = {"checkpoint": None, "plans": None, "dataset": None}
_SIZES = {"input_size": list(INPUT_SIZE), "output_size": [128, 128, 128], "in_channels": 1, "out_channels": 1}

STARTS = ("external_weights_path", "checkpoint")
"""Keys of a file whose weights PyTC starts from."""

FLAT = Layout(
    generation="flat",
    architecture="architecture",
    deep_supervision="deep_supervision",
    common={
        "architecture": None,  # must be given
        **_SIZES,
        "deep_supervision": False,
        **_LOSS,
        "loss_functions": ["DiceLoss", "BCEWithLogitsLoss"],
        "loss_weights": [1.0, 1.0],
        "loss_kwargs": [{}, {}],
        "multi_task_config": None,
        **_LOSSES,
        **_WEIGHTS,
        **{f"nnunet_{name}": value for name, value in _NNUNET.items()},
        "nnunet_device": "cuda",
    },
    not_network=frozenset(
        {
            "output_size",
            "loss_functions",
            "loss_weights",
            "loss_kwargs",
            "multi_task_config",
            *_LOSS,
            *_LOSSES,
            *_WEIGHTS,
        }
    ),
)

NESTED = Layout(
    generation="nested",
    architecture="arch.type",
    deep_supervision="loss.deep_supervision",
    common={
        "arch.type": None,  # must be given
        "arch.profile": None,
        "arch.variant": None,
        "arch.params": {},
        **_SIZES,
        "primary_head": None,
        "heads": {},
        **{f"nnunet.{name}": value for name, value in _NNUNET.items()},
        "nnunet.device": "auto",
        "nnunet.spatial_dims": None,
        "loss.deep_supervision": False,
        **{f"loss.{name}": value for name, value in _LOSS.items()},
        "loss.losses": None,
        "loss.loss_balancing": {},
        "loss.profile": None,
        "loss.overrides": None,
        **_LOSSES,
        **_WEIGHTS,
    },
    not_network=frozenset(
        {
            "output_size",
            "loss.losses",
            "loss.loss_balancing",
            "loss.profile",
            "loss.overrides",
            *_LOSSES,
            *_WEIGHTS,
            *(f"loss.{name}" for name in _LOSS),
        }
    ),
)
