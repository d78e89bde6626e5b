"""`zoo bench`: a table, JSON and a plot of real measurements, and one sentence for what is wrong."""

from __future__ import annotations

import json

import pytest

from connectomics_zoo.bench import machine
from connectomics_zoo.bench.report import Measurement
from connectomics_zoo.cli import bench as bench_verb
from connectomics_zoo.network import threads

TINY = ("arch.base_channels=2", "arch.block_counts=[1, 1, 1, 1, 1, 1, 1, 1, 1]")
SHORT = ("--rounds", "1", "--no-memory", "--device", "cpu")


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    """However busy this machine is."""
    monkeypatch.setattr(machine, "load_average", lambda: 0.0)


def test_the_table_has_a_row_for_each_mode_and_variant(run_zoo):
    code, out, err = run_zoo("bench", "mednext-S", *TINY, "--size", "32", "--precision", "float32", *SHORT)
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if line]
    assert ", torch " in lines[0]
    assert lines[1].startswith("mednext-S: ")
    assert "input 1×1×32×32×32" in lines[1]
    assert lines[2].split() == " ".join(bench_verb.HEADERS).split()
    rows = [line.split() for line in lines[4:]]
    assert [row[:3] for row in rows] == [
        [mode, variant, "float32"] for mode in ("inference", "training") for variant in ("plain", "default")
    ]
    assert [row[8] for row in rows if row[1] == "plain"] == ["1.00", "1.00"]
    assert {row[10] for row in rows} == {"-"}


def test_json_has_every_model(run_zoo):
    code, out, _ = run_zoo("bench", "mednext-S", "mednext-B", *TINY, "--size", "17", "--no-training", "--json", *SHORT)
    assert code == 0
    report = json.loads(out)
    assert [model["model"] for model in report["models"]] == ["mednext-S", "mednext-B"]
    assert report["models"][0]["input_shape"] == [1, 1, 32, 32, 32]
    assert {item["mode"] for model in report["models"] for item in model["measurements"]} == {"inference"}
    assert report["machine"]["threads"] >= 1


def test_a_plot_is_drawn(run_zoo, tmp_path):
    path = tmp_path / "plot.png"
    code, _, err = run_zoo("bench", *TINY, "--size", "1", "--no-training", "--plot", path, *SHORT)
    assert (code, err) == (0, f"zoo: drew {path}\n")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--size", "64x64"], "--size '64x64' is no size, give one number from 1 to 65536 or one for each axis"),
        (["--size", "0"], "--size '0' is no size"),
        (["--size", "64,,64"], "--size '64,,64' is no size"),
        (["--size", "²"], "--size '²' is no size"),
        (["--size", "64,64"], "the size 64,64 has 2 numbers and mednext-S has the axes z, y, x: give 1 or 3 numbers."),
        (["--rounds", "0"], "0 is not in the range"),
        (["--threads", "0"], "0 is not in the range"),
        (["--precision", "float16"], "'float16' is not one of 'float32', 'bfloat16'"),
        (["--device", "tpux"], "unknown device 'tpux', give auto, cpu"),
        (["--plot", "plot.jpg"], "plot.jpg: a plot is a PNG, give a name that ends in .png."),
        (["mednext-Z"], "mednext-Z"),
        (["arch.base_chanels=2"], "unknown key arch.base_chanels for mednext-S"),
    ],
)
def test_bad_values_are_one_sentence(run_zoo, arguments, sentence):
    code, out, err = run_zoo("bench", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.startswith("zoo: ")
    assert err.count("\n") == 1


def test_a_busy_machine_is_said(run_zoo, monkeypatch):
    monkeypatch.setattr(machine, "load_average", lambda: 7.0)
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    code, _, err = run_zoo("bench", *TINY, "--size", "1", "--no-training", "--precision", "float32", *SHORT)
    assert code == 0
    assert err == (
        "zoo: this machine is busy (load 7.0 on 2 core(s)) and the times will be too long, measure when it idles.\n"
    )


def test_times_beside_other_work_stand_in_their_own_columns(run_zoo):
    options = ("--size", "1", "--no-training", "--precision", "float32", "--busy", "1", *SHORT)
    code, out, _ = run_zoo("bench", *TINY, *options)
    (header,) = [line for line in out.splitlines() if line.startswith("mode")]
    assert code == 0
    assert header.split()[-3:] == ["busy", "ms", "busy/idle"]
    item = Measurement("inference", "plain", "float32", 0.5, 0.25, 1.0, 5, 2e6, 10.0, 1.0, 0.0, None, seconds_busy=1.25)
    assert bench_verb.busy_cells(item) == ("1250.0", "2.50")


def test_memory_is_written_in_megabytes():
    item = Measurement("inference", "plain", "float32", 0.5, 0.25, 1.0, 5, 2e6, 10.0, 1.0, 0.0, 123_456_789)
    row = dict(zip(bench_verb.HEADERS, bench_verb.cells(item), strict=True))
    assert row["peak MB"] == "123"
    assert (row["ms"], row["min"], row["max"], row["kvoxel/s"]) == ("500.0", "250.0", "1000.0", "2000")


def test_a_file_with_an_equals_sign_in_its_name_is_no_override(run_zoo, tmp_path):
    path = tmp_path / "a=b.yaml"
    path.write_text("a: 1")
    code, _, err = run_zoo("bench", path)
    assert code == 2
    assert f"{path}: " in err
