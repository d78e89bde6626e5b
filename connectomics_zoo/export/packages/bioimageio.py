"""A model of BioImage.IO, as a folder or zip file: TorchScript and ONNX, test tensors, and a description.

The network's arithmetic is in both files of weights, so that no code of ours is needed to run them.
"""

from __future__ import annotations

import importlib.metadata
import io
import random
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from connectomics_zoo.errors import CheckFailedError, LimitError, MissingPackageError, SpecError
from connectomics_zoo.export.check import compare
from connectomics_zoo.export.exported import Exported, NotExportableError
from connectomics_zoo.export.networks import onnx, torchscript
from connectomics_zoo.export.packages.facts import facts_of
from connectomics_zoo.export.packages.readme import licence_text, readme
from connectomics_zoo.export.packages.resource import (
    COVER_FILE,
    INPUT_FILE,
    LICENSE_FILE,
    ONNX_FILE,
    OUTPUT_FILE,
    README_FILE,
    TORCHSCRIPT_FILE,
    describe,
    postprocessing,
)
from connectomics_zoo.export.packages.samples import make_samples, write_picture
from connectomics_zoo.files.yaml import dump_yaml

DESCRIPTION_FILE = "rdf.yaml"
"""The name by which every version of bioimageio.spec finds the description."""


def write(exported: Exported, output: Path) -> None:
    """Write the package, a zip file where that is its name, and let it pass `bioimageio test`; see `NetworkWriter`.

    The files of weights hold the network with its logits; the task's activations are postprocessing, unless the network
    is asked to have them in itself.

    Raises:
        WeightsError: the network is not trained.
        SpecError: BioImage.IO has no words for the task's activations.
        CheckFailedError: bioimageio's own test does not pass.
    """
    _refuse_activations(exported)
    if exported.suffix != ".zip":
        output.mkdir()
        _fill(exported, output)
        return
    with tempfile.TemporaryDirectory() as folder:
        _fill(exported, Path(folder))
        with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(Path(folder).iterdir()):
                archive.write(file, file.name)


def reader(output: Path) -> Callable[[Tensor], Tensor]:
    """Return the network as TorchScript runs it, as which ONNX was compared when it was written."""
    if output.is_dir():
        return torchscript.reader(output / TORCHSCRIPT_FILE)
    with zipfile.ZipFile(output) as archive:
        content = io.BytesIO(archive.read(TORCHSCRIPT_FILE))
    return torchscript.load(content)


def _refuse_activations(exported: Exported) -> None:
    if exported.activation == "none" and postprocessing(exported.task) is None:
        assert exported.task is not None
        kinds = ", ".join(sorted({channel.activation for channel in exported.task.channels}))
        raise SpecError(
            f"{exported.reference}: BioImage.IO has no words for the activations of the task {exported.task.name} "
            f"({kinds}), export it with --activation task, which puts them into the network."
        )


def _fill(exported: Exported, folder: Path) -> None:
    """Write the files of the package into `folder`, and test it."""
    facts = facts_of(exported, format="bioimageio")
    torchscript.write(exported, folder / TORCHSCRIPT_FILE)
    _write_onnx(exported, folder / ONNX_FILE)
    samples = make_samples(exported, facts)
    np.save(folder / INPUT_FILE, samples.raw)
    np.save(folder / OUTPUT_FILE, samples.values)
    write_picture(folder / COVER_FILE, samples)
    (folder / README_FILE).write_text(readme(exported, facts), encoding="utf-8")
    (folder / LICENSE_FILE).write_text(licence_text(facts), encoding="utf-8")
    document = describe(exported, facts, samples, folder)
    (folder / DESCRIPTION_FILE).write_text(dump_yaml(document), encoding="utf-8")
    _test(exported, folder)


def _write_onnx(exported: Exported, path: Path) -> None:
    """Write the network as ONNX too, where that can have it at the same sizes and computes the same."""
    try:
        onnx.write(exported, path)
        compare(exported, onnx.reader(path), name="onnx")
    except (NotExportableError, LimitError):
        path.unlink(missing_ok=True)  # TorchScript has it


def _test(exported: Exported, folder: Path) -> None:
    """Run what `bioimageio test` runs."""
    from bioimageio.core import test_description

    refuse_broken_pair()
    with _own_randomness():
        summary = test_description(folder / DESCRIPTION_FILE, expected_type="model", devices=["cpu"])
    if summary.status != "passed":
        raise CheckFailedError(
            f"{exported.reference}: bioimageio's test of the package does not pass ({_first_error(summary)}), nothing "
            "is exported."
        )


def refuse_broken_pair() -> None:
    """Refuse versions of bioimageio.spec that cannot write any model with this pydantic."""
    spec, pydantic = (importlib.metadata.version(name) for name in ("bioimageio.spec", "pydantic"))
    if _numbers(spec) < (0, 5, 14) and _numbers(pydantic) >= (2, 14):
        raise MissingPackageError(
            f"bioimageio.spec {spec} does not work with pydantic {pydantic}, run `pip install 'pydantic<2.14'`, or "
            "`pip install --no-deps 'bioimageio.spec>=0.5.14.3'`."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _first_error(summary: Any) -> str:
    errors = (error for detail in summary.details for error in detail.errors)
    return next((f"{'.'.join(map(str, error.loc))}: {error.msg}"[:300] for error in errors), summary.status)


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Put the random generators back, which the test seeds for the whole process."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
