"""MedNeXt-S beside what else runs it: OpenVINO, onnxruntime, torch.compile, and MONAI's own MedNeXt."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from connectomics_zoo.bench.timing import alternate, relative_error
from connectomics_zoo.bench.variants import BenchPrecision, Variant, infer, input_shape, make_input, make_network
from connectomics_zoo.fastpath import plain_only
from connectomics_zoo.network.build import count_parameters
from connectomics_zoo.predict.openvino_engine import import_openvino
from connectomics_zoo.schema.model import ModelSpec
from performance.common import Settings, aim, seconds, shape, table, this_machine, threads, times
from zoo import get_spec

MODEL = "mednext-S"
OPENVINO_AIM = 0.85
"""Speed of ours over that of OpenVINO at equal precision that should be reached."""

CPU = torch.device("cpu")
Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """What every peer gets."""

    spec: ModelSpec
    plain: nn.Module
    default: nn.Module
    x: Tensor
    """(B, C, Z, Y, X)."""
    threads: int
    folder: Path
    """For what must be written on the way; it is removed."""


@dataclass(frozen=True)
class Peer:
    """One way to run the network, or one like it."""

    name: str
    precision: BenchPrecision
    package: str
    """What it needs."""
    prepare: Callable[[Case, BenchPrecision], Run]
    """Converts and returns what runs; the time of it and of the first run is preparation."""
    same_network: bool = True
    """Whether it has the same weights, so that its output can be compared."""


def _plain(case: Case, precision: BenchPrecision) -> Run:
    return lambda: infer(case.plain, case.x, Variant("plain", precision))


def _ours(case: Case, precision: BenchPrecision) -> Run:
    return lambda: infer(case.default, case.x, Variant("default", precision))


def _compiled(case: Case, precision: BenchPrecision) -> Run:
    network = torch.compile(case.plain)
    return lambda: infer(network, case.x, Variant("plain", precision))


def _openvino(case: Case, precision: BenchPrecision) -> Run:
    openvino = import_openvino()
    with plain_only(), torch.no_grad():
        model = openvino.convert_model(case.plain, example_input=case.x, input=[list(case.x.shape)])
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": case.threads,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
    }
    request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()
    x = case.x.numpy()
    return lambda: request.infer([x], share_inputs=True, share_outputs=True)[0]


def _onnxruntime(case: Case, precision: BenchPrecision) -> Run:
    import onnxruntime

    path = case.folder / "network.onnx"
    with plain_only(), torch.no_grad():
        torch.onnx.export(case.plain, (case.x,), path, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: case.x.numpy()}
    return lambda: session.run(None, feed)[0]


def _monai(case: Case, precision: BenchPrecision) -> Run:
    network = monai_network().eval()
    return lambda: infer(network, case.x, Variant("plain", precision))


def monai_network() -> nn.Module:
    """Return MONAI's MedNeXt of the same size; its keys are others, so that it keeps weights of its own."""
    from monai.networks.nets import MedNeXtS

    network: nn.Module = MedNeXtS(in_channels=1, out_channels=2, kernel_size=3, deep_supervision=False)
    return network


PEERS = (
    Peer("plain, eager", "float32", "torch", _plain),
    Peer("ours", "float32", "torch", _ours),
    Peer("OpenVINO", "float32", "openvino", _openvino),
    Peer("onnxruntime", "float32", "onnxruntime", _onnxruntime),
    Peer("torch.compile of plain", "float32", "torch", _compiled),
    Peer("MONAI's MedNeXt, eager", "float32", "monai", _monai, same_network=False),
    Peer("plain, eager", "bfloat16", "torch", _plain),
    Peer("ours", "bfloat16", "torch", _ours),
    Peer("OpenVINO", "bfloat16", "openvino", _openvino),
    Peer("torch.compile of plain", "bfloat16", "torch", _compiled),
    Peer("MONAI's MedNeXt, eager", "bfloat16", "monai", _monai, same_network=False),
)
"""The first is what the errors and speed-ups are against; onnxruntime's CPU kernels have no bfloat16."""


def measure(settings: Settings) -> dict[str, Any]:
    """Prepare every peer that is installed, and let all of them take turns in this process."""
    sizes = (32,) if settings.quick else (64, 96) if settings.large else (64,)
    with threads(settings.threads) as count:
        return {
            "machine": this_machine("openvino", "onnxruntime"),
            "parameters": {
                "plain": get_spec(MODEL).expect.parameters.inference,
                "monai": count_parameters(monai_network()),
            },
            "sizes": [_measure_size(size, settings, count) for size in sizes],
        }


def _measure_size(size: int, settings: Settings, count: int) -> dict[str, Any]:
    spec = get_spec(MODEL)
    window = input_shape(spec, (size,))
    rows: list[dict[str, Any]] = []
    runs: dict[int, Run] = {}
    with tempfile.TemporaryDirectory() as folder, _cold_compiler(Path(folder)), _quiet():
        case = Case(
            spec=spec,
            plain=make_network(spec, "plain", "inference", device=CPU),
            default=make_network(spec, "default", "inference", device=CPU),
            x=make_input(window, device=CPU),
            threads=count,
            folder=Path(folder),
        )
        reference = torch.as_tensor(_plain(case, "float32")()).clone()
        for index, peer in enumerate(PEERS):
            row: dict[str, Any] = {"name": peer.name, "precision": peer.precision}
            rows.append(row)
            if importlib.util.find_spec(peer.package) is None:
                row["missing"] = f"{peer.package} is not installed"
                continue
            begin = time.perf_counter()
            try:
                runs[index] = peer.prepare(case, peer.precision)
                output = torch.as_tensor(runs[index]())
            except Exception as error:  # one peer that fails must not lose the others: the table says so
                runs.pop(index, None)
                row["missing"] = f"fails with {type(error).__name__}"
                continue
            row["preparation_seconds"] = time.perf_counter() - begin
            row["relative_error"] = relative_error([output], [reference]) if peer.same_network else None
        for index, timing in alternate(runs, rounds=settings.rounds).items():
            rows[index] |= {"seconds": timing.median, "shortest": timing.shortest, "longest": timing.longest}
    return {"input_shape": window, "rows": rows}


def _cold_compiler(folder: Path) -> AbstractContextManager[None]:
    """Within it torch.compile finds nothing in its cache."""

    @contextmanager
    def context() -> Any:
        before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
        torch.compiler.reset()
        try:
            yield
        finally:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
            if before is not None:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before

    return context()


@contextmanager
def _quiet() -> Any:
    """The tracers' warnings are about inputs of other sizes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def render(data: dict[str, Any]) -> str:
    """Write a table for each input."""
    parts = []
    for size in data["sizes"]:
        ours = {row["precision"]: row["seconds"] for row in size["rows"] if row["name"] == "ours" and "seconds" in row}
        base = size["rows"][0]["seconds"]
        parts.append(f"Input {shape(size['input_shape'])}:")
        headers = [
            "",
            "precision",
            "preparation >",
            "median >",
            "range >",
            "speed-up >",
            "ours is >",
            "aim >",
            "error >",
        ]
        parts.append(table(headers, [_cells(row, base, ours) for row in size["rows"]]))
    counts = data["parameters"]
    return "\n\n".join(
        [
            *parts,
            f"MONAI's network has {counts['monai']:,} parameters in inference and ours {counts['plain']:,} (one of "
            "which is inert); its keys are others, so it keeps random weights of its own and has no error here. "
            "Preparation is conversion, compilation and the first run; torch.compile begins with an empty cache. "
            '"Ours is": its speed over that of the row at the same precision.',
        ]
    )


def _cells(row: dict[str, Any], base: float, ours: dict[str, float]) -> list[str]:
    if "missing" in row:
        return [row["name"], row["precision"], row["missing"], *[""] * 6]
    wanted = OPENVINO_AIM if row["name"] == "OpenVINO" else None
    relative = None if row["name"] == "ours" else row["seconds"] / ours[row["precision"]]
    error = row["relative_error"]
    return [
        row["name"],
        row["precision"],
        seconds(row["preparation_seconds"]),
        seconds(row["seconds"]),
        f"{seconds(row['shortest'])} to {seconds(row['longest'])}",
        times(base / row["seconds"]),
        times(relative),
        aim(wanted),
        "-" if error is None else f"{error:.1e}",
    ]
