"""`import zoo`: the public names, each imported when it is first used."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import typing
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from connectomics_zoo.errors import ZooError

NAMES = {
    "list_models",
    "get_spec",
    "get_task",
    "get_experiment",
    "load",
    "verify",
    "view",
    "train",
    "predict",
    "decode",
    "evaluate",
    "fit",
    "measure",
    "suggest",
    "compare",
    "export",
    "open_volume",
    "Box",
    "scale_intensity",
    "make_targets",
    "task_loss",
    "supervised_losses",
    "activate",
    "print_available_architectures",
    "build_model",
    "ZooError",
    "__version__",
}


def test_the_public_names_are_these():
    assert set(zoo.__all__) == NAMES
    assert set(dir(zoo)) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_public_name_is_there(name):
    assert getattr(zoo, name) is not None


def test_what_type_checkers_see_is_what_is_imported():
    tree = ast.parse(Path(zoo.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == zoo._MODULES
    assert set(seen) | {"__version__"} == NAMES
    for name, module in seen.items():
        assert getattr(zoo, name) is getattr(importlib.import_module(module), name)


def test_the_version_is_that_of_the_distribution():
    assert zoo.__version__ == importlib.metadata.version("connectomics-zoo")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(AttributeError, match=r"module 'zoo' has no attribute 'list_model', did you mean 'list_models'"):
        zoo.list_model  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'lod'"):
        from zoo import lod  # noqa: F401


def test_every_error_is_a_value_error():
    with pytest.raises(zoo.ZooError, match="unknown model"):
        zoo.get_spec("nothing")
    assert zoo.ZooError is ZooError
    assert issubclass(ZooError, ValueError)


@pytest.mark.parametrize("name", sorted(NAMES - {"ZooError", "__version__"}))
def test_public_functions_are_documented_and_take_no_kwargs(name):
    function = getattr(zoo, name)
    assert inspect.getdoc(function)
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert inspect.Parameter.VAR_POSITIONAL not in kinds


def test_the_ten_lines_of_the_tour_work():
    assert "mednext-S" in zoo.list_models("mednext*")
    spec = zoo.get_spec("mednext-S")
    assert spec.expect.parameters.training == 5_552_843
    assert zoo.get_task("mito").channels[0].name == "mitochondria"
    network = zoo.load("mednext-S", arch={"base_channels": 2}, in_channels=2)
    assert network.spec.input.channels == 2


def test_an_argument_is_the_same_in_every_verb_that_has_it():
    verbs = [zoo.train, zoo.predict, zoo.decode, zoo.evaluate, zoo.measure, zoo.verify]
    kinds = {}
    for verb in verbs:
        hints = typing.get_type_hints(verb)
        for parameter in inspect.signature(verb).parameters.values():
            kinds.setdefault(parameter.name, set()).add((str(hints[parameter.name]), str(parameter.default)))
    assert "changes" not in kinds
    for name in ("overrides", "region", "mask", "voxel_size_nm", "workers", "overwrite", "progress", "device"):
        assert len(kinds[name]) == 1, (name, kinds[name])


@pytest.mark.parametrize("name", ["organelles", "vnc-classes", "affinities-6"])
def test_a_network_of_a_task_learns_by_what_the_page_on_own_code_names(name):
    task = zoo.get_task(name)
    network = zoo.load("mednext-S", out_channels=len(task.channels), arch={"base_channels": 2, "block_counts": [1] * 9})
    image = torch.rand(1, 1, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    volumes = task.volumes or (None,)
    labels = np.random.default_rng(0).integers(0, 60, (len(volumes), 16, 32, 32))
    made = zoo.make_targets(
        labels if volumes != (None,) else labels[0], task=task, voxel_size_nm=(8, 8, 8), volumes=volumes
    )
    targets, known = (torch.from_numpy(array)[None] for array in made)
    losses = zoo.supervised_losses(network.train()(image), targets, known, model=network.spec, task=task)
    losses["loss"].backward()
    heads = [tensor for key, tensor in network.named_parameters() if len(tensor) == len(task.channels)]
    assert heads
    assert all(tensor.grad.abs().max() > 0 for tensor in heads)
    assert set(losses) == {"loss", "output", "ds_1", "ds_2", "ds_3", "ds_4"}
    with torch.inference_mode():
        values = zoo.activate(network.eval()(image), task=task)
    assert values.shape == targets.shape
    assert 0 <= values.min() <= values.max() <= 1
