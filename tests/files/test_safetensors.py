"""The header of a safetensors file: what adds up is read, and each thing that does not is named."""

from __future__ import annotations

import json
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save
from support.fuzzing import safetensors_bytes

from connectomics_zoo.errors import WeightsError, ZooError
from connectomics_zoo.files.safetensors import MAX_HEADER, read_header


def entry(shape=(2,), begin=0, end=8, dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


def test_a_file_of_safetensors_itself_is_read(tmp_path):
    tensors = {
        "a": torch.zeros(2, 3),
        "b": torch.ones(4, dtype=torch.bfloat16),
        "c": torch.tensor(1),
        "d": torch.zeros(0),
    }
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(tensors, {"spec": "text", "format": "pt"}))
    header = read_header(path)
    assert header.metadata == {"spec": "text", "format": "pt"}
    assert {key: info.shape for key, info in header.tensors.items()} == {
        key: tuple(tensor.shape) for key, tensor in tensors.items()
    }
    for key, info in header.tensors.items():
        assert info.end - info.begin == tensors[key].numel() * tensors[key].element_size()
    assert header.data_begin + max(info.end for info in header.tensors.values()) == path.stat().st_size


@pytest.mark.parametrize("length", [0x80, 0x0280, 0x4B50])
def test_a_header_whose_length_reads_like_the_beginning_of_a_pickle_or_a_zip_is_read(tmp_path, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + json.dumps({"a": entry()}).encode().ljust(length) + bytes(8))
    assert path.read_bytes().startswith((b"\x80", b"PK"))
    assert read_header(path).tensors.keys() == {"a"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes, fewer than the 8"),
        (bytes(8), "its header would have 0 bytes, and the file has 8"),
        (safetensors_bytes({}, length=10**6), "its header would have 1000000 bytes, and the file has 10"),
        (safetensors_bytes({}, length=MAX_HEADER + 1), f"at most {MAX_HEADER} are read"),
        (safetensors_bytes({}, length=-1), f"at most {MAX_HEADER} are read"),
        (safetensors_bytes(b"\xff\xff"), "its header is damaged"),
        (safetensors_bytes(b"[]"), "its header is no mapping"),
        (safetensors_bytes(b' {"a": 1}'), "its header is no mapping"),
        (safetensors_bytes(b'{"a": NaN}'), "NaN is no JSON"),
        (safetensors_bytes(b'{"a": 1, "a": 2}'), "a key stands twice"),
        (safetensors_bytes(b"[" * 100_000), "nested too deeply"),
        (safetensors_bytes({"__metadata__": {"a": 1}}), "its metadata are no texts"),
        (safetensors_bytes({"a": 1}), "'a' has not exactly dtype, shape and data_offsets"),
        (safetensors_bytes({"a": entry(code="x")}, bytes(8)), "'a' has not exactly dtype, shape and data_offsets"),
        (safetensors_bytes({"a\nb": entry()}, bytes(8)), "is no name of a tensor"),
        (safetensors_bytes({"a": entry(dtype="Q4")}, bytes(8)), "'a' has the type 'Q4'"),
        (safetensors_bytes({"a": entry(shape=(-2,))}, bytes(8)), "a shape or offsets that are none"),
        (safetensors_bytes({"a": entry(shape=(True, 2))}, bytes(8)), "a shape or offsets that are none"),
        (safetensors_bytes({"a": entry(shape=(2.0,))}, bytes(8)), "a shape or offsets that are none"),
        (safetensors_bytes({"a": entry(shape=[1] * 17)}, bytes(8)), "a shape or offsets that are none"),
        (safetensors_bytes({"a": entry(shape=(2**30, 2**30))}, bytes(8)), "more than"),
        (safetensors_bytes({"a": entry(shape=(3,))}, bytes(8)), "'a' has 8 bytes, and its shape and type need 12"),
        (safetensors_bytes({"a": entry(begin=8, end=0, shape=(0,))}), "'a' has -8 bytes"),
        (safetensors_bytes({"a": entry(begin=4, end=12)}, bytes(12)), "its first tensor begins at byte 4"),
        (safetensors_bytes({"a": entry(), "b": entry(begin=4, end=12)}, bytes(12)), "its tensors overlap"),
        (safetensors_bytes({"a": entry(), "b": entry(begin=12, end=20)}, bytes(20)), "a gap of 4 bytes"),
        (safetensors_bytes({"a": entry()}, bytes(7)), "1 bytes are missing at its end"),
        (safetensors_bytes({"a": entry()}, bytes(9)), "there are 1 bytes too many at its end"),
    ],
)
def test_what_does_not_add_up_is_named(tmp_path, content, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_header(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: not a readable safetensors file (")


def test_a_pickle_of_that_name_is_told_as_one(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match=r"is a pickle, which can run code .*only safetensors is loaded"):
        read_header(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"")
    with pytest.raises(WeightsError, match="is a zip file, as torch"):
        read_header(path)


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "gone.safetensors"):
        with pytest.raises(WeightsError, match="there is no such weights file"):
            read_header(path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nb", r"a\nb"), ("a\u2028b\x00", r"a\u2028b\x00"), ("µm × ½ …", "µm × ½ …"), ("\ud83d", r"\ud83d")],
)
def test_an_error_is_one_line_whatever_it_cites(text, shown):
    assert str(ZooError(text)) == shown


def test_a_long_error_keeps_its_beginning_and_its_end():
    text = str(ZooError("begin" + "x" * 100_000 + "end"))
    assert len(text) < 1200
    assert text.startswith("begin")
    assert text.endswith("end")
