"""`bench`: fair turns, the right implementation for each variant, honest ratios, and the page that is made of them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.paths import REPOSITORY
from torch import nn

from connectomics_zoo import fastpath
from connectomics_zoo.bench import BenchReport, ModelBench, bench, machine, variants
from connectomics_zoo.bench import run as bench_run
from connectomics_zoo.bench.busy import busy_processes
from connectomics_zoo.bench.machine import Machine, describe_machine
from connectomics_zoo.bench.memory import peak_memory, read_status, reset_peak
from connectomics_zoo.bench.plot import check_target, draw_speed_ups
from connectomics_zoo.bench.report import make_measurements
from connectomics_zoo.bench.timing import Timing, alternate, relative_error
from connectomics_zoo.bench.variants import BASELINE, Variant, input_shape, make_network, train_step
from connectomics_zoo.errors import InputSizeError, LimitError, OutputError, UnknownNameError
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.resolve import resolve_model

CPU = torch.device("cpu")
TINY = resolve_model("mednext-S", arch={"base_channels": 2, "block_counts": [1] * 9})
PLAIN, DEFAULT = Variant("plain", "float32"), Variant("default", "float32")
PLAIN_BF16, DEFAULT_BF16 = Variant("plain", "bfloat16"), Variant("default", "bfloat16")


# Times and errors


def test_everything_has_its_turn_in_every_round():
    order = []
    timings = alternate(
        {name: lambda name=name: order.append(name) for name in "ab"}, rounds=3, after_each=lambda: order.append("|")
    )
    assert order == ["a", "|", "b", "|"] * 3
    assert {name: len(timing.rounds) for name, timing in timings.items()} == {"a": 3, "b": 3}


def test_one_slow_round_does_not_move_the_median():
    timing = Timing((0.3, 0.1, 9.0, 0.2, 0.1))
    assert (timing.median, timing.shortest, timing.longest) == (0.2, 0.1, 9.0)


def test_the_error_is_that_of_all_tensors_taken_as_one():
    reference = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]
    found = [torch.tensor([3.0]), torch.tensor([[0.0, 4.5]])]
    assert relative_error(found, reference) == pytest.approx(0.1)
    assert relative_error(reference, reference) == 0


def test_an_error_against_nothing_is_infinite_and_of_nothing_zero():
    assert relative_error([torch.ones(1)], [torch.zeros(1)]) == float("inf")
    assert relative_error([torch.zeros(1)], [torch.zeros(1)]) == 0


def test_tensors_that_are_missing_are_no_small_error():
    with pytest.raises(ValueError, match="longer"):
        relative_error([], [torch.ones(1)])


TIMINGS = {PLAIN: Timing((2.0, 4.0, 3.0)), DEFAULT: Timing((1.0, 0.5, 2.0))}


def measurements(mode, memory=None):
    return make_measurements(
        mode, TIMINGS, errors={PLAIN: 0.0, DEFAULT: 1e-6}, memory=memory or {}, voxels=600, flops=3 * 10**9
    )


def test_speed_ups_are_ratios_of_medians_and_rates_are_of_the_median():
    plain, default = measurements("inference", {PLAIN: 900})
    assert (plain.seconds, plain.speed_up, plain.voxels_per_second, plain.gflops_per_second) == (3.0, 1.0, 200.0, 1.0)
    assert (default.seconds, default.speed_up, default.relative_error) == (1.0, 3.0, 1e-6)
    assert (default.seconds_shortest, default.seconds_longest, default.rounds) == (0.5, 2.0, 3)
    assert (plain.peak_memory_bytes, default.peak_memory_bytes) == (900, None)


def test_a_training_step_counts_as_three_forward_passes():
    assert [item.gflops_per_second for item in measurements("training")] == [3.0, 9.0]


# Variants


def test_the_baseline_comes_first_and_each_variant_once():
    assert variants.variants(("bfloat16",)) == (BASELINE, PLAIN_BF16, DEFAULT_BF16)
    assert variants.variants(("float32", "bfloat16", "float32")) == (PLAIN, DEFAULT, PLAIN_BF16, DEFAULT_BF16)


@pytest.mark.parametrize(
    ("size", "shape"),
    [((64,), (1, 1, 64, 64, 64)), ((17, 40, 64), (1, 1, 32, 48, 64)), ((1,), (1, 1, 16, 32, 32))],
)
def test_sizes_are_raised_to_legal_ones(size, shape):
    assert input_shape(TINY, size) == shape


def test_a_flat_network_has_two_axes():
    flat = resolve_model("mednext-S", arch={"spatial_dims": 2})
    assert input_shape(flat, (64,)) == (1, 1, 64, 64)
    message = "the size 64,64,64 has 3 numbers and mednext-S has the axes y, x: give 1 or 2 numbers."
    with pytest.raises(InputSizeError, match=message):
        input_shape(flat, (64, 64, 64))


def test_an_input_without_memory_is_said():
    with pytest.raises(LimitError, match=r"no memory for an input of \(1, 1, .*\), give a smaller size"):
        variants.make_input((1, 1, 2**16, 2**16, 2**16), device=CPU)


def test_the_same_weights_come_every_time_and_leave_the_random_numbers_alone():
    before = torch.manual_seed(123).get_state()
    plain, default = (make_network(TINY, kind, "inference", device=CPU) for kind in ("plain", "default"))
    again = make_network(TINY, "plain", "training", device=CPU)
    for key, tensor in plain.state_dict().items():
        assert torch.equal(tensor, default.state_dict()[key])
        assert torch.equal(tensor, again.state_dict()[key])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_step_leaves_the_gradients_of_the_weighted_mean_squares():
    network = nn.Conv3d(1, 1, 1, bias=False)
    network.weight.data.fill_(2.0)
    outputs = type("Two", (nn.Module,), {"forward": lambda self, x: {"a": network(x), "b": network(x[..., :1])}})()
    outputs.network = network
    x = torch.full((1, 1, 2, 2, 2), 3.0)
    for _ in range(2):  # gradients do not add up over steps
        train_step(outputs, x, PLAIN, weights=(1.0, 0.5))
    assert network.weight.grad.item() == pytest.approx(1.5 * 2 * 2.0 * 3.0**2)
    assert variants.gradients(outputs)[0] is network.weight.grad


# A whole run


class Recorder(nn.Module):
    """A network that notes how it was built and run."""

    seen: list[tuple[bool, bool, bool, bool]]

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 1)
        self.dropout = nn.Dropout(0.5)
        self.built_plain = not fastpath.enabled()
        self.spec = TINY

    def forward(self, x):
        self.seen.append((self.built_plain, not fastpath.enabled(), self.training, torch.is_autocast_enabled("cpu")))
        return self.dropout(self.conv(x))


@pytest.fixture
def recorder(monkeypatch):
    """Let `bench` load recorders, and give what they saw."""
    monkeypatch.setattr(Recorder, "seen", [], raising=False)
    monkeypatch.setattr(variants, "load", lambda spec, device: Recorder().eval())
    return Recorder


def run_recorder(**options):
    defaults = {"size": (1,), "precisions": ("float32", "bfloat16"), "rounds": 2, "device": "cpu", "memory": "skip"}
    return bench([TINY], **{**defaults, **options})


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_each_variant_is_built_and_run_as_it_says(recorder, mode):
    run_recorder(modes=[mode])
    training = mode == "training"
    turn = [
        (True, True, training, False),
        (False, False, training, False),
        (True, True, training, True),
        (False, False, training, True),
    ]
    assert recorder.seen == turn * 3
    assert fastpath.enabled()


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_only_the_default_network_is_prepared_and_only_for_inference(recorder, monkeypatch, mode):
    prepared = []
    monkeypatch.setattr(variants, "prepare_inference", lambda network, device: prepared.append(network) or network)
    run_recorder(modes=[mode])
    assert [network.built_plain for network in prepared] == ([False] if mode == "inference" else [])


def test_dropout_drops_the_same_units_in_every_variant_and_the_callers_random_numbers_stay(recorder):
    before = torch.manual_seed(123).get_state()
    default = run_recorder(modes=["training"]).models[0].measurements[1]
    assert (default.variant, default.relative_error) == (DEFAULT, 0.0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_networks_that_compute_something_else_have_an_error(recorder, monkeypatch):
    monkeypatch.setattr(recorder, "forward", lambda self, x: self.conv(x) * (1.0 if self.built_plain else 1.5))
    for mode, error in (("inference", 0.5), ("training", 1.5**2 - 1)):
        plain, default = run_recorder(modes=[mode], precisions=("float32",)).models[0].measurements
        assert plain.relative_error == 0
        assert default.relative_error == pytest.approx(error, rel=1e-5)


def test_progress_counts_every_run_to_the_end(recorder):
    told = []
    run_recorder(progress=told.append)
    total = 2 * 4 * 3
    assert told[0] == Progress(0, total, unit="runs", label="mednext-S, inference")
    assert told[-1] == Progress(total, total, unit="runs", label="mednext-S, training")
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)


def test_beside_other_work_every_step_has_its_turn_again(recorder, monkeypatch):
    beside = []
    real = bench_run.busy_processes
    monkeypatch.setattr(bench_run, "busy_processes", lambda count: beside.append(count) or real(count))
    seen = []
    report = bench(
        [TINY], size=(32,), precisions=("float32",), modes=("inference",), rounds=2, device="cpu", memory="skip",
        busy=1, progress=seen.append,
    )  # fmt: skip
    items = report.models[0].measurements
    assert beside == [1]
    assert report.busy == 1
    assert all(item.seconds_busy > 0 for item in items)
    assert seen[-1].done == seen[-1].total == len(items) * (2 + 2 + 1)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in Linux's /proc")
def test_busy_processes_compute_until_the_end_and_not_longer():
    before = _children()
    with busy_processes(1):
        (busy,) = _children() - before
        ticks = [_user_time(busy)]
        while len(ticks) < 200 and ticks[-1] == ticks[0]:
            time.sleep(0.01)
            ticks.append(_user_time(busy))
        assert ticks[-1] > ticks[0]
    assert busy not in _children()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in Linux's /proc")
def test_busy_processes_end_with_a_process_that_is_killed():
    code = (
        "import pathlib, time\n"
        "from connectomics_zoo.bench.busy import busy_processes\n"
        "with busy_processes(1):\n"
        "    print(*(p.read_text() for p in pathlib.Path('/proc/self/task').glob('*/children')), flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        busy = parent.stdout.readline().split()[0]
        parent.kill()
    state = Path(f"/proc/{busy}/stat")
    for _ in range(2400):
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("it computes on")


def _children():
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def _user_time(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def test_threads_are_used_and_given_back(recorder):
    before = torch.get_num_threads()
    report = run_recorder(threads=before + 1)
    assert report.machine.threads == before + 1
    assert torch.get_num_threads() == before


def test_a_device_that_does_not_exist_is_refused_before_any_work(recorder):
    with pytest.raises(UnknownNameError, match="unknown device 'tpux'"):
        run_recorder(device="tpux")
    assert recorder.seen == []


@pytest.fixture(scope="module")
def report():
    return bench([TINY], size=(17,), precisions=("float32", "bfloat16"), rounds=1, device="cpu", memory="skip")


def test_a_report_has_what_is_declared_and_what_was_measured(report):
    (model,) = report.models
    assert (model.model, model.input_shape) == ("mednext-S", (1, 1, 32, 32, 32))
    assert model.parameters_training > model.parameters_inference > 0
    order = [(item.mode, item.variant) for item in model.measurements]
    four = [PLAIN, DEFAULT, PLAIN_BF16, DEFAULT_BF16]
    assert order == [("inference", variant) for variant in four] + [("training", variant) for variant in four]
    for item in model.measurements:
        assert item.voxels_per_second * item.seconds == pytest.approx(32**3)
        work = model.flops * (3 if item.mode == "training" else 1)
        assert item.gflops_per_second * item.seconds == pytest.approx(work / 1e9)
        assert item.relative_error < (1e-4 if item.precision == "float32" else 0.2)
    assert model.measurements[0].speed_up == model.measurements[4].speed_up == 1.0


def test_operations_are_those_of_the_declared_network_at_this_size():
    spec = get_spec("mednext-S")
    report = bench([spec], size=(1,), precisions=("float32",), modes=[], device="cpu", memory="skip")
    (model,) = report.models
    declared = spec.expect.flops.total
    assert model.flops == pytest.approx(declared / (4 * 2 * 2), rel=0.1)
    assert model.parameters_training == spec.expect.parameters.training
    assert model.parameters_inference == spec.expect.parameters.inference


def test_a_report_survives_json(report):
    assert BenchReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read where Linux says it")
def test_peak_memory_is_that_of_a_step_in_a_process_of_its_own():
    network = resolve_model(TINY, arch={"base_channels": 8})
    shape = (1, 1, 96, 96, 96)
    peak = peak_memory(network, shape, PLAIN, "inference", device=CPU, threads=1)
    # The expanded features of a block at full resolution are 16 channels of float32.
    assert 16 * 4 * 96**3 < peak < 60 * 16 * 4 * 96**3


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read where Linux says it")
def test_a_peak_from_before_the_step_is_forgotten():
    large = bytearray(b"x") * 2**28
    del large
    before = reset_peak(CPU)
    assert 0 <= read_status("VmHWM") - before < 2**27


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read where Linux says it")
def test_a_step_that_fails_has_no_peak_and_says_why(caplog):
    with caplog.at_level(logging.WARNING):
        peak = peak_memory(TINY, (1, 1, 2**16, 2**16, 2**16), PLAIN, "training", device=CPU, threads=1)
    assert peak is None
    assert "the peak memory of mednext-S, training, was not measured: " in caplog.text
    assert "there is no memory for an input" in caplog.text


def test_other_accelerators_have_no_peak():
    assert peak_memory(TINY, (1, 1, 16, 32, 32), PLAIN, "inference", device=torch.device("mps"), threads=1) is None


# The machine


MACHINE = Machine(
    processor="A CPU",
    cores=2,
    instructions=("avx2",),
    memory_gib=8.0,
    accelerator=None,
    system="Linux",
    threads=1,
    load=0.5,
    versions={"python": "3.11", "torch": "2.13"},
    date="2026-11-24",
)


def test_a_machine_is_described_in_one_line():
    line = "A CPU (avx2), 2 cores, 8 GiB, Linux, 1 thread; python 3.11, torch 2.13; 2026-11-24"
    assert MACHINE.describe() == line
    bare = dataclasses.replace(MACHINE, instructions=(), memory_gib=None, accelerator="A GPU", cores=1, threads=3)
    assert bare.describe().startswith("A CPU, 1 core, A GPU, Linux, 3 threads; ")


def test_the_processor_is_read_from_what_linux_says(monkeypatch, tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 amx_bf16\n\nmodel name: other\n")
    monkeypatch.setattr(machine, "_CPU_INFO", info)
    found = describe_machine(CPU, packages=("pytest", "no-such-package"))
    assert (found.processor, found.instructions) == ("Some CPU @ 2 GHz", ("avx2", "amx_bf16"))
    assert "pytest" in found.versions
    assert "no-such-package" not in found.versions


def test_where_the_system_says_nothing_the_processor_still_has_a_name(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "none")
    found = describe_machine(CPU)
    assert found.processor
    assert found.instructions == ()


# Plot and page


def make_report(model="mednext-S", *, mode="inference", date="2026-11-24"):
    """A report of four variants with round numbers."""
    timings = {PLAIN: Timing((8.0,)), DEFAULT: Timing((2.0,)), PLAIN_BF16: Timing((4.0,)), DEFAULT_BF16: Timing((1.0,))}
    items = make_measurements(
        mode,
        timings,
        errors=dict.fromkeys(timings, 0.0) | {DEFAULT: 3e-7},
        memory={PLAIN: 400_000_000, DEFAULT: 100_000_000, PLAIN_BF16: None},
        voxels=64**3,
        flops=10**9,
    )
    network = ModelBench(model, 5_000_000, 4_000_000, (1, 1, 64, 64, 64), 10**9, items)
    return BenchReport(dataclasses.replace(MACHINE, date=date), (network,))


def test_a_plot_is_a_png_with_a_group_for_each_network_and_mode(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("connectomics_zoo.bench.plot._save", lambda figure, target: figures.append(figure))
    draw_speed_ups([make_report(), make_report(mode="training")], tmp_path / "plot.png")
    (axes,) = figures[0].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "mednext-S\ninference\n64×64×64",
        "mednext-S\ntraining\n64×64×64",
    ]
    assert [patch.get_height() for patch in axes.patches] == [1.0, 4.0, 2.0, 8.0] * 2
    assert axes.get_title() == "A CPU, 1 thread, torch 2.13"


def test_a_plot_replaces_the_one_before(tmp_path):
    path = tmp_path / "plot.png"
    path.write_text("old")
    draw_speed_ups([make_report()], path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [item.name for item in tmp_path.iterdir()] == ["plot.png"]


def test_a_plot_with_another_suffix_or_no_folder_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"a plot is a PNG, give a name that ends in \.png"):
        check_target(tmp_path / "plot.svg")
    with pytest.raises(OutputError, match="there is no folder"):
        check_target(tmp_path / "none" / "plot.png")


@pytest.fixture(scope="module")
def performance():
    """The modules of scripts/performance, by name."""
    folder = str(REPOSITORY / "scripts")
    sys.path.insert(0, folder)
    try:
        names = ("busy", "common", "networks", "page", "peers", "sections", "startup", "patches", "precision")
        yield {name: importlib.import_module(f"performance.{name}") for name in names}
    finally:
        sys.path.remove(folder)


def inference_data(**options):
    peaks = [
        {"implementation": kind, "precision": "float32", "bytes": count}
        for kind, count in (("plain", 800_000_000), ("default", 200_000_000))
    ]
    return {**make_report(**options).to_dict(), "memory": {"input_shape": [1, 1, 128, 128, 128], "peaks": peaks}}


def rows_of(text):
    """The cells of the table rows in a page, without headers and rules."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines]


def test_a_measured_section_replaces_its_own_and_leaves_the_others(tmp_path, performance):
    update = performance["page"].update
    training = make_report(mode="training", date="2026-01-01").to_dict()
    update(tmp_path, {"training": training})
    update(tmp_path, {"inference": inference_data(date="2026-02-02")})
    update(tmp_path, {"inference": inference_data(date="2026-03-03")})
    text = (tmp_path / "performance.md").read_text()
    assert text.startswith("<!-- Written by scripts/bench")
    assert "2026-02-02" not in text
    inference, rest = text.split("## Training step")
    assert "## Inference" in inference
    assert "2026-03-03" in inference
    assert "2026-01-01" in rest
    assert set(json.loads((tmp_path / "performance.json").read_text())) == {"inference", "training"}
    assert (tmp_path / "performance.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_has_ratios_with_their_aims(performance):
    text = performance["networks"].render_inference(inference_data())
    rows = {tuple(row[:3]): row for row in rows_of(text)}
    fp32 = rows["mednext-S", "64×64×64", "float32"]
    assert fp32[3:8] == ["8.00 s (8.00 s to 8.00 s)", "1.00x", "2.00 s (2.00 s to 2.00 s)", "**4.00x**", "≥ 2.7x"]
    assert fp32[-1] == "3.0e-07"
    assert rows["mednext-S", "64×64×64", "bfloat16"][6:8] == ["**8.00x**", "≥ 4.5x"]
    assert ["default", "float32", "200 MB", "0.25x", "≤ 0.35x"] in rows_of(text)


def test_other_networks_have_no_aim(performance):
    rows = rows_of(performance["networks"].render_inference(inference_data(model="mednext-L")))
    assert {row[7] for row in rows if row[0] == "mednext-L"} == {""}


def test_memory_that_was_not_measured_is_a_dash(performance):
    rows = rows_of(performance["networks"].render_training(make_report(mode="training").to_dict()))
    assert ["mednext-S", "64×64×64", "plain", "bfloat16", "-", "-", ""] in rows
    assert ["mednext-S", "64×64×64", "default", "float32", "100 MB", "0.25x", "≤ 0.35x"] in rows


def test_families_have_inference_and_training_side_by_side(performance):
    training = make_report("rsunet", mode="training").to_dict()["models"]
    data = {**make_report("rsunet").to_dict(), "training": training}
    (row,) = rows_of(performance["networks"].render_families(data))[2:]
    assert row == ["rsunet", "64×64×64", "8.00 s", "4.00x", "3e-07", "2.00x", "8.00x", "0e+00", "8.00 s", "4.00x"]


def peer_row(name, seconds, **more):
    times = {"seconds": seconds, "shortest": seconds, "longest": seconds, "preparation_seconds": 2.0}
    return {"name": name, "precision": "float32", "relative_error": 0.0, **times, **more}


def test_a_peer_that_is_missing_has_a_row_that_says_so(performance):
    rows = [
        peer_row("plain, eager", 8.0),
        peer_row("ours", 2.0),
        peer_row("OpenVINO", 1.5),
        {"name": "onnxruntime", "precision": "float32", "missing": "onnxruntime is not installed"},
    ]
    data = {"sizes": [{"input_shape": [1, 1, 8, 8, 8], "rows": rows}], "parameters": {"monai": 4, "plain": 5}}
    found = {row[0]: row for row in rows_of(performance["peers"].render(data))}
    assert found["onnxruntime"] == ["onnxruntime", "float32", "onnxruntime is not installed", *[""] * 6]
    assert found["OpenVINO"][5:8] == ["5.33x", "0.75x", "≥ 0.85x"]
    assert found["ours"][5:8] == ["4.00x", "-", ""]


def test_an_absent_package_and_a_failure_do_not_stop_the_other_peers(performance, monkeypatch):
    peers = performance["peers"]

    def fail(case, precision):
        raise RuntimeError

    chosen = (
        peers.PEERS[0],
        peers.Peer("absent", "float32", "no_such_package", fail),
        peers.Peer("broken", "float32", "torch", fail),
        peers.PEERS[1],
    )
    monkeypatch.setattr(peers, "PEERS", chosen)
    monkeypatch.setattr(peers, "get_spec", lambda name: TINY)
    settings = performance["common"].Settings(rounds=1, threads=1, large=False, quick=True, data=None)
    rows = peers._measure_size(32, settings, 1)["rows"]
    assert [row.get("missing") for row in rows] == [
        None,
        "no_such_package is not installed",
        "fails with RuntimeError",
        None,
    ]
    assert rows[3]["seconds"] > 0
    assert rows[3]["relative_error"] < 1e-4


def test_monais_network_is_as_large_as_ours_but_for_the_inert_parameter(performance):
    count = sum(parameter.numel() for parameter in performance["peers"].monai_network().parameters())
    assert count == get_spec("mednext-S").expect.parameters.inference - 1


def test_loading_is_compared_in_time_and_memory(performance):
    plain = {
        "import_seconds": 0.5,
        "seconds": 1.2,
        "touched_seconds": 1.3,
        "peak_bytes": 6e8,
        "touched_peak_bytes": 6e8,
    }
    ours = {**plain, "seconds": 0.2, "peak_bytes": 1.5e8}
    data = {"model": "m", "file_bytes": 2.5e8, "medians": {"plain": plain, "zoo": ours}}
    rows = rows_of(performance["startup"].render_loading(data))
    assert ["load", "1.20 s", "200 ms", "6.00x", "≥ 6x"] in rows
    assert ["peak memory", "600 MB", "150 MB", "0.25x", "≤ 0.5x"] in rows


def test_times_beside_other_work_are_compared_with_idle_ones(performance):
    items = [
        {"implementation": name, "seconds": idle, "seconds_busy": busy}
        for name, idle, busy in (("plain", 0.4, 1.0), ("default", 0.2, 0.3))
    ]
    data = {"size": 48, "busy": 2, "measurements": {"torch's own": items, "zoo's": items}}
    rows = rows_of(performance["busy"].render(data))
    assert rows[4] == ["plain", "zoo's", "400 ms", "1.00 s", "2.50x", ""]
    assert rows[5] == ["default", "zoo's", "200 ms", "300 ms", "1.50x", "≤ 2.5x"]


@pytest.mark.parametrize(("load", "beside"), [(0.9, "take turns:"), (5.04, "a load of 5.0 on 2 cores")])
def test_scores_in_both_types_are_compared_and_large_changes_stand_out(performance, load, beside):
    scores = {
        "float32": {"dice": 0.85, "voi_merge": 0.55936, "ap_50": 0.26829},
        "bfloat16": {"dice": 0.8509, "voi_merge": 0.55339, "ap_50": 0.26931},
    }
    found = {"window": [48, 48, 48], "seconds": {"float32": 0.5, "bfloat16": 0.25}, "scores": scores}
    text = performance["precision"].render(
        {"machine": {"load": load, "cores": 2}, "weights": {"mednext-S.objects": found}}
    )
    rows = rows_of(text)
    assert rows[2:5] == [
        ["mednext-S.objects", "dice", "0.85000", "0.85090", "+0.00090"],
        ["mednext-S.objects", "voi_merge", "0.55936", "0.55339", "**-0.00597**"],
        ["mednext-S.objects", "ap_50", "0.26829", "0.26931", "**+0.00102**"],
    ]
    assert "2 of 3 change by more than 0.001" in text
    assert beside in text
    assert rows[-1] == ["mednext-S.objects", "48×48×48", "500 ms", "250 ms", "2.00x"]


def test_the_scores_of_all_weights_that_ship_are_compared(performance):
    shipped = {path.stem for path in (REPOSITORY / "zoo" / "specs" / "models").glob("*/*.safetensors")}
    assert shipped
    assert set(performance["precision"]._shipped()) == shipped


def test_commands_are_compared_with_importing_torch(performance):
    data = {"seconds": {"python -c 'import torch'": 1.0, "zoo list": 0.15}, "import_zoo_seconds": 0.02}
    rows = rows_of(performance["startup"].render_startup(data))
    assert ["`zoo list`", "150 ms", "0.150x", "≤ 0.18x"] in rows
    assert ["`import zoo`, inside Python", "20.0 ms", "", "≤ 30.0 ms"] in rows


def test_the_loader_is_compared_with_the_network(performance):
    data = {
        "model": "mednext-S",
        "patch": [16, 96, 96],
        "downsample": [1, 4, 4],
        "batch": 1,
        "loader_seconds": {"HDF5": 0.1},
        "network_seconds": {"float32": 0.5, "bfloat16": 0.25},
    }
    rows = rows_of(performance["patches"].render(data))
    assert rows[-1] == ["HDF5", "10.0", "2.00", "4.00", "5.0x", "2.5x", "≥ 2x"]
