"""What is promised of a network: what was measured of it, its sizes, its outputs, its gradients, its state."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from connectomics_zoo.conformance.subject import ON_NETWORK, Model
from connectomics_zoo.errors import InputSizeError, SpecError
from connectomics_zoo.network.build import (
    build,
    build_meta,
    count_flops,
    measure_static_expectation,
    run_probe,
)
from connectomics_zoo.network.meta_pass import MetaPass
from connectomics_zoo.schema.limits import MAX_EDGE
from connectomics_zoo.schema.model import Expectation, ModelSpec
from connectomics_zoo.specs.expectation import compare_counts, compare_probe, equal
from connectomics_zoo.weights.transfer import transfer

SEED = 0

STEPS = 3
"""How many legal sizes beyond the smallest one are tried on each axis."""


@functools.lru_cache(maxsize=1)
def _network(model: Model) -> nn.Module:
    """The network with all heads, always from the same random state; the last one alone is kept."""
    return _seeded(model.spec, deep_supervision=True)


def _seeded(spec: ModelSpec, *, deep_supervision: bool) -> nn.Module:
    torch.manual_seed(SEED)
    return build(spec, deep_supervision=deep_supervision)


def _input(spec: ModelSpec, *, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(SEED + 1)
    return torch.randn(batch, spec.input.channels, *spec.input.size.minimum, generator=generator)


def _evaluate(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        output: Tensor = network.eval()(x)
    return output


def _expect(model: Model) -> Expectation:
    if model.spec.expect is None:
        raise SpecError(f"expect was not measured, record it with: zoo record {model.spec.reference}")
    return model.spec.expect


def counts(model: Model) -> list[str]:
    """Parameters, buffers and FLOPs are those that were recorded."""
    declared, spec = _expect(model), model.spec
    checks = [
        check
        for check in compare_counts(declared, measure_static_expectation(spec))
        if check.path != "expect.fingerprint"
    ]
    if declared.flops is not None:
        with MetaPass():  # type: ignore[no-untyped-call]
            single = build_meta(spec, deep_supervision=False)
            total = count_flops(single, declared.flops.input_shape)
        checks.append(equal("expect.flops.total", declared.flops.total, total))
    return [f"{model.name}: {check.describe()}" for check in checks if not check.ok]


def fingerprint(model: Model) -> list[str]:
    """The keys, shapes and types of the state dict are those that were recorded."""
    declared, measured = _expect(model), measure_static_expectation(model.spec)
    check = equal("expect.fingerprint", declared.fingerprint, measured.fingerprint, "keys, shapes or types changed")
    return [] if check.ok else [f"{model.name}: {check.describe()}"]


def probe(model: Model) -> list[str]:
    """For weights and input that follow from names and shapes, the network computes the recorded numbers."""
    declared = _expect(model).probe
    if declared is None:
        return [f"{model.name}: expect.probe was not measured, record it with: zoo record {model.spec.reference}"]
    measured = run_probe(model.spec, declared.input_shape)
    return [f"{model.name}: {check.describe()}" for check in compare_probe(declared, measured) if not check.ok][:3]


def _legal_sizes(spec: ModelSpec) -> Iterator[tuple[int, ...]]:
    """Yield the smallest size, with some steps on each axis, and on all of them."""
    minimum, step = spec.input.size.minimum, spec.input.size.step
    yield minimum
    for number in range(1, STEPS + 1):
        moved = tuple(low + number * by for low, by in zip(minimum, step, strict=True))
        for axis in range(len(minimum)):
            yield (*minimum[:axis], moved[axis], *minimum[axis + 1 :])
        yield moved


def legal_sizes(model: Model) -> list[str]:
    """Every output has its declared channels, and its stride, at all legal sizes that are tried (without memory)."""
    spec, problems = model.spec, []
    with MetaPass():  # type: ignore[no-untyped-call]
        network = build_meta(spec, deep_supervision=True)
        for size in _legal_sizes(spec):
            if max(size) > MAX_EDGE:
                continue
            with torch.no_grad():
                returned = network.train()(torch.empty((1, spec.input.channels, *size), device="meta"))
                evaluated = network.eval()(torch.empty((1, spec.input.channels, *size), device="meta"))
            outputs = returned if isinstance(returned, dict) else {spec.outputs[0].name: returned}
            given = spec.input.given(size)
            wanted = {
                output.name: [1, output.channels, *(edge // by for edge, by in zip(given, output.stride, strict=True))]
                for output in spec.outputs
            }
            found = {name: list(value.shape) for name, value in outputs.items()}
            if found != wanted:
                problems.append(f"{model.name}: for {list(size)} it returns {found}, declared are {wanted}.")
            full = [1, spec.outputs[0].channels, *given]
            if not isinstance(evaluated, Tensor) or list(evaluated.shape) != full:
                problems.append(f"{model.name}: in evaluation at {list(size)} it does not return one tensor of {full}.")
    return problems[:3]


def illegal_sizes(model: Model) -> list[str]:
    """What is not legal is refused with our error: one voxel less or more on each axis, and other channels."""
    minimum, step = model.spec.input.size.minimum, model.spec.input.size.step
    channels = model.spec.input.channels
    shapes = [(channels + 1, *minimum)]
    for axis, (low, by) in enumerate(zip(minimum, step, strict=True)):
        edges = [low - 1] * (low > 1) + [low + 1] * (by > 1)
        shapes += [(channels, *minimum[:axis], edge, *minimum[axis + 1 :]) for edge in edges]
    network = _network(model)
    return [
        f"{model.name}: an input of the shape {[1, *shape]} is not legal, but was not refused."
        for shape in shapes
        if not _is_refused(network, shape)
    ]


def _is_refused(network: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        _evaluate(network, torch.zeros(1).expand(1, *shape))  # takes no memory
    except InputSizeError:
        return True
    return False


def deep_supervision(model: Model) -> list[str]:
    """In training, the outputs come in the declared order; without their heads, nothing else is computed."""
    spec = model.spec
    names = [output.name for output in spec.outputs]
    returned = _network(model).train()(_input(spec))
    if len(names) == 1:
        if isinstance(returned, Tensor):
            return []
        return [f"{model.name}: in training it returns a {type(returned).__name__}, and one tensor is declared."]
    if not isinstance(returned, dict) or list(returned) != names:
        found = list(returned) if isinstance(returned, dict) else type(returned).__name__
        return [f"{model.name}: in training it returns {found}, declared are {names} in this order."]
    single = _seeded(spec, deep_supervision=False)
    report = transfer(single, _network(model).state_dict(), spec=spec, source="the network with all heads")
    if report.reinitialised:
        return [f"{model.name}: without its heads it has tensors of its own: {', '.join(report.reinitialised[:3])}."]
    if not torch.equal(_evaluate(single, _input(spec)), _evaluate(_network(model), _input(spec))):
        return [f"{model.name}: with the same weights, it computes something else without its heads."]
    if not isinstance(single.train()(_input(spec)), Tensor):
        return [f"{model.name}: built without deep supervision, it still returns several outputs in training."]
    return []


def evaluation(model: Model) -> list[str]:
    """In evaluation it returns one finite tensor, changes nothing, and treats each of a batch by itself."""
    network, spec = _network(model), model.spec
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = _input(spec, batch=2)
    both = _evaluate(network, x)
    if not isinstance(both, Tensor):
        return [f"{model.name}: in evaluation it returns a {type(both).__name__}, it must be one tensor."]
    problems = []
    if not bool(both.isfinite().all()):
        problems.append(f"{model.name}: in evaluation it returns NaN or infinite numbers.")
    if not torch.allclose(both[:1], _evaluate(network, x[:1]), rtol=1e-3, atol=1e-4 * float(both.abs().max())):
        problems.append(f"{model.name}: in evaluation the output of a volume depends on the others of its batch.")
    changed = [key for key, value in network.state_dict().items() if not torch.equal(value, before[key])]
    if changed:
        problems.append(f"{model.name}: in evaluation it changes its state: {', '.join(changed[:3])}.")
    return problems


def gradients(model: Model) -> list[str]:
    """Every parameter that is trained gets a finite gradient."""
    network = _network(model)
    network.zero_grad(set_to_none=True)
    returned = network.train()(_input(model.spec))
    outputs = returned.values() if isinstance(returned, dict) else [returned]
    torch.stack([output.square().mean() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    without = [
        name
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not bool(parameter.grad.isfinite().all()))
    ]
    network.zero_grad(set_to_none=True)
    if not without:
        return []
    return [f"{model.name}: {len(without)} parameter(s) get no finite gradient: {', '.join(without[:3])}."]


def safetensors(model: Model) -> list[str]:
    """What a file in safetensors holds of its state is all of it: read back, it computes the same."""
    network, other = _network(model), build(model.spec, deep_supervision=True)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "state.safetensors")
        save_model(network, file)
        missing, unexpected = load_model(other, file, strict=False)
    if missing or unexpected:
        keys = ", ".join([*missing, *unexpected][:3])
        return [f"{model.name}: its state dict does not come back from safetensors: {keys}."]
    if torch.equal(_evaluate(network, _input(model.spec)), _evaluate(other, _input(model.spec))):
        return []
    return [f"{model.name}: read back from safetensors it computes something else, so some of its state is not in it."]


def determinism(model: Model) -> list[str]:
    """From one random state come the same parameters, and the same numbers in training and evaluation."""
    first, second = (_seeded(model.spec, deep_supervision=True) for _ in range(2))
    states = first.state_dict(), second.state_dict()
    differ = [key for key, value in states[0].items() if not torch.equal(value, states[1][key])]
    if differ:
        return [f"{model.name}: built twice from one random state, it starts otherwise: {', '.join(differ[:3])}."]
    x = _input(model.spec)
    for network in (first, second):
        torch.manual_seed(SEED)
        network.train()(x)
    if not torch.equal(_evaluate(first, x), _evaluate(second, x)):
        return [f"{model.name}: the same input and weights give other numbers the second time."]
    return []


def _isolated(check: Callable[[Model], list[str]]) -> Callable[[Model], list[str]]:
    """Let the random state afterwards be what it was."""

    @functools.wraps(check)
    def run(model: Model) -> list[str]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return check(model)

    return run


CHECKS: dict[str, Callable[[Model], list[str]]] = {
    what: _isolated(check)
    for what, check in {
        "counts": counts,
        "fingerprint": fingerprint,
        "probe": probe,
        "legal-sizes": legal_sizes,
        "illegal-sizes": illegal_sizes,
        "deep-supervision": deep_supervision,
        "evaluation": evaluation,
        "gradients": gradients,
        "safetensors": safetensors,
        "determinism": determinism,
    }.items()
}
"""Each check by what is promised."""

assert tuple(CHECKS) == ON_NETWORK
