"""The closed index of the formats that `zoo export` writes; without torch, so that help and completion are quick."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, cast

from connectomics_zoo.errors import MissingPackageError, OutputError, UnknownNameError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from connectomics_zoo.export.exported import Exported


class Format(NamedTuple):
    """A format: what of, which module writes it, and what that needs."""

    kind: Literal["network", "labels"]
    """What is exported: a network, of a reference; or a volume of labels."""
    module: str
    """The module that writes it, of `connectomics_zoo.export`; imported when it is used."""
    summary: str
    """What it is, for help and documentation."""
    packages: tuple[str, ...] = ()
    """Packages beyond those that are always there, as they are imported."""
    extra: str | None = None
    """The extra of this package that installs those."""
    suffix: str | None = None
    """What the name of the output ends in; None where that does not matter, or it is a folder."""
    trained_only: bool = False
    """Whether initial weights are refused."""


FORMATS: dict[str, Format] = {
    "onnx": Format(
        "network",
        "networks.onnx",
        "one file, for ONNX Runtime, TensorRT, browsers and most other programs",
        packages=("onnx", "onnxscript", "onnxruntime"),
        extra="export",
        suffix=".onnx",
    ),
    "torch-export": Format(
        "network", "networks.torch_export", "one file, for torch.export.load and torch's compilers", suffix=".pt2"
    ),
    "torchscript": Format(
        "network", "networks.torchscript", "one file, for torch.jit.load and C++ (LibTorch)", suffix=".pt"
    ),
    "openvino": Format(
        "network",
        "networks.openvino",
        "a folder of model.xml and model.bin, for OpenVINO",
        packages=("openvino",),
        extra="export",
    ),
    "bioimageio": Format(
        "network",
        "packages.bioimageio",
        "a folder or .zip for BioImage.IO, ilastik, Fiji: TorchScript, ONNX, test tensors, documentation",
        packages=("bioimageio.core", "onnx", "onnxscript", "onnxruntime"),
        extra="bioimageio",
        trained_only=True,
    ),
    "monai-bundle": Format(
        "network",
        "packages.monai_bundle",
        "a folder for MONAI: metadata, configuration of inference, weights",
        trained_only=True,
    ),
    "nnunet": Format(
        "network",
        "networks.nnunet",
        "a results folder of nnU-Net v2 (plans.json, dataset.json, fold_0), for nnUNetv2_predict; its own U-Nets alone",
    ),
    "precomputed": Format(
        "labels", "labels.run", "a folder, for Neuroglancer, with meshes and skeletons where they are asked for"
    ),
    "ome-zarr": Format("labels", "labels.run", "a folder of OME-Zarr 0.5, for napari, Fiji and others", suffix=".zarr"),
}
"""Every format by its name; a new one is a line here and a file in `export/networks`, or a line that says otherwise."""


class NetworkWriter(Protocol):
    """What the module of a format for networks has."""

    def write(self, exported: Exported, output: Path) -> None:
        """Write the network as a file or a folder at `output`, where nothing is.

        It must take the sizes of `exported.sizes`, and state `exported.provenance` in the format's own way.

        Raises:
            NotExportableError: the format cannot have this network, at these sizes.
        """

    def reader(self, output: Path) -> Callable[[Tensor], Tensor]:
        """Return what was written at `output` as its own program runs it: from inputs (B, C, …) to outputs (B, K, …).

        It is called for several legal sizes, and compared with what torch computes.
        """


def network_writer(name: str) -> NetworkWriter:
    """Return the module that writes networks in the format `name`.

    Raises:
        UnknownNameError: there is no such format for networks.
        MissingPackageError: a package that it needs is not installed.
    """
    known = names_of("network")
    if name not in known:
        raise UnknownNameError(f"{name!r} is no format that a network is exported in: {nearest(name, known)}")
    form = FORMATS[name]
    for package in form.packages:
        if not _is_installed(package):
            raise MissingPackageError(
                f"the format {name} needs the package {package}, which is not installed, run `pip install "
                f"'connectomics-zoo[{form.extra}]'`."
            )
    return cast("NetworkWriter", importlib.import_module(f"connectomics_zoo.export.{form.module}"))


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # not even what it is in
        return False


def check_name(name: str, output: Path) -> None:
    """Refuse a name of the output that programs of the format `name` would not take.

    Raises:
        OutputError: it has another ending.
    """
    suffix = FORMATS[name].suffix
    if suffix is not None and output.suffix.lower() != suffix:
        raise OutputError(
            f"{output}: a file of the format {name} has a name that ends in {suffix}, write "
            f"{output.with_name(output.name + suffix)}."
        )


def names_of(kind: Literal["network", "labels"]) -> list[str]:
    """Return the names of the formats of a kind, in the order of the index."""
    return [name for name, form in FORMATS.items() if form.kind == kind]
