"""What builders say of MONAI's own classes: these have the network's tensors, in the same order and shapes."""

from __future__ import annotations

import json

import pytest
import torch
from monai.networks import nets

from connectomics_zoo import catalog
from connectomics_zoo.network.build import build_meta
from connectomics_zoo.schema.builder import monai_definition
from connectomics_zoo.specs.lookup import get_spec

DEFINED = sorted(
    {
        spec.builder: spec.name
        for spec in (get_spec(name) for name in sorted(catalog.names_of("model")))
        if vars(__import__(catalog.builder_import_path(spec.builder), fromlist=["x"])).get("monai_definition")
    }.values()
)


def test_monais_networks_are_defined():
    assert len(DEFINED) >= 8


@pytest.mark.parametrize("name", DEFINED)
def test_the_class_has_the_networks_tensors(name):
    spec = get_spec(name)
    found = monai_definition(spec.builder, spec.arch, in_channels=2, out_channels=8)
    assert found is not None
    kind, arguments = found
    # MONAI's SwinUNETR reads a value in its constructor, which the meta device does not have.
    with torch.device("cpu" if kind == "SwinUNETR" else "meta"):
        theirs = getattr(nets, kind)(**json.loads(json.dumps(arguments))).state_dict()
    ours = build_meta(spec.with_channels(inputs=2, outputs=8), deep_supervision=False).state_dict()
    assert [(key, tensor.shape) for key, tensor in theirs.items()] == [
        (key, tensor.shape) for key, tensor in ours.items()
    ]
