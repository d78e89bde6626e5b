"""The description of a model of BioImage.IO (`rdf.yaml`), as plain data.

Source: bioimageio.spec 0.5.12, bioimageio/spec/model/v0_5.py.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from connectomics_zoo.export.exported import Exported, is_fixed
from connectomics_zoo.export.networks import onnx
from connectomics_zoo.export.packages.facts import Citation, Facts
from connectomics_zoo.export.packages.samples import Samples
from connectomics_zoo.files.digests import file_sha256
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.tasks.activations import SCALE

FORMAT_VERSION = "0.5.12"
"""What bioimageio.core 0.11 reads; later ones read it too."""

TORCHSCRIPT_FILE = "weights-torchscript.pt"
ONNX_FILE = "weights.onnx"
INPUT_FILE = "test-input.npy"
OUTPUT_FILE = "test-output.npy"
COVER_FILE = "cover.png"
README_FILE = "README.md"
LICENSE_FILE = "LICENSE.md"

_LONGEST_DESCRIPTION = 512
_LONGEST_NAME = 64
_SHORTEST_NAME = 5

_CONTENT = {"mito": "mitochondria", "membrane": "cell-membrane", "bound": "cell-membrane", "affin": "cells"}
"""What a channel shows, in the words of BioImage.IO, by what is in its name."""


def describe(exported: Exported, facts: Facts, samples: Samples, folder: Path) -> dict[str, Any]:
    """Return the description of the package whose other files lie in `folder`.

    Args:
        exported: the network.
        facts: what is known of it.
        samples: the test tensors; they tell what the network crops.
        folder: where the files are that it names, with their digests.
    """
    name = re.sub(r"[^A-Za-z0-9_+() -]+", "-", facts.name)[:_LONGEST_NAME]
    document: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "type": "model",
        "name": name if len(name) >= _SHORTEST_NAME else f"{name} network",
        "description": facts.summary[:_LONGEST_DESCRIPTION],
        "version": exported.spec.version,
        "documentation": _file(folder, README_FILE),
        "covers": [_file(folder, COVER_FILE)],
        "tags": _tags(exported, facts),
        "cite": [_citation(one) for one in facts.citations if one.doi or one.url],
        "config": {"connectomics_zoo": dict(exported.provenance)},
        "inputs": [_input(exported, facts, folder)],
        "outputs": [_output(exported, facts, samples, folder)],
        "weights": _weights(folder),
    }
    if facts.authors:
        document["authors"] = [{"name": author.replace("/", "-")} for author in facts.authors]
    licence = _licence(facts.license, folder)
    if licence is not None:
        document["license"] = licence
    return document


def spdx_identifier(text: str) -> str | None:
    """Return the identifier that the list of SPDX has for the licence `text`, or None."""
    from bioimageio.spec.generic.v0_3 import LicenseId

    try:
        return str(LicenseId(re.sub(r"\s+", "-", text.strip())))
    except ValidationError:
        return None


def _licence(text: str | None, folder: Path) -> str | dict[str, str] | None:
    if text is None:
        return None
    return spdx_identifier(text) or _file(folder, LICENSE_FILE)


def _file(folder: Path, name: str) -> dict[str, str]:
    return {"source": name, "sha256": file_sha256(folder / name)}


def _citation(one: Citation) -> dict[str, str]:
    # An address would be asked for whenever the description is read, and a DOI says the same.
    return {"text": one.text, **({"doi": one.doi} if one.doi else {"url": one.url or ""})}


def _tags(exported: Exported, facts: Facts) -> list[str]:
    content = [word for part, word in _CONTENT.items() if any(part in name.lower() for name in facts.channels)]
    instances = exported.task is not None and exported.task.decode.is_instances
    return [
        "electron-microscopy",
        f"{len(exported.spec.input.axes)}d",
        *dict.fromkeys(content or ["tissue"]),
        "pytorch",
        "instance-segmentation" if instances else "semantic-segmentation",
        "connectomics",
        exported.spec.family.lower(),
    ]


def _input(exported: Exported, facts: Facts, folder: Path) -> dict[str, Any]:
    low, high = facts.intensity_range or (0, 255)
    gain = 1 / (high - low)
    spec, sizes = exported.spec, exported.sizes
    edges = [
        low if is_fixed(low, step) else {"min": low, "step": step}
        for low, step in zip(sizes.minimum, sizes.step, strict=True)
    ]
    grey = (
        "8-bit grey values; scale others to 0..255, black to white of their type"
        if facts.intensity_range is None
        else f"grey values, {low:g} black and {high:g} white"
    )
    names = ["raw"] if spec.input.channels == 1 else [f"raw_{index}" for index in range(spec.input.channels)]
    space = zip(spec.input.axes, edges, _scales(exported, facts), strict=True)
    return {
        "id": "image",
        "description": f"Electron microscopy: {grey}.",
        "axes": [
            _batch(exported),
            {"type": "channel", "channel_names": names},
            *(
                {"type": "space", "id": axis, "size": size, "concatenable": True, **scale}
                for axis, size, scale in space
            ),
        ],
        "test_tensor": _file(folder, INPUT_FILE),
        "data": {"type": "uint8" if facts.intensity_range is None else "float32", "range": [low, high]},
        "preprocessing": [
            {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
            {"id": "scale_linear", "kwargs": {"gain": gain, "offset": -low * gain}},
            {"id": "clip", "kwargs": {"min": 0.0, "max": 1.0}},
            {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
        ],
    }


def _batch(exported: Exported) -> dict[str, Any]:
    return {"type": "batch"} if exported.any_batch else {"type": "batch", "size": 1}


def _scales(exported: Exported, facts: Facts) -> list[dict[str, Any]]:
    """The voxel size for each axis, where it is known."""
    if facts.voxel_size_nm is None:
        return [{}] * len(exported.spec.input.axes)
    return [{"unit": "nanometer", "scale": edge} for edge in facts.voxel_size_nm]


def _output(exported: Exported, facts: Facts, samples: Samples, folder: Path) -> dict[str, Any]:
    offsets = [out - given for out, given in zip(samples.values.shape[2:], samples.raw.shape[2:], strict=True)]
    axes = zip(exported.spec.input.axes, offsets, _scales(exported, facts), _halo(exported, offsets), strict=True)
    values = "Values of the task" if exported.task is not None else "Logits"
    return {
        "id": "values",
        "description": f"{values}: {', '.join(facts.channels)}."[:128],
        "axes": [
            _batch(exported),
            {"type": "channel", "channel_names": list(facts.channels)},
            *(
                {
                    "type": "space",
                    "id": axis,
                    "size": {"tensor_id": "image", "axis_id": axis, "offset": offset},
                    **scale,
                    **({"halo": halo} if halo else {}),
                }
                for axis, offset, scale, halo in axes
            ),
        ],
        "test_tensor": _file(folder, OUTPUT_FILE),
        "data": {"type": "float32", "range": _range(exported.task)},
        "postprocessing": [] if exported.activation == "task" else postprocessing(exported.task) or [],
    }


def _halo(exported: Exported, offsets: list[int]) -> list[int]:
    """What to crop on each side, so that blocks fit together: of what they share in `zoo predict`, each its half.

    A network that crops by itself needs none; of the smallest input, half remains.
    """
    run, sizes = exported.run, exported.sizes
    if any(offsets) or run is None:
        return [0] * len(offsets)
    return [
        0 if is_fixed(low, step) else min(math.ceil(edge * run.prediction.overlap / 2), low // 4)
        for edge, low, step in zip(run.window, sizes.minimum, sizes.step, strict=True)
    ]


def postprocessing(task: TaskSpec | None) -> list[dict[str, Any]] | None:
    """Return the activations of a task in the words of BioImage.IO; None where it has none for them.

    Then the network must have them in itself.
    """
    if task is None:
        return []
    kinds = {channel.activation for channel in task.channels}
    if kinds == {"none"}:
        return []
    if kinds == {"sigmoid"}:
        return [{"id": "sigmoid"}]
    if kinds == {"scaled_sigmoid"}:
        return [{"id": "scale_linear", "kwargs": {"gain": SCALE}}, {"id": "sigmoid"}]
    if kinds == {"softmax"}:
        return [{"id": "softmax", "kwargs": {"axis": "channel"}}]
    return None


def _range(task: TaskSpec | None) -> list[float | None]:
    kinds = {"none"} if task is None else {channel.activation for channel in task.channels}
    if kinds <= {"sigmoid", "scaled_sigmoid", "softmax"}:
        return [0.0, 1.0]
    return [-1.0, 1.0] if "none" not in kinds else [None, None]


def _weights(folder: Path) -> dict[str, Any]:
    version = torch.__version__.partition("+")[0]
    weights: dict[str, Any] = {"torchscript": {**_file(folder, TORCHSCRIPT_FILE), "pytorch_version": version}}
    if (folder / ONNX_FILE).is_file():
        weights["onnx"] = {**_file(folder, ONNX_FILE), "opset_version": onnx.OPSET, "parent": "torchscript"}
    return weights
