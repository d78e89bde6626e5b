"""A results folder of nnU-Net v2: plans.json, dataset.json and fold_0/checkpoint_final.pth, which it predicts from.

Written after nnU-Net 2.8.1, `nnunetv2/inference/predict_from_raw_data.py` (what is read of such a folder) and
`nnunetv2/experiment_planning/experiment_planners/default_experiment_planner.py` (what plans hold).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from connectomics_zoo.export.exported import Exported, NotExportableError, is_fixed
from connectomics_zoo.network.build import build, build_meta
from connectomics_zoo.schema.builder import plans_architecture
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.plans import PlansArchitecture, PlansRequest
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights.storage import read_weights

CHECKPOINT = "fold_0/checkpoint_final.pth"

_PACKAGE = "dynamic_network_architectures"

_TRAINER = "nnUNetTrainer"
"""It builds the network of the plans, whatever that is."""

_GREY_VALUES = (0.0, 255.0)
"""What is scaled to 0 to 1 where no run says otherwise: the range of 8 bits."""


def write(exported: Exported, output: Path) -> None:
    """Write the folder; see `NetworkWriter`."""
    architecture = _architecture(exported)
    if exported.activation != "none":
        raise NotExportableError(
            f"{exported.reference}: nnU-Net applies softmax or sigmoid by itself, export the logits (activation none)."
        )
    dataset = _dataset(exported)
    plans = _plans(exported, architecture)
    (output / CHECKPOINT).parent.mkdir(parents=True)
    for name, document in (("plans.json", plans), ("dataset.json", dataset)):
        (output / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    torch.save(
        {
            "network_weights": _state(exported, architecture),
            "optimizer_state": {},
            "grad_scaler_state": None,
            "logging": {},
            "_best_ema": None,
            "current_epoch": 0,
            "init_args": {
                "plans": plans,
                "configuration": _configuration_name(exported.spec),
                "fold": 0,
                "dataset_json": dataset,
                "device": torch.device("cpu"),
            },
            "trainer_name": _TRAINER,
            "inference_allowed_mirroring_axes": _mirrored(exported),
        },
        output / CHECKPOINT,
    )


def reader(output: Path) -> Callable[[Tensor], Tensor]:
    """Return the network of the written plans with the written weights; see `NetworkWriter`.

    It is nnU-Net's where its package of networks is installed. Else ours stands for it, made anew of the plans.
    """
    content = torch.load(output / CHECKPOINT, weights_only=True)
    plans = json.loads((output / "plans.json").read_text(encoding="utf-8"))
    configuration = plans["configurations"][content["init_args"]["configuration"]]
    state = content["network_weights"]
    if importlib.util.find_spec(_PACKAGE) is None:
        network = _network_of(plans["zoo"]["builder"], configuration, state)
    else:
        network = _original_network_of(configuration["architecture"], state, channels=plans["zoo"]["channels"])
    network.eval()

    def run(image: Tensor) -> Tensor:
        with torch.no_grad():
            return cast("Tensor", network(image))

    return run


def _original_network_of(
    described: Mapping[str, Any], state: Mapping[str, Tensor], *, channels: list[int]
) -> nn.Module:
    """Return nnU-Net's network with `state`, all of it, as `get_network_from_plans` makes it."""
    arguments = dict(described["arch_kwargs"])
    for name in described["_kw_requires_import"]:
        if arguments[name] is not None:
            arguments[name] = _named(arguments[name])
    make = _named(described["network_class_name"])
    network: nn.Module = make(input_channels=channels[0], num_classes=channels[1], **arguments)
    network.load_state_dict(state)
    return network


def _named(name: str) -> Any:
    """Return a class by the name that the plans which were just written have for it."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _network_of(builder: str, configuration: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Return our network of plans with `state`, in which tensors that have several names must be equal."""
    architecture = plans_architecture(builder)
    assert architecture is not None
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    planned = architecture.translate(PlansRequest(configuration, tuple(configuration["patch_size"]), shapes))
    spec = resolve_model(
        planned.model, arch=planned.arch, in_channels=planned.in_channels, out_channels=planned.out_channels
    )
    network = build(spec, deep_supervision=True)
    network.load_state_dict({key: state[key] for key in network.state_dict()})
    return network


def _architecture(exported: Exported) -> PlansArchitecture:
    """Return how nnU-Net's plans say the network, where they can."""
    architecture = plans_architecture(exported.spec.builder)
    if architecture is None or architecture.describe is None or architecture.repeats is None:
        raise NotExportableError(
            f"{exported.reference} cannot be exported as nnunet: from plans nnU-Net builds ResidualEncoderUNet and "
            f"PlainConvUNet alone, and this network is made by {exported.spec.builder}, choose another format."
        )
    return architecture


def _state(exported: Exported, architecture: PlansArchitecture) -> dict[str, Tensor]:
    """Return the state dict as nnU-Net's network has it: every scale has a head, and tensors have several names.

    Heads that the weights do not have, which no prediction uses, are zeros.
    """
    state = dict(exported.network.state_dict())
    kept = {} if exported.trained is None else read_weights(exported.trained.path)
    for key, tensor in build_meta(exported.spec, deep_supervision=True).state_dict().items():
        if key not in state:
            found = kept.get(key)
            fits = found is not None and found.shape == tensor.shape
            state[key] = found.float() if fits and found is not None else torch.zeros(tensor.shape, dtype=tensor.dtype)
    assert architecture.repeats is not None
    return {name: state[key] for name, key in architecture.repeats(exported.spec.arch, state).items()}


def _configuration_name(spec: ModelSpec) -> str:
    return "3d_fullres" if len(spec.input.axes) == 3 else "2d"


def _mirrored(exported: Exported) -> tuple[int, ...] | None:
    """Return the axes to flip in prediction: all where the run does, none where it does not, or nothing is known."""
    views = "one" if exported.run is None else exported.run.prediction.views
    return None if views == "one" else tuple(range(len(exported.spec.input.axes)))


def _patch(exported: Exported) -> list[int]:
    """Return the size of a window: the one that was asked for, else that of the weights, else of the recipe."""
    sizes = exported.sizes
    if all(is_fixed(low, step) for low, step in zip(sizes.minimum, sizes.step, strict=True)):
        return list(sizes.minimum)
    return list(exported.spec.training.patch_size if exported.run is None else exported.run.window)


def _plans(exported: Exported, architecture: PlansArchitecture) -> dict[str, Any]:
    """Return plans with what nnU-Net reads of them to predict.

    Grey values are scaled as here by what it has for CT: clipped, then less a mean, then over a deviation.
    """
    assert architecture.describe is not None
    axes = len(exported.spec.input.axes)
    data = None if exported.run is None else exported.run.data
    voxel = (1.0, 1.0, 1.0) if data is None or data.network_voxel_nm is None else data.network_voxel_nm
    low, high = _GREY_VALUES if data is None or data.intensity_range is None else data.intensity_range
    channels = range(exported.spec.input.channels)
    patch = _patch(exported)
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"zoo_{_configuration_name(exported.spec)}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": exported.spec.training.batch_size,
        "patch_size": patch,
        "median_image_size_in_voxels": [float(edge) for edge in patch],
        "spacing": list(voxel[-axes:]),
        "normalization_schemes": ["CTNormalization" for _ in channels],
        "use_mask_for_norm": [False for _ in channels],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "batch_dice": False,
        "architecture": architecture.describe(exported.spec.arch),
    }
    grey = {"mean": low, "std": high - low, "percentile_00_5": low, "percentile_99_5": high, "min": low, "max": high}
    return {
        "dataset_name": _dataset_name(exported),
        "plans_name": "zooPlans",
        "original_median_spacing_after_transp": list(voxel),
        "original_median_shape_after_transp": ([1] * 3 + patch)[-3:],
        "image_reader_writer": "Tiff3DIO" if axes == 3 else "NaturalImage2DIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {_configuration_name(exported.spec): configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(channel): grey | {"median": low} for channel in channels},
        "zoo": {
            "builder": exported.spec.builder,
            "channels": [exported.spec.input.channels, exported.spec.outputs[0].channels],
            "provenance": dict(exported.provenance),
        },
    }


def _dataset_name(exported: Exported) -> str:
    return f"Dataset001_{exported.spec.name}"


def _dataset(exported: Exported) -> dict[str, Any]:
    """Return dataset.json: channels of a softmax are labels, the first one background; those of sigmoids are regions.

    A region is a label of its own and one that all share, so that no channel excludes another.
    """
    count = exported.spec.outputs[0].channels
    names = [f"channel_{index}" for index in range(count)]
    activations = {"sigmoid"} if count == 1 else {"softmax"}
    if exported.task is not None:
        names = [channel.name for channel in exported.task.channels]
        activations = {channel.activation for channel in exported.task.channels}
    labels: dict[str, Any] = {"background": 0}
    order: dict[str, Any] = {}
    if activations == {"softmax"}:
        labels |= {name: index for index, name in enumerate(names[1:], start=1)}
    elif activations == {"sigmoid"}:
        regions = [f"{name}_" if name == "background" else name for name in names]
        labels |= {name: [index, count + 1] for index, name in enumerate(regions, start=1)}
        order = {"regions_class_order": list(range(1, count + 1))}
    else:
        raise NotExportableError(
            f"{exported.reference} cannot be exported as nnunet: its channels have {' and '.join(sorted(activations))}"
            ", and nnU-Net's are those of one softmax or have a sigmoid each, choose another format."
        )
    return {
        "name": _dataset_name(exported),
        "channel_names": {str(channel): "EM" for channel in range(exported.spec.input.channels)},
        "labels": labels,
        **order,
        "numTraining": 0,
        "file_ending": ".tif" if len(exported.spec.input.axes) == 3 else ".png",
        **_credits(exported.provenance),
    }


def _credits(provenance: Mapping[str, str]) -> dict[str, str]:
    """Return what dataset.json has a place for."""
    places = {"description": "summary", "licence": "weights_license", "reference": "weights_attribution"}
    return {place: provenance[key] for place, key in places.items() if key in provenance}
