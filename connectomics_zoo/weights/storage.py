"""Weights files: read without copying where that is safe, and written whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from connectomics_zoo.errors import WeightsError
from connectomics_zoo.files.atomic import whole_file
from connectomics_zoo.files.local import is_local
from connectomics_zoo.files.safetensors import MAX_HEADER, PICKLES, read_header
from connectomics_zoo.network.build import build_meta
from connectomics_zoo.schema.model import ModelSpec


def read_weights(path: Path, *, max_bytes: int | None = None) -> dict[str, Tensor]:
    """Return the tensors in the safetensors file at `path`, on the CPU; they may be written to.

    On a local file system they are the file's pages, mapped and copied where they are written: nothing is read before
    it is used, and nothing changes the file. The file may then be deleted or replaced by another of its name (as
    `write_weights` does), but whoever overwrites it in place changes the tensors.

    Args:
        path: the file.
        max_bytes: a larger file is refused before a tensor is read.

    Raises:
        WeightsError: it is missing, damaged, too large, or not safetensors; a pickle is refused before a byte of it is
            unpickled.
    """
    if path.suffix in PICKLES:
        raise WeightsError(
            f"{path}: {path.suffix} files are pickles, which can run code when they are read; "
            "only .safetensors is loaded: zoo convert makes one of it."
        )
    header = read_header(path)
    size = header.data_begin + max((tensor.end for tensor in header.tensors.values()), default=0)
    if max_bytes is not None and size > max_bytes:
        raise WeightsError(
            f"{path}: {size} bytes, and the network can need {max_bytes} at most: load the model that they are of."
        )
    # Where another machine can replace the file, touching a mapped page that is no longer there would end the process;
    # reading costs time, but nothing can happen afterwards.
    backend = "mmap" if is_local(path.parent) else "pread"
    try:
        with safe_open(path, framework="pt", backend=backend) as stream:
            return {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 (no iterator of its own)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error}), get it again.") from None


def largest_file(spec: ModelSpec) -> int:
    """Return the bytes that a weights file of the network can have: 8 for each element of all heads, and a header."""
    if spec.expect is not None:
        elements = spec.expect.parameters.training + spec.expect.buffers
    else:
        tensors = build_meta(spec, deep_supervision=True).state_dict().values()
        elements = sum(tensor.numel() for tensor in tensors)
    return 8 * elements + MAX_HEADER


def largest_start(spec: ModelSpec) -> int:
    """Return the bytes that a file to start from can have: its network may have more channels than that of `spec`."""
    return 8 * largest_file(spec)


def write_weights(network: nn.Module, path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write the network's state dict to `path` as safetensors; at no moment does a half-written file have that name.

    Raises:
        OutputError: it cannot be written.
    """
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in network.state_dict().items()}
    with whole_file(path, overwrite=True) as partial:
        save_tensors(tensors, partial, metadata=metadata or {})


def save_tensors(tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write `tensors` to a safetensors file that is as readable for others as any new file.

    Raises:
        OSError: it cannot be written.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata=dict(metadata))  # makes a file that its owner alone can read
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(mode)
