"""What `training.freeze` keeps as it is: weights without a gradient, and norms without new statistics."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.builder import encoder_modules
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.weights.transfer import find_roles


def freeze(network: nn.Module, run: RunSpec) -> list[nn.Module]:
    """Take the gradient from the weights that `run` does not train: nothing decays or averages them either.

    Returns:
        The frozen norms with running statistics, which have to stay in evaluation mode.

    Raises:
        SpecError: `all-but-heads`, and no tensor of the network is known to be a head's.
    """
    if run.training.freeze == "none":
        return []
    if run.training.freeze == "encoder":
        names = encoder_modules(run.model.builder, run.model.arch) or ()
        parts = [network.get_submodule(name).requires_grad_(False) for name in names]
        return [norm for part in parts for norm in part.modules() if _has_statistics(norm)]
    heads = _heads(run)
    # One tensor may have several names, of which state dicts have all.
    trained = {id(weight) for name, weight in network.named_parameters(remove_duplicate=False) if name in heads}
    for weight in network.parameters():
        weight.requires_grad_(weight.requires_grad and id(weight) in trained)
    norms = [(name, part) for name, part in network.named_modules(remove_duplicate=False) if _has_statistics(part)]
    moving = {id(norm) for name, norm in norms if f"{name}.running_mean" in heads}
    return [norm for _, norm in norms if id(norm) not in moving]


def _heads(run: RunSpec) -> frozenset[str]:
    """Return the keys of the heads: what follows the number of output channels."""
    heads = find_roles(run.model).head
    if not heads:
        raise SpecError(
            f"no tensor of {run.model.name} (builder {run.model.builder!r}) follows the number of output channels, so "
            "that its heads are not known and training.freeze=all-but-heads is not possible: leave it out."
        )
    return heads


def _has_statistics(part: nn.Module) -> bool:
    return isinstance(part, _NormBase) and part.track_running_stats
