"""Exported programs (.pt2): their weights are read as bytes, and nothing in them is unpickled or run."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from connectomics_zoo.convert import exported_program
from connectomics_zoo.convert.run import convert
from connectomics_zoo.errors import LimitError, WeightsError
from connectomics_zoo.network.build import build
from connectomics_zoo.weights.storage import read_weights


@pytest.fixture(scope="module")
def program(spec, state, tmp_path_factory):
    """Export the network by `torch.export`, and give the path of what it saved."""
    network = build(spec, deep_supervision=True)
    network.load_state_dict(state)
    path = tmp_path_factory.mktemp("program") / "network.pt2"
    torch.export.save(torch.export.export(network.eval(), (torch.zeros(1, 1, 16, 32, 32),)), path)
    return path


def _changed(path: Path, change: Any, *, into: Path, more: dict[str, bytes] | None = None) -> Path:
    """Write the archive at `path` with what `change` makes of the JSON that describes its weights."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(into, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("_weights_config.json"):
                document = json.loads(content)
                change(document["config"])
                content = json.dumps(document).encode()
            new.writestr(name, (more or {}).get(name.partition("/")[2], content))
    return into


def test_the_weights_of_an_exported_program_are_those_of_its_network(program, spec, state, tmp_path):
    done = convert(program, tmp_path / "out", model=spec)
    written = read_weights(tmp_path / "out" / "model.safetensors")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key]) for key in state)
    assert (done.format, done.place, done.inert) == ("torch-export", "exported_programs/model", ())


def test_nothing_in_the_archive_is_unpickled(program, spec, tmp_path):
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "trap",)

    harmful = pickle.dumps(Trap())
    record = "data/sample_inputs/model.pt"
    path = _changed(program, lambda _: None, into=tmp_path / "a.pt2", more={record: harmful})
    convert(path, tmp_path / "out", model=spec)

    def pickled(config: Any) -> None:
        config["stem.weight"]["use_pickle"] = True

    weight = json.loads(zipfile.ZipFile(program).read("network/data/weights/model_weights_config.json"))
    place = "data/weights/" + weight["config"]["stem.weight"]["path_name"]
    path = _changed(program, pickled, into=tmp_path / "b.pt2", more={place: harmful})
    with pytest.raises(WeightsError, match=r"'stem.weight' is pickled, which could run code: save a plain tensor"):
        convert(path, tmp_path / "again", model=spec)
    assert not (tmp_path / "trap").exists()
    pickle.loads(harmful)
    assert (tmp_path / "trap").exists(), "the trap must be one"


def _set(field: str, value: Any) -> Any:
    def change(config: Any) -> None:
        config["stem.weight"]["tensor_meta"][field] = value

    return change


def _size(*numbers: int) -> list[dict[str, int]]:
    return [{"as_int": number} for number in numbers]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _set("sizes", _size(10**6, 10**6, 1, 1, 1)),
            "'stem.weight' is larger than its bytes in the file, get it again",
        ),
        (_set("strides", _size(10**6, 0, 0, 0, 0)), "'stem.weight' is larger than its bytes in the file, get it again"),
        (_set("sizes", _size(2)), r"not a readable checkpoint \('stem.weight' has 1 sizes and 5 strides\)"),
        (_set("sizes", [{"as_name": "s0"}] * 5), r"not a readable checkpoint \('as_int'\)"),
        (_set("storage_offset", {"as_int": 10**6}), "'stem.weight' is larger than its bytes in the file"),
        (_set("dtype", 10), "'stem.weight' is of a type or layout that networks here do not have"),
        (_set("layout", 1), "'stem.weight' is of a type or layout that networks here do not have"),
        (lambda config: config["stem.weight"].update(path_name="../x"), "its record '../x' is missing, get it again"),
        (lambda config: config.update({"stem.weight": 3}), "not a readable checkpoint"),
    ],
)
def test_a_description_that_does_not_add_up_is_refused(program, spec, change, message, tmp_path):
    path = _changed(program, change, into=tmp_path / "a.pt2")
    with pytest.raises(WeightsError, match=message):
        convert(path, tmp_path / "out", model=spec)


def test_sizes_are_limited_before_anything_is_read(program, spec, tmp_path, monkeypatch):
    monkeypatch.setattr(exported_program, "MAX_CONFIG_BYTES", 10)
    with pytest.raises(LimitError, match=r"model_weights_config.json is larger than the 10 bytes that it may have"):
        convert(program, tmp_path / "out", model=spec)


def _archive(records: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"a/{name}", content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"archive_format": b"pt2", "data/weights/model.pt": b""}, "its weights are a pickle in it, as older versions"),
        ({"serialized_exported_program.json": b"", "serialized_state_dict.pt": b""}, "its weights are a pickle in it"),
        ({"archive_format": b"pt2", "data/aotinductor/model/a.so": b""}, "a program that AOTInductor compiled"),
        ({"archive_format": b"pt2", "models/model.json": b""}, "an archive of torch.export without weights"),
    ],
)
def test_archives_of_other_kinds_are_refused_with_what_they_are(records, message, tmp_path):
    (tmp_path / "a.pt2").write_bytes(_archive(records))
    with pytest.raises(WeightsError, match=message):
        convert(tmp_path / "a.pt2", tmp_path / "out")


class Shared(nn.Module):
    """Tensors that are views of one another, of two types and layouts."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.arange(24.0).reshape(2, 3, 4)
        self.weight = nn.Parameter(whole.transpose(0, 2))
        self.part = nn.Parameter(whole[1])
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("short", torch.arange(5).to(torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight.sum() + self.part.sum() + self.count + self.short.sum()


@pytest.mark.filterwarnings("ignore:No complete tensor found")
def test_views_of_one_storage_are_read_as_torch_itself_reads_them(tmp_path):
    torch.export.save(torch.export.export(Shared(), (torch.zeros(1),)), tmp_path / "a.pt2")
    expected = torch.export.load(tmp_path / "a.pt2").state_dict
    found = exported_program.read_exported_program(tmp_path / "a.pt2")["model"]
    assert found.keys() == expected.keys() == {"weight", "part", "count", "short"}
    assert all(torch.equal(found[key], expected[key]) and found[key].dtype == expected[key].dtype for key in expected)
