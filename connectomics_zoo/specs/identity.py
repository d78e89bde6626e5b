"""What makes two networks the same: builder, arch, input and outputs; recipes, scores and texts do not.

It is asked in three ways, and answered here alone:

- Are two specs of the same network (`is_same_network`)? All four fields are equal.
- Is a spec still of the network that was kept, by `zoo.lock` or as a release (`network_changes`)? The content is
  compared and not a digest of it: a field that a builder gained since, and that has its default, changes a digest and
  no network, while a digest without defaults would miss a default that has changed.
- Do weights of one do the same in the other (`is_same_function`)? That is for models which may have come about
  separately, and judged by what was measured. The `loss_weight` of an output, which counts in training alone, is left
  aside there; it is a part of the other two.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from connectomics_zoo.schema.model import ModelSpec, Probe
from connectomics_zoo.specs.content import Change, changes_of, content_of, digest
from connectomics_zoo.specs.expectation import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE

NETWORK = ("builder", "arch", "input", "outputs")
"""The fields of a model spec that determine its network."""

_RECIPE_OF_0_1_0 = (
    *("optimizer", "learning_rate", "weight_decay", "schedule", "warmup_steps", "gradient_clip", "precision"),
    *("ema_decay", "accumulate", "early_stopping", "freeze", "patch_size", "batch_size", "max_steps"),
    *("validate_every", "foreground_probability", "foreground_minimum", "augmentation", "workers", "seed"),
)
"""The fields of `training` in 0.1.0."""

_EXPECT_OF_0_1_0 = ("parameters", "buffers", "fingerprint", "flops", "probe")
"""The fields of `expect` in 0.1.0."""


def is_same_network(first: ModelSpec, second: ModelSpec) -> bool:
    """Return whether two specs are of the same network, whatever else they say."""
    return all(getattr(first, field) == getattr(second, field) for field in NETWORK)


def network_of(spec: ModelSpec) -> dict[str, Any]:
    """Return what determines the network of `spec`, complete with defaults, as plain data to keep."""
    return content_of(spec, NETWORK)


def network_changes(spec: ModelSpec, kept: Mapping[str, Any]) -> list[Change]:
    """Return where the network of `spec` is not the one that `network_of` gave at another time."""
    return changes_of(spec, kept, fields=NETWORK)


def has_digest_of_0_1_0(spec: ModelSpec, stated: str, *, arch_fields: Iterable[Collection[str]]) -> bool:
    """Return whether 0.1.0 stated the digest `stated` of the network of `spec`.

    That digest covered `training` and `expect` as well, so what these have gained since is left out. It is not known
    which fields the builder had then, and those that have their default may be new.

    Args:
        spec: a spec as it is now.
        stated: from a `zoo.lock` of lock version 1.
        arch_fields: fields of `arch` that the builder may have had then, beside all that it has now.
    """
    content = content_of(spec, (*NETWORK, "training", "expect"))
    content["training"] = _only(content["training"], _RECIPE_OF_0_1_0)
    content["expect"] = None if content["expect"] is None else _only(content["expect"], _EXPECT_OF_0_1_0)
    arch = content["arch"]
    set_here = {
        name
        for name, field in type(spec.arch).model_fields.items()
        if field.is_required() or getattr(spec.arch, name) != field.get_default(call_default_factory=True)
    }
    candidates = [arch, *(_only(arch, set_here | {*names}) for names in arch_fields)]
    return any(digest({**content, "arch": candidate}) == stated for candidate in candidates)


def _only(document: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name in names}


def is_same_function(first: ModelSpec, second: ModelSpec) -> bool:
    """Return whether weights of one network do the same in the other, as far as was measured.

    The architectures may differ as long as fingerprint, input, outputs and probe are the same. Where one is not
    measured, only an equal architecture is the same network.
    """
    outputs = [[(output.name, output.channels, output.stride) for output in spec.outputs] for spec in (first, second)]
    if first.input != second.input or outputs[0] != outputs[1]:
        return False
    same_arch = (first.builder, first.arch) == (second.builder, second.arch)
    if first.expect is None or second.expect is None:
        return same_arch
    if first.expect.fingerprint != second.expect.fingerprint:
        return False
    if first.expect.probe is None or second.expect.probe is None:
        return same_arch
    return _has_same_numbers(first.expect.probe, second.expect.probe)


def _has_same_numbers(first: Probe, second: Probe) -> bool:
    if first.input_shape != second.input_shape or first.outputs.keys() != second.outputs.keys():
        return False
    for name, output in first.outputs.items():
        other = second.outputs[name]
        if len(output.values) != len(other.values):
            return False
        for one, two in zip((output.rms, *output.values), (other.rms, *other.values), strict=True):
            if abs(one - two) > RELATIVE_TOLERANCE * abs(one) + ABSOLUTE_TOLERANCE * output.rms:
                return False
    return True


def may_change_function(path: Sequence[str]) -> bool:
    """Return whether a difference in the field at `path` (`outputs`, `ds_1`, `stride`) counts in `is_same_function`."""
    return path[0] in (*NETWORK, "expect") and not (path[0] == "outputs" and path[-1] == "loss_weight")
