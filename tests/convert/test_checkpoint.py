"""Files of other projects: read without running anything, and refused in one sentence."""

from __future__ import annotations

import gzip
import io
import os
import pathlib
import pickle
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints import content_of
from torch import nn

from connectomics_zoo.convert import checkpoint as checkpoint_module
from connectomics_zoo.convert.checkpoint import read_foreign_checkpoint
from connectomics_zoo.convert.key_map import key_maps
from connectomics_zoo.convert.run import convert
from connectomics_zoo.errors import LimitError, WeightsError, ZooError
from connectomics_zoo.weights.storage import read_weights


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class Quiet:
    """A class that a pickle may name only where a map has it."""


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(legacy, spec, state, tmp_path):
    trap = tmp_path / "trap"
    torch.save(
        {**content_of("mednext", state), "more": Harmful(trap)},
        tmp_path / "a.model",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(WeightsError, match=r"its pickle names '\S+', which could run code and is on no format's list"):
        convert(tmp_path / "a.model", tmp_path / "out", model=spec)
    assert not trap.exists()
    torch.load(tmp_path / "a.model", weights_only=False)
    assert trap.exists(), "the trap must be one"


def test_a_harmless_class_that_is_on_no_list_is_refused_even_if_other_code_permitted_it(spec, state, tmp_path):
    torch.save({"state_dict": state, "config": Quiet()}, tmp_path / "a.pt")
    with torch.serialization.safe_globals([Quiet]):
        with pytest.raises(WeightsError, match=r"names '[\w.]*test_checkpoint.Quiet', which could run code"):
            convert(tmp_path / "a.pt", tmp_path / "out", model=spec)
        assert Quiet in torch.serialization.get_safe_globals()


def test_afterwards_as_much_is_permitted_as_before(spec, state, tmp_path):
    torch.save(content_of("mednext", state), tmp_path / "a.model")
    before = set(torch.serialization.get_safe_globals())
    convert(tmp_path / "a.model", tmp_path / "out", model=spec)
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_name_that_another_format_may_have_is_refused(spec, state, tmp_path):
    torch.save({**content_of("nnunet-v2", state), "path": pathlib.PurePosixPath("/a")}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"'pathlib.PurePosixPath', which no checkpoint of nnunet-v2 does"):
        convert(tmp_path / "a.pth", tmp_path / "out", model=spec)
    with pytest.raises(WeightsError, match=r"'pathlib.PurePosixPath', which could run code and is on no format's list"):
        convert(tmp_path / "a.pth", tmp_path / "out", model=spec, source_format="nnunet-v2")


def test_what_replaces_a_class_holds_nothing(spec, state, tmp_path, pytc_config, monkeypatch):
    torch.save(content_of("pytc-old", state, pytc_config), tmp_path / "a.ckpt")
    monkeypatch.undo()
    read = read_foreign_checkpoint(tmp_path / "a.ckpt", list(key_maps().values()))
    replaced = read.content["hyper_parameters"]["cfg"]
    assert type(replaced).__module__ == checkpoint_module.__name__
    assert vars(replaced) == {}
    assert "connectomics.config.hydra_config.Config" in read.pickled


@pytest.mark.parametrize("kind", ["mednext", "pytc-v1"])
def test_files_from_before_pytorch_1_6_are_read(kind, spec, state, tmp_path):
    torch.save(content_of(kind, state), tmp_path / "a.pth.tar", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "a.pth.tar")
    convert(tmp_path / "a.pth.tar", tmp_path / "out", model=spec)
    written = read_weights(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[key], state[key]) for key in state)


def _rewritten(content: bytes, *, compression: int = zipfile.ZIP_STORED, pickled: bytes | None = None) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, pickled if pickled is not None and name.endswith("/data.pkl") else old.read(name))
    return stream.getvalue()


def _saved(content: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def _tar(content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.pth"), io.BytesIO(content))
    return stream.getvalue()


def _zip(**records: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"archive/{name.replace('_', '.')}", content)
    return stream.getvalue()


def _flipped(content: bytes, *, of: bytes) -> bytes:
    place = content.index(of)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


GOOD = {"state_dict": {"a": torch.arange(100.0)}}
LEGACY = _saved(GOOD, _use_new_zipfile_serialization=False)
BAD_FILES = {
    "empty": (b"", "not a file that torch.save writes"),
    "text": (b"hello, world\n" * 50, "not a file that torch.save writes, give a checkpoint"),
    "a plain pickle": (pickle.dumps(GOOD), "not a file that torch.save writes"),
    "cut off": (_saved(GOOD)[:-100], r"not a readable checkpoint \(its end is missing or damaged\), get it again"),
    "cut in half": (_saved(GOOD)[: len(_saved(GOOD)) // 2], "not a readable checkpoint"),
    "cut off, legacy": (LEGACY[:-100], "not a readable checkpoint"),
    "cut off in the pickle, legacy": (LEGACY[:200], "not a readable checkpoint"),
    "a flipped bit": (
        _flipped(_saved(GOOD), of=torch.arange(100.0).numpy().tobytes()[8:]),
        r"damaged, its record '\S+' fails its checksum, get it again",
    ),
    "another pickle protocol": (
        _rewritten(_saved(GOOD), pickled=pickle.dumps({"a": 1}, protocol=4)),
        r"not a readable checkpoint \(Unsupported operand 149\)",
    ),
    "a pickle that ends early": (_rewritten(_saved(GOOD), pickled=b"\x80\x02}"), "not a readable checkpoint"),
    "compressed": (_rewritten(_saved(GOOD), compression=zipfile.ZIP_DEFLATED), "compressed, which torch.save does not"),
    "gzip": (gzip.compress(_saved(GOOD)), "a gzip file, unpack it and give the checkpoint that is in it"),
    "tar": (_tar(_saved(GOOD)), "a tar file, unpack it and give the checkpoint that is in it"),
    "a zip file of something else": (_zip(a_txt=b"x"), "a zip file that is no checkpoint, unpack it"),
    "TorchScript": (_zip(data_pkl=b"", constants_pkl=b""), "a TorchScript program, give the checkpoint"),
}


@pytest.mark.parametrize("bad", BAD_FILES)
def test_what_is_no_checkpoint_is_refused_in_one_sentence(bad, tmp_path):
    content, message = BAD_FILES[bad]
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        convert(tmp_path / "a.pth", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"none.ckpt: there is no such file, check the path\.$"):
        convert(tmp_path / "none.ckpt", tmp_path / "out")
    folder = tmp_path / "sharded.ckpt"
    folder.mkdir()
    with pytest.raises(
        WeightsError, match=r"is a folder, and a checkpoint is one file: a sharded one \(FSDP, DeepSpeed\)"
    ):
        convert(folder, tmp_path / "out")
    (folder / "last.ckpt").touch()
    with pytest.raises(WeightsError, match=r"is a folder, .* give a file in it \(last.ckpt\)\.$"):
        convert(folder, tmp_path / "out")
    os.mkfifo(tmp_path / "pipe.ckpt")
    with pytest.raises(WeightsError, match=r"pipe.ckpt: is no regular file, check the path\.$"):
        convert(tmp_path / "pipe.ckpt", tmp_path / "out")


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("MAX_PICKLE_BYTES", "its pickle is larger than the 10 bytes that one may have"),
        ("MAX_WEIGHTS_BYTES", "larger than the 10 bytes that weights may have, is it a checkpoint"),
    ],
)
def test_sizes_are_limited_before_anything_is_read(limit, message, tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_bytes(_saved(GOOD))
    monkeypatch.setattr(checkpoint_module, limit, 10)
    with pytest.raises(LimitError, match=message):
        convert(tmp_path / "a.pth", tmp_path / "out")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_pickle_ends_in_our_error_or_in_data(data, tmp_path_factory):
    whole = _saved({"state_dict": {"a": torch.ones(3)}, "plot_stuff": ([np.float64(1)],)})
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        pickled = bytearray(archive.read("archive/data.pkl"))
    for _ in range(data.draw(st.integers(1, 4))):
        pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.pth"
    path.write_bytes(_rewritten(whole, pickled=bytes(pickled)))
    with suppress(ZooError):
        assert isinstance(read_foreign_checkpoint(path, list(key_maps().values())).content, dict)


def test_a_file_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.pth").write_bytes(_saved(GOOD))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(WeightsError, match=r"cannot be read \(Permission denied\), check its permissions\.$"):
        convert(tmp_path / "a.pth", tmp_path / "out")


def test_parameters_are_taken_as_tensors(spec, state, tmp_path):
    torch.save(
        {key: nn.Parameter(value) if value.is_floating_point() else value for key, value in state.items()},
        tmp_path / "a.pt",
    )
    convert(tmp_path / "a.pt", tmp_path / "out", model=spec)
    assert read_weights(tmp_path / "out" / "model.safetensors").keys() == state.keys()


def test_attributes_that_a_tensor_brings_along_are_not_called(spec, state, tmp_path):
    parameters = {key: torch.nn.Parameter(value.clone()) for key, value in state.items()}
    for parameter in parameters.values():
        parameter.detach = {}
    torch.save(content_of("mednext", parameters), tmp_path / "a.model")
    convert(tmp_path / "a.model", tmp_path / "out", model=spec)
    assert (tmp_path / "out" / "model.safetensors").is_file()
