"""`zoo export --format nnunet`: a folder from whose plans nnU-Net builds the network, and loads all its weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.exporting import make_small_run
from support.nnunet import BOTTLENECK, PLAIN, PLANAR, RESIDUAL, network_from_plans

import zoo
from connectomics_zoo.convert.run import convert
from connectomics_zoo.errors import ZooError
from connectomics_zoo.export.run import export_network
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.network.build import build
from connectomics_zoo.runs.folder import SPEC_FILE, WEIGHTS_FILE
from connectomics_zoo.schema.experiment import DataSpec, PredictionSpec, RunSpec
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights.storage import write_weights

CASES = {
    "residual": RESIDUAL | {"dropout": 0.25},
    "plain": PLAIN | {"activation_first": True, "dropout": 0.25, "norm": "batch"},
    "bottleneck": BOTTLENECK | {"bias": False, "dropout": 0.25},
    "planar": PLANAR,
    "bare": PLAIN | {"norm": "none", "activation": "gelu"},
}


def run_folder(folder: Path, arch: dict[str, Any], task: str = "mito", **data: Any) -> Path:
    """Write a run folder of the network, with random weights and all heads."""
    tasks = get_task(task)
    model = resolve_model("nnunet-resenc-M", arch=arch, out_channels=len(tasks.channels))
    size = model.input.size.round_up((8, 16, 16)[-len(model.input.axes) :])
    run = RunSpec(
        schema_version=1,
        kind="run",
        name="small",
        model=model,
        task=tasks,
        data=DataSpec(**data),
        training=model.training,
        prediction=PredictionSpec(window=size, views="flips"),
    )
    folder.mkdir()
    (folder / SPEC_FILE).write_text(dump_yaml(run.model_dump(mode="json")))
    torch.manual_seed(0)
    network = build(model, deep_supervision=True)
    network.train()(torch.randn(2, 1, *size))  # running statistics of batch norm
    write_weights(network, folder / WEIGHTS_FILE)
    return folder


def loaded(folder: Path) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return nnU-Net's network with the weights of the folder, as its predictor restores it; plans; dataset.json."""
    content = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)
    plans = json.loads((folder / "plans.json").read_text())
    dataset = json.loads((folder / "dataset.json").read_text())
    assert content["init_args"]["plans"] == plans
    assert content["trainer_name"] == "nnUNetTrainer"
    configuration = plans["configurations"][content["init_args"]["configuration"]]
    labels = dataset["labels"]
    is_regions = any(isinstance(value, list) and len(value) > 1 for value in labels.values())
    heads = len(labels) - 1 if is_regions else len(labels)
    assert not is_regions or len(dataset["regions_class_order"]) == heads
    network = network_from_plans(
        configuration["architecture"], inputs=len(dataset["channel_names"]), outputs=heads, deep_supervision=False
    )
    network.load_state_dict(content["network_weights"])
    return network.eval(), plans, dataset


@pytest.mark.parametrize("kind", CASES)
def test_nnunet_builds_the_network_from_the_plans_and_loads_all_of_it(kind, tmp_path, monkeypatch):
    run = run_folder(tmp_path / "run", CASES[kind])
    if kind == "plain":  # where nnU-Net is not installed, ours is made anew of the plans to compare with
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    report = export_network(run, tmp_path / "out", format="nnunet")
    monkeypatch.undo()
    assert len(report.compared) == 3
    assert report.dynamic
    network, plans, _ = loaded(tmp_path / "out")
    spec = zoo.load(run).spec
    x = torch.randn(2, 1, *spec.input.size.minimum)
    with torch.no_grad():
        assert torch.equal(network(x), zoo.load(run)(x))
    network.decoder.deep_supervision = True
    full = zoo.load(run, deep_supervision=True).train()
    for layer in full.modules():
        if "Dropout" in type(layer).__name__ or "BatchNorm" in type(layer).__name__:
            layer.eval()
    for mine, theirs in zip(full(x).values(), network(x), strict=True):
        torch.testing.assert_close(mine, theirs)
    name = "2d" if kind == "planar" else "3d_fullres"
    assert plans["configurations"][name]["patch_size"] == list((8, 16, 16)[-len(spec.input.axes) :])


def test_the_folder_says_how_grey_values_voxels_and_channels_are(tmp_path):
    data = {"voxel_size_nm": (40.0, 8.0, 8.0), "intensity_range": (10.0, 250.0), "downsample": (1, 2, 2)}
    run = run_folder(tmp_path / "run", RESIDUAL, task="affinities-3", **data)
    export_network(run, tmp_path / "out", format="nnunet")
    _, plans, dataset = loaded(tmp_path / "out")
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["spacing"] == [40.0, 16.0, 16.0]
    assert configuration["normalization_schemes"] == ["CTNormalization"]
    grey = plans["foreground_intensity_properties_per_channel"]["0"]
    values = torch.tensor([0.0, 10.0, 130.0, 250.0, 255.0])
    scaled = (values.clip(grey["percentile_00_5"], grey["percentile_99_5"]) - grey["mean"]) / grey["std"]
    assert scaled.tolist() == [0, 0, 0.5, 1, 1]
    assert dataset["labels"]["background"] == 0
    assert len(dataset["labels"]) == 4
    content = torch.load(tmp_path / "out" / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert content["inference_allowed_mirroring_axes"] == (0, 1, 2)
    again = convert(tmp_path / "out" / "fold_0" / "checkpoint_final.pth", tmp_path / "back")
    x = torch.randn(1, 1, 8, 16, 16)
    with torch.no_grad():
        assert torch.equal(zoo.load(tmp_path / "back")(x), zoo.load(run)(x))
    assert again.copies > again.tensors


def test_softmax_channels_are_labels_and_initial_weights_have_a_folder_too(tmp_path):
    (tmp_path / "tiny.yaml").write_text(
        dump_yaml(
            resolve_model("nnunet-resenc-M", arch=RESIDUAL, out_channels=3).model_dump(mode="json") | {"name": "tiny"}
        )
    )
    export_network(tmp_path / "tiny.yaml", tmp_path / "out", format="nnunet", size=(8, 16, 32))
    _, plans, dataset = loaded(tmp_path / "out")
    assert dataset["labels"] == {"background": 0, "channel_1": 1, "channel_2": 2}
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [8, 16, 32]


def test_what_nnunet_cannot_have_is_refused_in_a_sentence(tmp_path):
    other = make_small_run(tmp_path / "other")
    with pytest.raises(ZooError, match=r"cannot be exported as nnunet: from plans nnU-Net builds ResidualEncoderUNet"):
        export_network(other, tmp_path / "out", format="nnunet")
    own = run_folder(tmp_path / "run", RESIDUAL)
    with pytest.raises(ZooError, match=r"nnU-Net applies softmax or sigmoid by itself, export the logits"):
        export_network(own, tmp_path / "out", format="nnunet", activation="task")
    signed = run_folder(tmp_path / "signed", RESIDUAL, task="mito-instance")
    with pytest.raises(ZooError, match=r"its channels have .*, and nnU-Net's are those of one softmax or have a sig"):
        export_network(signed, tmp_path / "out", format="nnunet")
    assert not (tmp_path / "out").exists()
