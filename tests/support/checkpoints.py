"""Checkpoints as other projects write them."""

from __future__ import annotations

import argparse
import pathlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

FORMATS = ("mednext", "pytc", "pytc-old", "pytc-v1", "nnunet-v2", "lightning", "plain", "plain-nested")

State = dict[str, Tensor]


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


@dataclass
class Config:
    """Stands for the configuration that PyTorch Connectomics used to pickle."""

    name: str = "x"
    sizes: list[int] = field(default_factory=lambda: [1])


Config.__module__ = "connectomics.config.hydra_config"


def lightning_content(state: State, **more: Any) -> dict[str, Any]:
    """What Lightning's `dump_checkpoint` writes for a module that holds `state`."""
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [
            {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
        ],
        "lr_schedulers": [{"base_lrs": [1e-3], "best": np.float64(0.5)}],
        "hparams_name": "kwargs",
        **more,
    }


def content_of(kind: str, state: State, config: Any = None) -> Any:
    """Return what the project `kind` hands to `torch.save` for a network with `state`."""
    metadata = {"format_version": 1, "config_embedded": False, "config_hash": "abc", "model_arch": "mednext"}
    return {
        "mednext": lambda: {
            "epoch": 1001,
            "state_dict": prefixed("module.", state),
            "optimizer_state_dict": {"state": {}, "param_groups": []},
            "lr_scheduler_state_dict": None,
            "plot_stuff": ([np.float64(1.5), np.float32(2)], [np.float64(1)], [], [np.zeros(2)]),
            "best_stuff": (7, np.float64(0.5), np.float64(0.25)),
            "amp_grad_scaler": {"scale": 65536.0},
        },
        "pytc": lambda: lightning_content(
            {**prefixed("model.model.", state), "loss_functions.1.pos_weight": torch.ones(1)},
            hyper_parameters={"skip_loss": False},
            pytc_metadata=metadata,
        ),
        "pytc-old": lambda: lightning_content(
            {**prefixed("model._orig_mod.model.", state), "loss_weighter.log_vars": torch.zeros(2)},
            hyper_parameters={
                "cfg": config,
                "node": OmegaConf.create({"a": [1, "x", None], "b": {"c": 2.0}}),
                "typed": OmegaConf.structured(config),
                "path": pathlib.Path("/somewhere"),
            },
        ),
        "pytc-v1": lambda: {"iteration": 9, "state_dict": state, "optimizer": {"state": {}}, "lr_scheduler": {}},
        "nnunet-v2": lambda: {
            "network_weights": prefixed("_orig_mod.", state),
            "optimizer_state": {"state": {}, "param_groups": []},
            "grad_scaler_state": {},
            "logging": {"mean_fg_dice": [np.float64(0.5)], "epoch_start_timestamps": [1.0]},
            "_best_ema": np.float64(0.75),
            "current_epoch": 1000,
            "init_args": {"plans": {"a": [1]}, "configuration": "3d_fullres", "device": torch.device("cuda")},
            "trainer_name": "nnUNetTrainerMedNeXt",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        },
        "lightning": lambda: lightning_content(
            {**prefixed("net.", state), "criterion.weight": torch.ones(2)},
            hyper_parameters={"args": argparse.Namespace(lr=1.0), "counts": defaultdict(list, {"a": [1]})},
        ),
        "plain": lambda: state,
        "plain-nested": lambda: {"model_state_dict": prefixed("model.", state), "epoch": np.int64(3)},
    }[kind]()
