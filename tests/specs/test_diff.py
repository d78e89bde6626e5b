"""Comparison: every field that differs, and what it means for weights that exist."""

from __future__ import annotations

import pytest

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.experiment import DataSpec, ExperimentSpec, PredictionSpec, RunSpec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.diff import diff_specs, flatten
from connectomics_zoo.specs.lookup import get_spec, get_task
from connectomics_zoo.specs.resolve import resolve_model


@pytest.fixture(scope="module")
def model():
    return get_spec("mednext-S")


def _changed(spec, **changes):
    """The spec with fields replaced by path: `a__b=value`; list elements by index."""
    document = spec.model_dump(mode="json")
    for path, value in changes.items():
        target = document
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("__")]
        for part in parents:
            target = target[part]
        target[last] = value
    return validate(type(spec), document, source="changed")


def _run(model, **changes):
    run = RunSpec(
        schema_version=1,
        kind="run",
        name="run",
        model=model,
        task=get_task("mito"),
        data=DataSpec(),
        training=model.training,
        prediction=PredictionSpec(window=model.training.patch_size),
    )
    return run.model_copy(update=changes)


def test_the_licence_of_a_volume_is_words_and_that_of_weights_is_not(model):
    run = _run(model)
    licensed = _run(model, data=DataSpec(license="CC0-1.0"))
    assert diff_specs(run, second=licensed).effect == "cosmetic"
    tag = next(iter(model.weights))
    weights = {**model.weights, tag: model.weights[tag].model_copy(update={"license": "MIT"})}
    comparison = diff_specs(model, second=model.model_copy(update={"weights": weights}))
    assert [item.path for item in comparison.differences] == [f"weights.{tag}.license"]
    assert comparison.effect == "weights-compatible"


def test_a_spec_equals_itself(model):
    assert diff_specs(model, second=model) == (None, [])


@pytest.mark.parametrize(
    ("changes", "effect", "paths"),
    [
        ({"summary": "Other."}, "cosmetic", ["summary"]),
        ({"source__paper": "Other."}, "cosmetic", ["source.paper"]),
        ({"training__batch_size": 5}, "weights-compatible", ["training.batch_size"]),
        ({"outputs__1__loss_weight": 0.1}, "weights-compatible", ["outputs.ds_1.loss_weight"]),
        ({"outputs__1__stride": [4, 4, 4]}, "breaking", ["outputs.ds_1.stride"]),
        ({"outputs__0__channels": 3}, "breaking", ["outputs.output.channels"]),
        ({"input__channels": 2}, "breaking", ["input.channels"]),
        ({"input__size__minimum": [32, 32, 32]}, "breaking", ["input.size.minimum"]),
        ({"expect__fingerprint": "sha256:" + "0" * 64}, "breaking", ["expect.fingerprint"]),
        ({"expect__probe__outputs__ds_2__rms": 1e6}, "breaking", ["expect.probe.outputs.ds_2.rms"]),
        ({"arch__checkpointing": True}, "weights-compatible", ["arch.checkpointing"]),
        ({"summary": "Other.", "training__seed": 9}, "weights-compatible", ["summary", "training.seed"]),
        ({"summary": "Other.", "input__channels": 9}, "breaking", ["summary", "input.channels"]),
    ],
)
def test_the_effect_is_that_of_the_gravest_field(model, changes, effect, paths):
    comparison = diff_specs(model, second=_changed(model, **changes))
    assert comparison.effect == effect
    assert [difference.path for difference in comparison.differences] == paths


def test_a_difference_says_before_and_after(model):
    ((path, change, before, after, effect),) = diff_specs(model, second=_changed(model, training__seed=7)).differences
    assert (path, change, before, after, effect) == ("training.seed", "changed", 0, 7, "weights-compatible")


def test_rounding_of_the_probe_is_no_other_function(model):
    rms = model.expect.probe.outputs["output"].rms
    close = _changed(model, expect__probe__outputs__output__rms=rms * 1.0001, arch__checkpointing=True)
    far = _changed(model, expect__probe__outputs__output__rms=rms * 1.01, arch__checkpointing=True)
    assert diff_specs(model, second=close).effect == "weights-compatible"
    assert diff_specs(model, second=far).effect == "breaking"


@pytest.mark.parametrize("arch", [{"kernel_size": 5}, {"norm": "layer"}, {"residual": False}, {"grn": True}])
def test_another_architecture_that_was_not_measured_is_breaking(model, arch):
    comparison = diff_specs(model, second=resolve_model(model, arch=arch))
    assert comparison.effect == "breaking"
    assert f"arch.{next(iter(arch))}" in [item.path for item in comparison.differences if item.effect == "breaking"]


def test_the_same_architecture_that_was_not_measured_is_the_same_network(model):
    bare = model.model_copy(update={"expect": None})
    assert diff_specs(model, second=bare).effect == "weights-compatible"
    assert diff_specs(bare, second=_changed(bare, training__seed=1)).effect == "weights-compatible"


def test_models_with_and_without_deep_supervision_differ_by_their_outputs(model):
    single = model.model_copy(update={"outputs": model.outputs[:1]})
    comparison = diff_specs(model, second=single)
    assert comparison.effect == "breaking"
    assert ("outputs.ds_1.stride", "removed") in [(item.path, item.change) for item in comparison.differences]
    assert ("outputs.ds_1.stride", "added") in [item[:2] for item in diff_specs(single, second=model).differences]


@pytest.mark.parametrize(
    ("changes", "effect"),
    [
        ({"summary": "Other."}, "cosmetic"),
        ({"decode__threshold": 0.3}, "weights-compatible"),
        ({"metrics": ["iou"]}, "weights-compatible"),
        ({"channels__0__losses__0__weight": 2.0}, "weights-compatible"),
        ({"channels__0__name": "other"}, "breaking"),
        ({"channels__0__target__kind": "boundary"}, "breaking"),
    ],
)
def test_tasks_are_compared_by_what_their_channels_mean(changes, effect):
    task = get_task("mito")
    assert diff_specs(task, second=_changed(task, **changes)).effect == effect


def test_the_order_of_channels_is_a_difference():
    document = get_task("mito").model_dump(mode="json")
    document["channels"].append({**document["channels"][0], "name": "second"})
    first = validate(TaskSpec, document, source="first")
    swapped = validate(TaskSpec, document | {"channels": document["channels"][::-1]}, source="swapped")
    comparison = diff_specs(first, second=swapped)
    assert comparison.effect == "breaking"
    assert [item.path for item in comparison.differences] == ["channels"]


def test_experiments_break_with_their_model_task_or_architecture():
    document = {"schema_version": 1, "name": "a", "summary": "A.", "model": "m", "task": "t", "data": {}}
    first = validate(ExperimentSpec, document, source="first")
    for changes, effect in (
        ({"model": "n"}, "breaking"),
        ({"arch": {"kernel_size": 5}}, "breaking"),
        ({"training": {"seed": 3}}, "weights-compatible"),
        ({"data": {"license": "MIT"}}, "cosmetic"),
        ({"data": {"root": "x"}}, "weights-compatible"),
    ):
        assert diff_specs(first, second=validate(ExperimentSpec, document | changes, source="second")).effect == effect


def test_runs_are_compared_whole_and_with_models_by_their_model(model):
    first = _run(model)
    assert diff_specs(first, second=_run(model, versions={"torch": "9"})).effect == "cosmetic"
    assert diff_specs(first, second=_run(model, training=_changed(model, training__seed=3).training)).effect == (
        "weights-compatible"
    )
    other = _run(_changed(model, input__channels=2))
    comparison = diff_specs(first, second=other)
    assert (comparison.effect, comparison.differences[0].path) == ("breaking", "model.input.channels")
    assert diff_specs(first, second=model) == (None, [])
    assert diff_specs(model, second=other).differences[0].path == "input.channels"


def test_two_kinds_cannot_be_compared(model):
    with pytest.raises(SpecError, match=r"'mednext-S' is a model and 'mito' a task, compare two of a kind"):
        diff_specs(model, second=get_task("mito"))


def test_every_field_of_a_model_counts(model):
    """Any top-level field, changed, is reported; none is forgotten by the comparison."""
    document = model.model_dump(mode="json")
    leaves = flatten(document)
    assert {path.partition(".")[0] for path in leaves} == set(ModelSpec.model_fields)


def test_lists_are_flattened_by_name_or_by_index():
    document = {"a": [{"name": "x", "b": 1}, {"name": "y", "b": 2}], "c": [{"d": 1}], "e": [1, 2], "f": {}, "g": []}
    assert flatten(document) == {
        "a": ["x", "y"],
        "a.x.b": 1,
        "a.y.b": 2,
        "c.0.d": 1,
        "e": [1, 2],
        "f": {},
        "g": [],
    }
    same_name = {"a": [{"name": "x"}, {"name": "x"}]}
    assert flatten(same_name) == {"a.0.name": "x", "a.1.name": "x"}
