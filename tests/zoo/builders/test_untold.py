"""What tensors do not tell: every field that changes what is computed and no tensor's name or shape is named."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from support import valid_network
from support.nnunet import BOTTLENECK, PLAIN
from support.record_primus import CASES as PRIMUS_CASES

from connectomics_zoo import catalog
from connectomics_zoo.errors import ZooError
from connectomics_zoo.network.build import build_meta, fingerprint
from connectomics_zoo.schema.builder import builder_module, inert_keys, untold_fields
from connectomics_zoo.specs.resolve import resolve_model

UNET = {"channels": [8, 8, 8], "strides": [[2, 2, 2]] * 2}
PRIMUS = PRIMUS_CASES["cubes"]
CASES: list[tuple[str, dict[str, Any]]] = [
    ("cellmap-fly", valid_network.ARCH),
    ("cellmap-fly", valid_network.ARCH | {"upsampling": "transposed", "output_stride": [1, 2, 2]}),
    ("mednext-S", {"base_channels": 2, "block_counts": [1] * 9, "expansion_ratios": [1, 2, 3, 4, 4, 4, 3, 2, 1]}),
    ("mednext-S-25d", {"base_channels": 2, "block_counts": [1] * 9, "expansion_ratios": [1, 2, 3, 4, 4, 4, 3, 2, 1]}),
    ("lsd-unet-aniso", UNET | {"kernel_sizes": [[3, 3, 3]] * 3}),
    ("lsd-unet-aniso", UNET | {"kernel_sizes": [[3, 3, 3]] * 3, "upsampling": "deconv"}),
    ("monai_attention_unet", UNET),
    ("monai_basic_unet3d", {"channels": [8] * 6}),
    ("monai_basic_unet3d", {"channels": [8] * 6, "norm": "group", "activation": "prelu"}),
    ("monai_basic_unet_plusplus", {"channels": [8] * 6}),
    ("monai_dynunet", {}),
    ("monai_dynunet", {"norm": "batch"}),
    ("monai_segresnet", {"base_channels": 8}),
    ("monai_segresnet", {"base_channels": 8, "norm": "batch", "activation": "prelu"}),
    ("monai_segresnet_ds", {"base_channels": 8}),
    ("monai_segresnet_ds", {"base_channels": 8, "norm": "instance"}),
    ("monai_swin_unetr", {"feature_size": 12, "num_heads": [1] * 4}),
    ("monai_unet", UNET),
    ("monai_unet", UNET | {"norm": "group", "activation": "relu", "num_res_units": 0}),
    ("monai_unetr", {"hidden_size": 24, "mlp_dim": 8, "num_heads": 2}),
    ("monai_vnet", {}),
    ("monai_vnet", {"activation": "prelu"}),
    ("omniem", {"hidden_size": 12, "depth": 4, "num_heads": 2, "grid_edge": 2, "adapter_channels": 2}),
    ("pytorch3dunet", {"channels": [8, 16]}),
    ("pytorch3dunet-residual", {"channels": [8, 16]}),
    ("nnunet-plain", PLAIN),
    ("nnunet-plain", PLAIN | {"norm_affine": False}),
    ("nnunet-resenc-M", BOTTLENECK),
    ("nnunet-primus-S", PRIMUS),
    ("rsunet", {"norm": "batch", "activation": "prelu"}),
    ("rsunet", {"norm": "group", "activation": "leakyrelu"}),
    ("rsunet", {"norm": "instance"}),
]

TRAINING_ONLY = {"dropout", "attention_dropout", "path_dropout", "checkpointing", "backend", "initial_slope"}
"""What nothing in evaluation depends on."""

NEEDS = {"num_groups": ("norm", "group"), "negative_slope": ("activation", "leakyrelu")}
"""What counts only beside another value."""

SPELLINGS = {"encoder_kernel_size", "decoder_kernel_size"}
"""What another field says, too."""


def literals(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [value for item in typing.get_args(annotation) for value in literals(item)]


def others(value: Any, annotation: Any) -> list[Any]:
    """Other values that a field may have."""
    if isinstance(value, bool):
        return [not value]
    if literals(annotation):
        return [item for item in literals(annotation) if item != value]
    if isinstance(value, int):
        return [2 * value, value // 2, value + 1, value + 2]
    if isinstance(value, float):
        return [value + 0.125]
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return [[[edge, 2, 2], *map(list, value[1:])] for edge in (1, 3, 4)]
    if isinstance(value, tuple):
        return [[2 * item for item in value], [item // 2 for item in value]]
    return [[40.0, 8.0, 8.0]] if value is None else []


@pytest.mark.parametrize(("model", "arch"), CASES)
def test_every_field_that_leaves_names_and_shapes_is_named(model, arch):
    spec = resolve_model(model, arch=arch, out_channels=8)
    named = untold_fields(spec.builder, spec.arch)
    print_of = fingerprint(build_meta(spec, deep_supervision=True))
    for field, info in type(spec.arch).model_fields.items():
        needed = NEEDS.get(field)
        if needed and needed[0] not in type(spec.arch).model_fields:
            needed = None
        if field in TRAINING_ONLY | SPELLINGS or (needed and getattr(spec.arch, needed[0]) != needed[1]):
            continue
        for value in others(getattr(spec.arch, field), info.annotation):
            try:
                other = resolve_model(spec, arch={field: value})
            except ZooError:
                continue
            same = fingerprint(build_meta(other, deep_supervision=True)) == print_of
            assert not same or field in named or other.arch == spec.arch, f"{field} {value}"


def test_every_builder_of_the_catalogue_says_what_tensors_do_not_tell():
    names = [name for name in catalog.builders() if builder_module(name).__name__.startswith("zoo.")]
    assert len(names) >= 13
    assert [name for name in names if "untold" not in vars(builder_module(name))] == []
    assert {resolve_model(model).builder for model, _ in CASES} == set(names)


def test_a_builder_that_does_not_say_is_taken_to_tell_nothing(monkeypatch):
    monkeypatch.delattr(builder_module("monai_vnet"), "untold")
    assert untold_fields("monai_vnet", resolve_model("monai_vnet").arch) == ("activation", "dropout")


def test_inert_tensors_are_named_by_patterns_that_the_networks_have():
    assert inert_keys("mednext") == ("dummy_tensor",)
    assert inert_keys("rsunet") == ()
