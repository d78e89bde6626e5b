"""What PyTorch Connectomics (PyTC) has under `model` in its configurations: keys, defaults, and who reads them.

Two generations are known. `FLAT`: https://github.com/zudi-lin/pytorch_connectomics, commit 066f1c2 (November 2025),
`connectomics/config/hydra_config.py` and `connectomics/models/arch/`. `NESTED`:
https://github.com/PytorchConnectomics/pytorch_connectomics, commit 4335a8b (August 2026),
`connectomics/config/schema/model*.py` and `connectomics/models/architectures/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mednext": ("mednext", ("size", "kernel_size", "dim", "checkpoint_style")),
    "mednext_custom": (
        "mednext",
        (
            "base_channels",
            "exp_r",
            "kernel_size",
            "do_res",
            "do_res_up_down",
            "block_counts",
            "checkpoint_style",
            "norm",
            "dim",
            "grn",
        ),
    ),
    "monai_basic_unet3d": (
        "monai",
        ("filters", "dropout", "activation", "norm", "num_groups", "upsample_mode", "spatial_dims"),
    ),
    "monai_unet": (
        "monai",
        ("filters", "dropout", "norm", "num_groups", "num_res_units", "kernel_size", "strides", "spatial_dims"),
    ),
    "monai_unetr": (
        "transformer",
        ("feature_size", "hidden_size", "mlp_dim", "num_heads", "pos_embed", "norm", "dropout"),
    ),
    "monai_swin_unetr": (
        "transformer",
        ("feature_size", "dropout", "use_checkpoint", "attn_drop_rate", "dropout_path_rate"),
    ),
    "rsunet": (
        "rsunet",
        (
            "filters",
            "norm",
            "activation",
            "num_groups",
            "down_factors",
            "depth_2d",
            "kernel_2d",
            "act_negative_slope",
            "act_init",
        ),
    ),
    "rsunet_iso": ("rsunet", ("filters", "norm", "activation", "num_groups", "down_factors")),
}
"""Each architecture's section of the configuration, and the settings of it that its network follows here.

These are what PyTC's builders read, and also what they ignore although the network has it: `dim` and
`checkpoint_style` of `mednext`, `strides` of `monai_unet`, `spatial_dims`, `down_factors` of `rsunet_iso`.
"""

SUPERVISED = frozenset({"mednext", "mednext_custom", "rsunet", "rsunet_iso"})
"""Architectures with deep supervision; PyTC ignores the key for the others."""

UNSUPPORTED = {
    "nnunet": "it is whatever network a pickled nnU-Net checkpoint holds, and no pickle is loaded here",
}
"""Architectures of PyTC that are not built here, and why."""


@dataclass(frozen=True)
class Layout:
    """One generation of PyTC's `model` section."""

    architecture: str
    """The key that names the architecture."""
    deep_supervision: str
    """The key that turns deep supervision on."""
    separator: str
    """What stands between the name of a section and that of a setting."""
    bare_sections: frozenset[str]
    """Sections whose settings are keys without the section's name."""
    renamed: Mapping[tuple[str, str], str]
    """(section, setting) of the keys that are not called so."""
    defaults: Mapping[str, Any]
    """Every key and its default."""
    own_defaults: Mapping[str, Mapping[str, Any]]
    """By architecture, what is taken where a key is absent although the default is another: SwinUNETR cannot be
    built with PyTC's 16 features, so that only the fallback of its builder is left."""
    other_defaults: Mapping[str, Mapping[str, Any]]
    """By architecture, what PyTC's builder falls back to where the key is absent, if that is not the default."""
    not_network: frozenset[str]
    """Keys that do not concern the network: they are accepted and not read."""

    def key(self, section: str, setting: str) -> str:
        """Return the key of a setting."""
        if (section, setting) in self.renamed:
            return self.renamed[section, setting]
        return setting if section in self.bare_sections else f"{section}{self.separator}{setting}"

    def settings(self, architecture: str) -> dict[str, str]:
        """Return setting -> key for what the network of `architecture` follows."""
        section, names = SETTINGS[architecture]
        return {name: self.key(section, name) for name in names}

    def setting(self, key: str) -> str:
        """Return the setting that a key is of, or nothing."""
        names = {name for architecture in SETTINGS for name, own in self.settings(architecture).items() if own == key}
        return min(names, default="")


_MEDNEXT = {
    "size": "S",
    "base_channels": 32,
    "exp_r": 4,
    "kernel_size": 3,
    "do_res": True,
    "do_res_up_down": True,
    "block_counts": [2] * 9,
    "checkpoint_style": None,
    "norm": "group",
    "dim": "3d",
    "grn": False,
}
_RSUNET = {
    "norm": "batch",
    "activation": "relu",
    "num_groups": 8,
    "down_factors": None,
    "depth_2d": 0,
    "kernel_2d": [1, 3, 3],
    "act_negative_slope": 0.01,
    "act_init": 0.25,
}
_TRANSFORMER = {"feature_size": 16, "hidden_size": 768, "mlp_dim": 3072, "num_heads": 12}
_UNNAMED_IN_FLAT = {"pos_embed": "perceptron", "use_checkpoint": False, "attn_drop_rate": 0.0, "dropout_path_rate": 0.0}
_LOSS = {"deep_supervision_weights": None, "deep_supervision_clamp_min": -20.0, "deep_supervision_clamp_max": 20.0}
_SIZES = {"input_size": [128, 128, 128], "output_size": [128, 128, 128], "in_channels": 1, "out_channels": 1}

NEEDS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "num_groups": ("norm", ("group",)),
    "act_negative_slope": ("activation", ("leakyrelu",)),
    "act_init": ("activation", ("prelu",)),
}
"""Settings that have an effect only where another setting has one of these values."""

PROFILES: dict[str, dict[str, Any]] = {
    "mednext_s": {"arch.type": "mednext", "mednext.size": "S", "mednext.kernel_size": 3},
    "mednext_b": {"arch.type": "mednext", "mednext.size": "B"},
    "mednext_m": {"arch.type": "mednext", "mednext.size": "M"},
    "mednext_l": {"arch.type": "mednext", "mednext.size": "L"},
    "monai_unet": {"arch.type": "monai_unet", "monai.filters": [32, 64, 128, 256]},
    "rsunet": {
        "arch.type": "rsunet",
        "rsunet.width": [18, 36, 48, 64, 80],
        "rsunet.norm": "group",
        "rsunet.activation": "elu",
        "rsunet.num_groups": 4,
        "rsunet.down_factors": [[1, 2, 2]] * 4,
        "rsunet.depth_2d": 1,
        "rsunet.kernel_2d": [1, 3, 3],
    },
}
"""What `arch.profile` fills in where a key is absent (`connectomics/config/profiles/arch_profiles.yaml`)."""

FLAT = Layout(
    architecture="architecture",
    deep_supervision="deep_supervision",
    separator="_",
    bare_sections=frozenset({"monai", "transformer"}),
    renamed={("monai", "upsample_mode"): "upsample", ("rsunet", "filters"): "filters"},
    defaults={
        "architecture": "monai_basic_unet3d",
        **_SIZES,
        "filters": [32, 64, 128, 256, 512],
        "dropout": 0.0,
        "norm": "batch",
        "num_groups": 8,
        "activation": "relu",
        "spatial_dims": 3,
        "num_res_units": 2,
        "kernel_size": 3,
        "strides": None,
        "act": "relu",
        "upsample": "deconv",
        **_TRANSFORMER,
        # Read by the builders, although the dataclass does not have them.
        **_UNNAMED_IN_FLAT,
        **{f"mednext_{name}": value for name, value in _MEDNEXT.items()},
        **{f"rsunet_{name}": value for name, value in _RSUNET.items()},
        "deep_supervision": False,
        **_LOSS,
        "loss_functions": ["DiceLoss", "BCEWithLogitsLoss"],
        "loss_weights": [1.0, 1.0],
        "loss_kwargs": [{}, {}],
        "multi_task_config": None,
    },
    own_defaults={"monai_swin_unetr": {"feature_size": 48}},
    other_defaults={
        "mednext_custom": {"mednext_kernel_size": 7},
        "monai_unetr": {"norm": "instance"},
        "rsunet": {"filters": [16, 32, 64, 128]},
        "rsunet_iso": {"filters": [16, 32, 64, 128]},
    },
    not_network=frozenset(
        {"output_size", "loss_functions", "loss_weights", "loss_kwargs", "multi_task_config", *_LOSS}
    ),
)

NESTED = Layout(
    architecture="arch.type",
    deep_supervision="loss.deep_supervision",
    separator=".",
    bare_sections=frozenset(),
    renamed={("rsunet", "filters"): "rsunet.width"},
    defaults={
        "arch.type": "monai_basic_unet3d",
        "arch.profile": None,
        "arch.variant": None,
        "arch.params": {},
        **_SIZES,
        "primary_head": None,
        "heads": {},
        "monai.filters": [32, 64, 128, 256, 512],
        "monai.dropout": 0.0,
        "monai.norm": "batch",
        "monai.num_groups": 8,
        "monai.activation": "relu",
        "monai.spatial_dims": 3,
        "monai.num_res_units": 2,
        "monai.kernel_size": 3,
        "monai.strides": None,
        "monai.upsample_mode": "deconv",
        "monai.upsample_interp_mode": "linear",
        "monai.upsample_align_corners": True,
        **{f"transformer.{name}": value for name, value in (_TRANSFORMER | _UNNAMED_IN_FLAT).items()},
        "transformer.norm": "instance",
        "transformer.dropout": 0.0,
        **{f"mednext.{name}": value for name, value in _MEDNEXT.items()},
        "rsunet.width": [16, 32, 64, 128],
        **{f"rsunet.{name}": value for name, value in _RSUNET.items()},
        "nnunet.checkpoint": None,
        "nnunet.plans": None,
        "nnunet.dataset": None,
        "nnunet.device": "auto",
        "nnunet.spatial_dims": None,
        "loss.deep_supervision": False,
        **{f"loss.{name}": value for name, value in _LOSS.items()},
        "loss.losses": None,
        "loss.loss_balancing": {},
        "loss.profile": None,
        "loss.overrides": None,
        "external_weights_path": None,
        "external_weights_key_prefix": "model.",
    },
    own_defaults={"monai_swin_unetr": {"transformer.feature_size": 48}},
    other_defaults={"mednext_custom": {"mednext.kernel_size": 7}},
    not_network=frozenset(
        {
            "output_size",
            "loss.losses",
            "loss.loss_balancing",
            "loss.profile",
            "loss.overrides",
            "external_weights_key_prefix",
            *(f"loss.{name}" for name in _LOSS),
        }
    ),
)
