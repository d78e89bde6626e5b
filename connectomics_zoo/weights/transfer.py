"""Puts weights into a network: strictly, with a report in which every tensor has its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from connectomics_zoo.errors import WeightsError
from connectomics_zoo.network.build import build, build_meta
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.report import Report, Table
from connectomics_zoo.schema.svg import shares
from connectomics_zoo.weights.keys import KeyMatch, match_keys


@dataclass(frozen=True)
class LoadReport(Report):
    """Where each tensor of a loaded network came from; together the four groups hold every key."""

    source: str
    """What was loaded: a file, or `initialisation`."""
    exact: tuple[str, ...] = ()
    """Keys that were copied as they are, or from a smaller precision, which changes no value."""
    adapted: tuple[tuple[str, str], ...] = ()
    """Keys that were converted, each with the rule."""
    reinitialised: tuple[str, ...] = ()
    """Keys of the network that keep their fresh initialisation."""
    dropped: tuple[str, ...] = ()
    """Keys of the source that the network has no use for."""
    prefix: str = ""
    """What stood before the network's keys in the source, and was removed."""
    renamed: int = 0
    """How many tensors had another implementation's name in the source."""

    def table(self) -> Table:
        """Return how many tensors there are of each kind, and which."""
        groups = {
            "exact": self.exact,
            "adapted": tuple(f"{key} ({rule})" for key, rule in self.adapted),
            "re-initialised": self.reinitialised,
            "dropped": self.dropped,
        }
        rows = [
            (name, str(len(keys)), ", ".join(keys[:3]) + (", …" if len(keys) > 3 else ""))
            for name, keys in groups.items()
            if keys
        ]
        return Table((f"tensors of {self.source}", "number", "which"), rows)

    def picture(self) -> str:
        """Return which part of the tensors is of each kind."""
        return shares(
            [
                ("exact", len(self.exact)),
                ("adapted", len(self.adapted)),
                ("re-initialised", len(self.reinitialised)),
                ("dropped", len(self.dropped)),
            ]
        )

    def summary(self) -> str:
        """One line: how many tensors of each kind."""
        parts = [f"{len(self.exact)} exact"]
        parts += [f"prefix {self.prefix!r} removed"] if self.prefix else []
        parts += [f"{self.renamed} under another implementation's names"] if self.renamed else []
        for label, keys in (
            ("adapted", [f"{key} ({rule})" for key, rule in self.adapted]),
            ("re-initialised", list(self.reinitialised)),
            ("dropped", list(self.dropped)),
        ):
            if keys:
                shown = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
                parts.append(f"{len(keys)} {label}: {shown}")
        return f"{self.source}: " + "; ".join(parts)


@dataclass(frozen=True)
class Roles:
    """The keys of a network by what decides their shape, found by building it with other channels."""

    stem: frozenset[str]
    """Keys that follow the number of input channels."""
    head: frozenset[str]
    """Keys that follow the number of output channels."""
    scales: frozenset[str]
    """Keys that only deep supervision has."""


_NO_ROLES = Roles(frozenset(), frozenset(), frozenset())
"""The roles where every shape fits, which nobody has to ask for."""


def find_roles(spec: ModelSpec) -> Roles:
    """Return the roles of the keys of `spec`'s network, from builds without memory."""
    base = _shapes(spec)
    wider_input = spec.with_channels(inputs=spec.input.channels + 1)
    wider_output = spec.with_channels(outputs=spec.outputs[0].channels + 1)
    single = build_meta(spec, deep_supervision=False).state_dict()
    return Roles(
        stem=_changed(base, _shapes(wider_input)),
        head=_changed(base, _shapes(wider_output)),
        scales=frozenset(base.keys() - single.keys()),
    )


def _shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    state = build_meta(spec, deep_supervision=True).state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def _changed(first: dict[str, tuple[int, ...]], second: dict[str, tuple[int, ...]]) -> frozenset[str]:
    return frozenset(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))


def transfer(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    spec: ModelSpec,
    source: str,
    resample_kernels: bool = False,
) -> LoadReport:
    """Copy `weights` into `network` and report on every tensor.

    A prefix that all keys of the network have in `weights` is removed, and what lies beside it dropped; tensors may
    have another implementation's names, and those that no output depends on may be absent.

    Equal shapes are copied, also from a smaller precision; a larger one is converted. Where the channels differ, the
    stem is adapted and the heads are re-initialised; deep-supervision heads may be absent on either side. With
    `resample_kernels`, larger kernels are made from smaller ones by trilinear interpolation (UpKern, Roy et al. 2023).
    Anything else is an error, and then nothing has been copied.

    Args:
        network: the network of `spec`, freshly initialised.
        weights: tensors by key.
        spec: the resolved spec of `network`.
        source: names the weights in the report and in errors.
        resample_kernels: allow UpKern.

    Raises:
        WeightsError: a key is missing or unknown, or a shape or type cannot be adapted.
    """
    state = network.state_dict(keep_vars=True)
    plan = _plan(state, weights, spec=spec, source=source, resample_kernels=resample_kernels)
    with torch.no_grad():
        for key, value in plan.values.items():
            state[key].copy_(value)
    return plan.report


def build_with_weights(
    spec: ModelSpec,
    weights: Mapping[str, Tensor],
    *,
    deep_supervision: bool,
    source: str,
    resample_kernels: bool = False,
    same_shapes: bool = False,
) -> tuple[nn.Module, LoadReport]:
    """Return the network of `spec` with `weights`, transferred as by `transfer`, and the report on every tensor.

    The network takes over the memory of `weights`, which nobody else may use any more. It is initialised only if a
    parameter keeps its initialisation.

    Args:
        spec: a resolved spec.
        weights: tensors by key, on the CPU.
        deep_supervision: give the network the heads at all scales.
        source: names the weights in the report and in errors.
        resample_kernels: allow UpKern.
        same_shapes: refuse other shapes, also where they could be adapted.

    Raises:
        WeightsError: a key is missing or unknown, or a shape or type cannot be adapted.
    """
    network = build(spec, deep_supervision=deep_supervision, initialise=False)
    state = network.state_dict(keep_vars=True)
    if same_shapes:
        _refuse_shapes(state, weights, source=source)
    plan = _plan(state, weights, spec=spec, source=source, resample_kernels=resample_kernels)
    given = {id(state[key]) for key in plan.values}
    if any(id(parameter) not in given for parameter in network.parameters()):
        network = build(spec, deep_supervision=deep_supervision)
        state = network.state_dict(keep_vars=True)
    _adopt(network, [(state[key], value) for key, value in plan.values.items()])
    return network, plan.report


def _adopt(network: nn.Module, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Make each second tensor the memory of the first, the network's; copy it where that memory could not take over.

    That is where tensors of the network share memory, where the device, type or order differs, and where the file
    holds a tensor at an odd address.
    """
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    storages = {key: tensor.untyped_storage() for key, tensor in tensors.items()}
    users = Counter(storage.data_ptr() for storage in storages.values())
    sole = {
        key
        for key, storage in storages.items()
        if users[storage.data_ptr()] == 1 and storage.nbytes() == tensors[key].nbytes
    }
    with torch.no_grad():
        for tensor, value in pairs:
            alike = _layout(tensor) == _layout(value)
            if id(tensor) in sole and alike and value.data_ptr() % value.element_size() == 0:
                tensor.data = value
            else:
                tensor.copy_(value)


def _layout(tensor: Tensor) -> tuple[torch.device, torch.dtype, tuple[int, ...]]:
    return tensor.device, tensor.dtype, tensor.stride()


@dataclass(frozen=True)
class _Plan:
    """What a transfer will do."""

    values: dict[str, Tensor]
    """What each key of the network gets, in its shape."""
    report: LoadReport


def _plan(
    state: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, spec: ModelSpec, source: str, resample_kernels: bool
) -> _Plan:
    """Decide on every tensor of a network's `state`, and of `weights`; nothing of either is changed."""
    match = _match(state, weights, spec=spec, source=source)
    weights = weights if match is None else _under_own_names(weights, match)
    shared = state.keys() & weights.keys()
    missing = state.keys() - weights.keys()
    unknown = weights.keys() - state.keys()
    changed = {key for key in shared if not _holds(state[key], weights[key])}
    same_shapes = not (missing or unknown) and all(state[key].shape == weights[key].shape for key in changed)
    roles = _NO_ROLES if same_shapes else find_roles(spec)

    adapted: dict[str, tuple[Tensor, str]] = {}
    fresh = set(missing & (roles.scales.union(match.filled) if match else roles.scales))
    unfit: list[str] = []
    for key in changed:
        old, new = weights[key], state[key]
        channels = spec.input.channels if key in roles.stem else None
        # A buffer is no learned kernel: interpolated, RSUNet's fixed upsampling would no longer sum to one.
        learned = isinstance(new, nn.Parameter)
        adaptation = _adapt(old, new, input_channels=channels, resample_kernels=resample_kernels and learned)
        if adaptation is not None:
            adapted[key] = adaptation
        elif key in roles.head and _one_axis(old, new) is not None:
            fresh.add(key)
        else:
            unfit.append(f"{key} {_describe(old, new)} for {_describe(new, old)}")
    where = f"{source} (under the prefix {match.prefix!r})" if match and match.prefix else source
    _refuse(where, missing=missing - fresh, unknown=unknown - roles.scales, unfit=unfit)
    exact = {key: weights[key] for key in state if key in shared - changed}
    report = LoadReport(
        source,
        exact=tuple(exact),
        adapted=tuple((key, adapted[key][1]) for key in state if key in adapted),
        reinitialised=tuple(key for key in state if key in fresh),
        dropped=(*sorted(unknown), *(match.outside if match else ())),
        prefix=match.prefix if match else "",
        renamed=match.renamed if match else 0,
    )
    return _Plan(exact | {key: value for key, (value, _) in adapted.items()}, report)


def _match(
    state: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, spec: ModelSpec, source: str
) -> KeyMatch | None:
    """Return where the network's tensors lie in `weights`, None where their keys are the network's or another's."""
    if state.keys() == weights.keys():
        return None
    network = build_meta(spec, deep_supervision=True).state_dict().keys() | state.keys()
    matches = [match for match in match_keys(network, weights, builder=spec.builder) if _is_most(match)]
    if len(matches) > 1:
        places = ", ".join(repr(match.prefix) for match in matches)
        raise WeightsError(
            f"{source}: holds the network {len(matches)} times, under the prefixes {places}: "
            f"choose one by zoo convert --at {matches[0].prefix}"
        )
    return matches[0] if matches else None


def _is_most(match: KeyMatch) -> bool:
    """Whether at least half of the network was found, so that the rest is worth a word."""
    return len(match.keys) > len(match.missing)


def _under_own_names(weights: Mapping[str, Tensor], match: KeyMatch) -> dict[str, Tensor]:
    """Return `weights` by the network's keys, and what is unknown without the prefix."""
    unknown = {key.removeprefix(match.prefix): weights[key] for key in match.unknown}
    return unknown | {key: weights[found] for key, found in match.keys.items()}


def _holds(new: Tensor, old: Tensor) -> bool:
    """Whether `new` can have exactly the values of `old`: a float32 those of a float16, not the other way round."""
    if new.shape != old.shape:
        return False
    wider = new.is_floating_point() and old.is_floating_point()
    return new.dtype == (torch.promote_types(new.dtype, old.dtype) if wider else old.dtype)


def _describe(tensor: Tensor, other: Tensor) -> str:
    """What tells `tensor` from `other`: its shape, or its type where the shapes are equal."""
    return str(list(tensor.shape)) if tensor.shape != other.shape else _dtype(tensor)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _refuse(source: str, *, missing: set[str], unknown: set[str], unfit: Collection[str]) -> None:
    problems = []
    for label, keys in (
        ("missing", sorted(missing)),
        ("unknown", sorted(unknown)),
        ("of another shape or type", sorted(unfit)),
    ):
        if keys:
            shown = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
            problems.append(f"{len(keys)} {label} ({shown})")
    if problems:
        raise WeightsError(
            f"{source}: the weights do not fit the network: {'; '.join(problems)}; "
            "load the model that they were trained as."
        )


def _refuse_shapes(state: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, source: str) -> None:
    shared = [key for key in state if key in weights and state[key].shape != weights[key].shape]
    unfit = {f"{key} {_describe(weights[key], state[key])} for {_describe(state[key], weights[key])}" for key in shared}
    _refuse(source, missing=set(), unknown=set(), unfit=unfit)


def _adapt(
    old: Tensor, new: Tensor, *, input_channels: int | None, resample_kernels: bool
) -> tuple[Tensor, str] | None:
    """Return `old` in the shape of `new`, and the rule that made it, or None where none fits.

    `input_channels` are the network's, if the tensor follows them.
    """
    if not (old.dtype == new.dtype or (old.is_floating_point() and new.is_floating_point())):
        return None
    value, rules = old, []
    if old.shape != new.shape:
        axis = _one_axis(old, new)
        if axis is not None and new.shape[axis] == input_channels and axis == (0 if new.ndim == 1 else 1):
            value = _adapt_channels(old, input_channels, axis)
            rules.append(f"{old.shape[axis]} to {input_channels} input channels by their mean")
            rules += ["sum kept"] if new.ndim > 1 else []
        elif resample_kernels and _is_smaller_kernel(old, new):
            value = _resample_kernel(old, tuple(new.shape[2:]))
            rules.append(f"kernel {_edges(old)} to {_edges(new)} by interpolation (UpKern)")
        else:
            return None
    if old.dtype != new.dtype:
        rules.append(f"{_dtype(old)} to {_dtype(new)}")
    return value, ", ".join(rules)


def _one_axis(old: Tensor, new: Tensor) -> int | None:
    """The one axis along which two shapes differ, or None."""
    if old.ndim != new.ndim:
        return None
    axes = [axis for axis in range(old.ndim) if old.shape[axis] != new.shape[axis]]
    return axes[0] if len(axes) == 1 else None


def _adapt_channels(old: Tensor, channels: int, axis: int) -> Tensor:
    """The mean over the input channels, `channels` times; what a convolution sums over them stays the same."""
    mean = old.float().mean(dim=axis, keepdim=True)
    if old.ndim > 1:
        mean = mean * (old.shape[axis] / channels)
    return mean.repeat_interleave(channels, dim=axis)


def _is_smaller_kernel(old: Tensor, new: Tensor) -> bool:
    return (
        old.ndim == new.ndim
        and old.ndim >= 4
        and old.shape[:2] == new.shape[:2]
        and all(small <= large for small, large in zip(old.shape[2:], new.shape[2:], strict=True))
    )


def _resample_kernel(old: Tensor, size: tuple[int, ...]) -> Tensor:
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return F.interpolate(old.float(), size=size, mode=mode, align_corners=False)


def _edges(kernel: Tensor) -> str:
    return "x".join(str(edge) for edge in kernel.shape[2:])
