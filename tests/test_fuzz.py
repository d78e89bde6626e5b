"""Bad input by the thousand: specs, YAML and safetensors headers end in an error of ours, and in nothing else.

In the suite about 1,000 inputs, the same ones every time; `scripts/nightly` tries 10,000 new ones.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from support.fuzzing import NUMBERS, TEXTS, VALUES, changed, damaged, mutated, places, refusal, safetensors_bytes
from support.tiny_training import TINY, make_run

import zoo
from connectomics_zoo.catalog import entries
from connectomics_zoo.errors import SpecError, WeightsError, ZooError
from connectomics_zoo.files.safetensors import read_header
from connectomics_zoo.files.yaml import dump_yaml, parse_yaml, read_yaml
from connectomics_zoo.hub import HubReference
from connectomics_zoo.network.build import build, measure_static_expectation
from connectomics_zoo.runs.folder import get_run
from connectomics_zoo.specs.identity import network_of
from connectomics_zoo.specs.lookup import get_experiment, get_spec, get_task, run_of_document
from connectomics_zoo.specs.overrides import parse_overrides
from connectomics_zoo.specs.reference import Reference, parse_reference
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights.load import load_file
from connectomics_zoo.weights.lock_file import network_difference, read_weights_lock
from connectomics_zoo.weights.storage import read_weights

NIGHTLY = os.environ.get("ZOO_FUZZ") == "nightly"
TIMES = 10 if NIGHTLY else 1

MODEL = read_yaml(next(entry.path for entry in entries("model") if entry.name == "mednext-S"))
TASKS = [read_yaml(entry.path) for entry in entries("task")]
EXPERIMENTS = [read_yaml(entry.path) for entry in entries("experiment")]
PAIR = {"image": "volume.h5:raw", "label": "volume.h5:mito"}
MADE = make_run({"train": [PAIR], "root": "???"})
MADE = MADE.model_copy(
    update={"model": MADE.model.model_copy(update={"expect": measure_static_expectation(MADE.model)})}
)
RUN = json.loads(MADE.model_dump_json(exclude_none=True))


def inputs(count):
    """So many inputs, the same ones every time but at night."""
    return settings(
        max_examples=count * TIMES,
        deadline=None,
        database=None,
        derandomize=not NIGHTLY,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to write bad files into; what is imported on first use is imported."""
    folder = tmp_path_factory.mktemp("bad")
    build(resolve_model("mednext-S", arch=TINY), deep_supervision=True)
    return folder


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


# Safetensors.

DTYPES = st.sampled_from(["F32", "F16", "I64", "BOOL", "F4", "Q8", ""]) | TEXTS
SIZES = st.lists(st.integers(0, 4), max_size=3) | st.lists(NUMBERS, max_size=18)
ENTRIES = st.fixed_dictionaries(
    {"dtype": DTYPES | VALUES, "shape": SIZES | VALUES, "data_offsets": st.lists(NUMBERS, max_size=3) | VALUES},
    optional={"more": VALUES},
)
HEADERS = st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]) | TEXTS, ENTRIES | VALUES, max_size=4) | VALUES


@inputs(100)
@given(content=st.binary(max_size=400))
def test_bytes_are_no_safetensors(place, content):
    path = written(place, "a.safetensors", content)
    error = refusal(lambda: read_weights(path))
    assert error is not None or content == b"\x02" + bytes(7) + b"{}"


@inputs(100)
@given(header=HEADERS, data=st.binary(max_size=64), length=st.none() | st.integers(-(2**63), 2**64))
def test_a_header_adds_up_or_is_refused(place, header, data, length):
    path = written(place, "b.safetensors", safetensors_bytes(header, data, length=length))
    if refusal(lambda: read_header(path)) is None:
        with safe_open(path, framework="pt") as stream:  # what we take, its own reader takes
            assert set(stream.keys()) == set(read_header(path).tensors)


@inputs(60)
@given(
    text=st.sampled_from(
        [
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b'{"a": ' + b"9" * 100_000 + b"}",
            b'{"a": NaN}',
            b'{"a": 1, "a": 2}',
            b"\xff\xfe{\x00}\x00",
            b'\xef\xbb\xbf{"a": 1}',
            b"{" + b" " * 1_000_000 + b"}x",
            b'{"\\ud800": {}}',
            b'{"__metadata__": {"a": 1}}',
        ]
    ),
    damage=st.data(),
)
def test_json_bombs_are_refused(place, text, damage):
    content = safetensors_bytes(text, damage.draw(st.binary(max_size=8)))
    assert refusal(lambda: read_weights(written(place, "c.safetensors", content))) is not None


WHOLE = save({"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.zeros(3, dtype=torch.float16)})


@inputs(140)
@given(content=damaged(WHOLE))
def test_a_damaged_file_is_refused_or_is_another_whole_file(place, content):
    path = written(place, "d.safetensors", content)
    error = refusal(lambda: read_weights(path))
    try:
        with safe_open(path, framework="pt") as stream:
            taken = {key: stream.get_tensor(key).shape for key in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        taken = None
    if taken is None:
        assert error is not None
    elif error is None:
        assert {key: tensor.shape for key, tensor in read_weights(path).items()} == taken


STATE = build(resolve_model("mednext-S", arch=TINY), deep_supervision=True).state_dict()


@inputs(60)
@given(data=st.data())
def test_tensors_of_other_sizes_than_the_spec_s_are_refused(place, data):
    state = dict(STATE)
    for key in data.draw(st.lists(st.sampled_from(sorted(state)), min_size=1, max_size=3, unique=True)):
        shape = data.draw(st.lists(st.integers(0, 7), max_size=6))
        shape += [2] if tuple(shape) == STATE[key].shape else []
        dtype = data.draw(st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool]))
        state[key] = torch.zeros(shape, dtype=dtype)
    path = written(place, "e.safetensors", save(state))
    error = refusal(lambda: load_file(resolve_model("mednext-S", arch=TINY), path, same_shapes=True))
    assert isinstance(error, WeightsError)


@inputs(20)
@given(size=st.integers(2**28, 2**40))
def test_a_file_larger_than_the_network_is_refused_before_it_is_read(place, size):
    path = place / "f.safetensors"
    header = {"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = safetensors_bytes(header)
    path.write_bytes(text)
    os.truncate(path, len(text) + size)  # sparse: it takes no room
    error = refusal(lambda: load_file(resolve_model("mednext-S", arch=TINY), path))
    path.unlink()
    assert isinstance(error, WeightsError)


# YAML.

PIECES = st.sampled_from(
    ["a: ", "- ", "\n", "  ", "\t", "[", "]", "{", "}", ", ", "&x ", "*x", "<<: ", "!!python/name:os.system ", "!t ",
     "? ", "| ", "> ", "'", '"', "#", "---\n", "...\n", "%YAML 1.1\n", "1e999", ".nan", "0x" + "f" * 60, "9" * 50,
     "017", "2026-01-01", "1:30", "null", "~", "\ufeff", "\x85", "\u2028", "\x00", "\x07", "a: 1\na: 2\n",
     "k: &a [*a]\n"]
)  # fmt: skip


@inputs(100)
@given(content=st.binary(max_size=120) | st.text(max_size=120).map(lambda text: text.encode("utf-16")))
def test_bytes_are_a_mapping_or_refused(place, content):
    path = written(place, "a.yaml", content)
    if refusal(lambda: read_yaml(path)) is None:
        assert isinstance(read_yaml(path), dict)


@inputs(100)
@given(text=st.lists(PIECES | st.text(max_size=6), max_size=40).map("".join))
def test_pieces_of_yaml_are_data_or_refused(text):
    if refusal(lambda: parse_yaml(text)) is None:
        json.dumps(parse_yaml(text))  # plain data


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "[" * 5000,
        "a: " * 3000,
        "- " * 60_000,
        "a: !!python/object/apply:os.system [ls]",
        "a: !!binary aGk=",
        "{a: 1, a: 2}",
        "? [a]\n: b",
        "a: 1\n---\nb: 2",
        "a: " + "9" * 100_000,
        "a: 0x" + "f" * 100_000,
        "<<: {a: 1}\nb: !!merge 1",
    ],
)
def test_traps_of_yaml_are_refused(text):
    assert refusal(lambda: parse_yaml(text)) is not None


# Specs, references, overrides, lock files.


@inputs(120)
@given(document=mutated(changed(MODEL, ("arch",), lambda parent, key: parent.__setitem__(key, TINY))))
def test_a_changed_model_is_a_model_or_refused(place, document):
    path = written(place, "model.yaml", dump_yaml(document) if isinstance(document, dict) else json.dumps(document))
    if refusal(lambda: get_spec(path)) is None:
        assert get_spec(path).family


@inputs(60)
@given(arch=st.dictionaries(st.sampled_from(sorted([*MODEL["arch"], "base_channels"])), NUMBERS | VALUES, max_size=3))
def test_a_network_of_any_size_is_refused_before_it_takes_memory(place, arch):
    def attempt():
        spec = resolve_model("mednext-S", arch=arch)
        assert spec.model_dump_json()

    refusal(attempt)


@inputs(80)
@given(document=st.one_of([mutated(item) for item in (*TASKS, *EXPERIMENTS)]))
def test_a_changed_task_or_experiment_is_one_or_refused(place, document):
    path = written(place, "spec.yaml", dump_yaml(document) if isinstance(document, dict) else json.dumps(document))
    refusal(lambda: get_task(path))
    refusal(lambda: get_experiment(path))


@inputs(80)
@given(document=mutated(RUN))
def test_a_changed_run_is_a_run_or_refused(place, document):
    written(place, "spec.yaml", dump_yaml(document) if isinstance(document, dict) else json.dumps(document))
    if refusal(lambda: get_run(place)) is None:
        assert get_run(place).kind == "run"


ELSEWHERE = st.sampled_from(
    ["/etc/passwd", "../x.h5:raw", "a/../../x.h5", "~/x.h5", "~root/x.h5:raw", "C:\\x.h5", "\\\\host\\x",
     "//host/x.h5:raw", "a/../..", "..", "file:///etc/passwd", "s3://bucket/x.zarr"]
)  # fmt: skip
VOLUMES = [path for path in places(RUN) if path[-1] in ("image", "label")]


@inputs(40)
@given(place=st.sampled_from([*VOLUMES, ("data", "root")]), value=ELSEWHERE)
def test_a_run_from_the_hub_names_no_place_of_ours(place, value):
    document = changed(RUN, place, lambda parent, key: parent.__setitem__(key, value))
    hub = Reference("hf://org/name", hub=HubReference("org/name", "0" * 40, None))
    assert isinstance(refusal(lambda: run_of_document(document, hub, source="spec.yaml")), SpecError)


@inputs(40)
@given(
    builder=TEXTS
    | st.sampled_from(["os", "os.path", "nets.mednext", "../mednext", "mednext:build", "__init__", "_shared"])
)
def test_a_spec_names_no_code(place, builder):
    document = {**MODEL, "builder": builder, "arch": TINY}
    path = written(place, "code.yaml", dump_yaml(document))
    assert refusal(lambda: zoo.load(str(path))) is not None


@inputs(60)
@given(text=TEXTS | st.text(alphabet="hf:/@.ab0-_~\\%#?", max_size=30))
def test_any_text_is_a_reference_or_refused(text):
    if refusal(lambda: parse_reference(text)) is None and not text.startswith("hf:"):
        assert refusal(lambda: zoo.load(text)) is not None


@inputs(40)
@given(items=st.lists(TEXTS | st.text(alphabet="ab.=01 [{:'\"", max_size=10), max_size=4))
def test_any_overrides_are_a_mapping_or_refused(items):
    if refusal(lambda: parse_overrides(items)) is None:
        assert isinstance(parse_overrides(items), dict)


LOCK = {
    "lock_version": 2,
    "weights": {
        "mednext-S@1.0.0.tag": {
            "source": "hub",
            "repo": "org/name",
            "revision": "0" * 40,
            "file": "model.safetensors",
            "sha256": "0" * 64,
            "network": network_of(get_spec("mednext-S")),
            "size": 8,
        }
    },
}


@inputs(60)
@given(document=mutated(LOCK))
def test_a_changed_lock_file_is_one_or_refused(place, document):
    path = written(place, "zoo.lock", dump_yaml(document) if isinstance(document, dict) else json.dumps(document))
    if refusal(lambda: read_weights_lock(path)) is None:
        for held in read_weights_lock(path).weights.values():
            assert refusal(lambda held=held: network_difference(held, get_spec("mednext-S"))) is None


def test_the_documents_that_are_changed_are_legal(place):
    assert refusal(lambda: get_run(written(place, "spec.yaml", dump_yaml(RUN)).parent)) is None
    assert refusal(lambda: read_weights_lock(written(place, "zoo.lock", dump_yaml(LOCK)))) is None
    assert refusal(lambda: read_weights(written(place, "a.safetensors", WHOLE))) is None


def test_a_call_that_hangs_grows_or_fails_otherwise_is_found(monkeypatch):
    import time

    from support import fuzzing

    monkeypatch.setattr(fuzzing, "SECONDS", 0.1)
    with pytest.raises(fuzzing.Hang):
        refusal(lambda: time.sleep(5))
    with pytest.raises(KeyError):
        refusal(lambda: {}["a"])

    class TwoLinesError(ZooError):
        def __str__(self):
            return "one\ntwo"

    def two_lines():
        raise TwoLinesError

    with pytest.raises(AssertionError, match="one"):
        refusal(two_lines)
    if Path("/proc/self/clear_refs").exists():
        with pytest.raises(AssertionError, match="MB"):
            refusal(lambda: bytearray(300 * 2**20))
