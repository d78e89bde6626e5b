"""What every builder's tests check: the contract for outputs, the legal sizes, and what has a gradient."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from connectomics_zoo.schema.builder import BuilderConfig, Interface


def configured(name: str, arch: dict[str, Any]) -> tuple[ModuleType, BuilderConfig, Interface]:
    """Return the builder called `name`, `arch` as its configuration, and the interface that follows."""
    builder = importlib.import_module(f"zoo.builders.{name}")
    config = builder.Config.model_validate(arch)
    return builder, config, builder.interface(config)


def built(name: str, arch: dict[str, Any], *, deep_supervision: bool = True, out_channels: int = 2) -> nn.Module:
    """Return the network for one input channel, in training mode, always with the same initial weights."""
    builder, config, _ = configured(name, arch)
    torch.manual_seed(0)
    network: nn.Module = builder.build(
        config, in_channels=1, out_channels=out_channels, deep_supervision=deep_supervision
    )
    return network


def train_step(network: nn.Module, size: tuple[int, ...]) -> dict[str, Tensor]:
    """Run one forward and backward pass on a single input of `size`, and return the outputs by name."""
    torch.manual_seed(1)
    result = network.train()(torch.randn(1, 1, *size))
    outputs = {"output": result} if isinstance(result, Tensor) else result
    sum(value.square().mean() for value in outputs.values()).backward()
    return outputs


def predict(network: nn.Module, size: tuple[int, ...]) -> Tensor:
    """Return what the network gives in evaluation for a single input of `size`."""
    torch.manual_seed(1)
    with torch.no_grad():
        output: Tensor = network.eval()(torch.randn(1, 1, *size))
    return output


def check_size(network: nn.Module, interface: Interface, size: tuple[int, ...], *, supervised: bool) -> None:
    """Assert that `size` works: in training the declared outputs at their real strides, in evaluation one tensor."""
    declared = interface.outputs if supervised else interface.outputs[:1]
    given = [edge - 2 * more for edge, more in zip(size, interface.context or [0] * len(size), strict=True)]
    expected = {
        output.name: (1, 2, *(edge // step for edge, step in zip(given, output.stride, strict=True)))
        for output in declared
    }
    outputs = train_step(network, size)
    assert [(name, tuple(value.shape)) for name, value in outputs.items()] == list(expected.items())
    prediction = predict(network, size)
    assert isinstance(prediction, Tensor)
    assert tuple(prediction.shape) == expected["output"]
    for value in (*outputs.values(), prediction):
        assert value.isfinite().all()


def check_logits(network: nn.Module, size: tuple[int, ...]) -> None:
    """Assert that no activation bounds what the network returns."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    prediction = predict(network, size)
    assert prediction.isfinite().all()
    assert prediction.abs().max() > 2
    assert not prediction.sum(dim=1).allclose(torch.ones(()))


def next_illegal(interface: Interface) -> list[tuple[int, ...]]:
    """Return the smallest legal size, with one axis a voxel more, a voxel less or a step less where that is illegal."""
    sizes = set()
    for axis, (low, step) in enumerate(zip(interface.minimum, interface.step, strict=True)):
        for edge in {low - step, low - 1, low + 1}:
            if edge > 0 and (edge < low or (edge - low) % step):
                sizes.add((*interface.minimum[:axis], edge, *interface.minimum[axis + 1 :]))
    return sorted(sizes)


def works(network: nn.Module, size: tuple[int, ...]) -> bool:
    """Whether the bare network, without our check of sizes, trains on `size` and returns that size."""
    try:
        output = train_step(network, size)["output"]
    except (RuntimeError, ValueError, IndexError):
        return False
    return tuple(output.shape[2:]) == size


def without_gradient(network: nn.Module) -> list[str]:
    """Return the parameters that want a gradient and have got none."""
    return [name for name, value in network.named_parameters() if value.requires_grad and value.grad is None]


def forbid_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be an error to make any layer or network."""

    def make(self: nn.Module, *_: Any, **__: Any) -> None:
        raise AssertionError(f"a {type(self).__name__} is made")

    monkeypatch.setattr(nn.Module, "__init__", make)
