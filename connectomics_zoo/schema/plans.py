"""What a builder declares about nnU-Net: which of its networks it builds, from which plans, and how plans say them.

Plans are those of nnU-Net v2, https://github.com/MIC-DKFZ/nnUNet, 2.8.1, `nnunetv2/utilities/plans_handling`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PlansRequest:
    """A network in a checkpoint of nnU-Net, as its plans and its tensors describe it; neither is to be trusted."""

    configuration: Mapping[str, Any]
    """The configuration of the plans, with what it inherits."""
    patch_size: tuple[int, ...]
    """Voxels of a training patch."""
    shapes: Mapping[str, tuple[int, ...]]
    """The shape of each tensor, by its name without prefix; tensors that stand there twice are named once."""


@dataclass(frozen=True)
class PlannedNetwork:
    """A network in our terms."""

    model: str
    """The model of the catalogue whose source and recipe it takes."""
    arch: Mapping[str, Any]
    """Fields of the builder's configuration."""
    in_channels: int
    out_channels: int


@dataclass(frozen=True)
class PlansArchitecture:
    """One kind of network that nnU-Net trains."""

    marker: str
    """A tensor that its state dicts have, and those of no other network."""
    translate: Callable[[PlansRequest], PlannedNetwork]
    """Returns it in our terms; raises `SpecError` where the plans ask for what no model here is."""
    describe: Callable[[Any], Mapping[str, Any]] | None = None
    """Returns, of a configuration, the section `architecture` of plans that nnU-Net builds the same network from; None
    where plans cannot say it."""
    repeats: Callable[[Any, Iterable[str]], Mapping[str, str]] | None = None
    """Returns, of a configuration and the names of its network's tensors, every name in a state dict of nnU-Net's with
    the name of ours that it has the tensor of."""
