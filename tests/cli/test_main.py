"""The command line: data on stdout, notes on stderr, one sentence and the right exit code for every mistake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import h5py
import numpy as np
import pytest
import tifffile

from connectomics_zoo.cli import list as list_verb
from connectomics_zoo.cli._console import print_json
from connectomics_zoo.cli.main import VERBS
from connectomics_zoo.errors import CheckFailedError
from connectomics_zoo.files.yaml import parse_yaml
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.lookup import get_spec

MAIN = "from connectomics_zoo.cli.main import main; main()"

MISTAKES = [
    (["lst"], "unknown verb 'lst': did you mean 'list'"),
    (["--nope"], "No such option"),
    (["show"], "Missing argument 'REF'"),
    (["list", "--nope"], "No such option"),
    (["list", "a", "b"], "unexpected extra argument"),
    (["list", "mednxt"], "unknown model or family 'mednxt': did you mean 'mednext'"),
    (["list", "--where", "parmeters<1"], "unknown field 'parmeters': did you mean 'parameters'"),
    (["list", "--where", "name <"], "is no expression"),
    (["list", "--where", "name < 5"], "compares what cannot be compared"),
    (["list", "--sort", "params"], "unknown field 'params' to sort by: did you mean 'parameters'"),
    (["show", "mednxt-S"], "unknown model, task or experiment 'mednxt-S': did you mean 'mednext-S'"),
    (["show", "mednext-S@9.9.9"], "has no version '9.9.9'"),
    (["show", "none.yaml"], "'none.yaml' does not exist, give a YAML file"),
    (["show", "mednext-S", "arch.kernal_size=5"], "unknown key arch.kernal_size .*did you mean 'kernel_size'"),
    (["show", "mednext-S", "training.patch_size=16,32,32"], r"patch_size: must be a list, write \[16, 32, 32\]"),
    (["show", "mednext-S", "fast"], "'fast' is no override, write key=value"),
    (["show", "mito", "decode.treshold=0.3"], "mito: decode.treshold: unknown key, did you mean 'threshold'"),
    (
        ["show", "vnc-mito", "arch.kernal_size=5"],
        "unknown key arch.kernal_size for mednext-S: did you mean 'kernel_size'",
    ),
    (["show", "vnc-mito", "arch.kernel_size=4"], "kernel_size 4 is even"),
    (["show", "vnc-mito", "model=mednxt-S", "arch.kernel_size=5"], "unknown model 'mednxt-S': did you mean"),
    (["show", "mednext-S", "--kind", "task"], "unknown task 'mednext-S'"),
    (["show", "mednext-S", "--kind", "modle"], "'modle' is not one of 'model', 'task', 'experiment', 'run'"),
    (["show", "mednext-S", "--kind", "run"], "'mednext-S' is no run folder|cannot be read"),
    (["diff", "mednext-S"], "Missing argument 'B'"),
    (["diff", "mednext-S", "mito"], "is a model and 'mito' a task, compare two of a kind"),
    (["new", "x", "--from", "mednxt"], "unknown model 'mednxt'"),
    (["new", "x"], "Missing option '--from'"),
    (["new", "1x", "--from", "mednext-S"], "'1x' is no legal name for a model"),
    (["new", "x", "--from", "mednext-S", "arch.kernel_size=4"], "kernel_size 4 is even"),
    (["new", "x", "--from", "mednext-S", "--output", "none"], "none: there is no such folder, make it first"),
    (["schema"], r"Missing argument KIND: give model, task, experiment\.$"),
    (["completion"], r"Missing argument SHELL: give bash, zsh, fish\.$"),
    (["completion", "csh"], "'csh' is not one of 'bash', 'zsh', 'fish'"),
    (["phantom", "x.h5", "--shape", "8,8"], "'8,8' is not three whole numbers"),
    (["phantom", "x.h5", "--shape", "8,8,1.5"], "is not three whole numbers"),
    (["phantom", "x.h5", "--voxel-size", "a,1,1"], "'a,1,1' is not three numbers"),
    (["phantom", "x.h5", "--shape", "1,1,1"], "a phantom of shape .* is too small"),
    (["phantom", "x.h5", "--shape", "99999,99999,99999"], "at most .* are made, give a smaller shape"),
    (["phantom", "x.h5", "--voxel-size", "nan,1,1"], "voxel_size_nm .* would show no cells"),
    (["phantom", "v2", "--shape", "8,16,16"], "v2: a phantom is an HDF5 file"),
    (["phantom", "none/x.h5", "--shape", "8,16,16"], "none"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=[" ".join(args) for args, _ in MISTAKES])
def test_a_mistake_is_one_sentence_on_stderr_and_exit_code_2(run_zoo, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_zoo(*args)
    assert code == 2
    assert out == ""
    assert re.search(message, err)
    assert err.startswith("zoo: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_a_real_process_has_no_traceback():
    result = subprocess.run(
        [sys.executable, "-c", "from connectomics_zoo.cli.main import main; main()", "show", "mednxt-S"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("args", [["list"], ["list", "--json"], ["show", "mednext-S"]], ids=" ".join)
def test_a_closed_pipe_is_no_error(args):
    reading, writing = os.pipe()
    os.close(reading)
    code = f"import sys; sys.argv = {['zoo', *args]!r}; from connectomics_zoo.cli.main import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_exit_code_of_a_verb_is_that_of_the_process(run_zoo, monkeypatch):
    monkeypatch.setattr(list_verb.command, "callback", lambda **_: click.get_current_context().exit(1))
    assert run_zoo("list") == (1, "", "")


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "stopped."),
        (KeyboardInterrupt("run: stopped after 3 steps, go on with --resume."), 130, "run: stopped after 3 steps, .*"),
        (MemoryError(), 2, "not enough memory, do a smaller part at a time or free some."),
        (np.empty, 2, r"not enough memory \(Unable to allocate .*\), do a smaller part at a time or free some."),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
            2,
            "not enough memory, do a smaller part at a time or free some.",
        ),
        (OSError(28, "No space left on device", "a.h5"), 2, "a.h5: No space left on device, mend that and try again."),
        (CheckFailedError("2 check(s) failed."), 1, r"2 check\(s\) failed."),
    ],
)
def test_every_error_of_a_verb_becomes_a_sentence_and_an_exit_code(run_zoo, monkeypatch, error, code, sentence):
    def fail(**_):
        if error is np.empty:
            np.empty((10**9, 10**6))
        raise error

    monkeypatch.setattr(list_verb.command, "callback", fail)
    found, out, err = run_zoo("list")
    assert (found, out) == (code, "")
    assert re.fullmatch(f"zoo: {sentence}", err.strip("\n"))


LOGGING = """
import logging, sys, warnings
from connectomics_zoo.cli import list as verb
def speak(**_):
    logging.getLogger("somewhere").warning("damaged %s", "a.h5")
    logging.getLogger("somewhere").info("not this")
    warnings.warn("takes\\n  long")
verb.command.callback = speak
sys.argv = ["zoo", "list"]
from connectomics_zoo.cli.main import main
main()
"""


def test_logs_and_warnings_of_every_library_are_notes_of_one_form():
    run = subprocess.run([sys.executable, "-c", LOGGING], capture_output=True, text=True, check=True)
    assert run.stderr.splitlines() == ["zoo: damaged a.h5", "zoo: takes long (UserWarning)"]


def test_json_has_one_form_and_null_where_a_number_is_not_finite(capsys):
    print_json({"score": float("nan"), "sizes": (1, float("inf")), "name": "µ"})
    assert capsys.readouterr().out == '{\n  "score": null,\n  "sizes": [\n    1,\n    null\n  ],\n  "name": "µ"\n}\n'


def test_a_command_ends_without_a_last_search_for_garbage():
    # Handlers run in the reverse order of their registration.
    code = f"import atexit, gc; atexit.register(lambda: print('frozen', gc.get_freeze_count() > 0)); {MAIN}"
    run = subprocess.run([sys.executable, "-c", code, "list", "mednext-S"], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "frozen True"


def test_zoo_alone_says_what_it_can_do(run_zoo):
    code, out, err = run_zoo()
    assert (code, err) == (0, "")
    assert all(f"  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(run_zoo, verb):
    code, out, err = run_zoo(verb, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: zoo {verb} ")


# show


def test_a_model_is_shown_with_its_summary_and_its_complete_spec(run_zoo):
    code, out, err = run_zoo("show", "mednext-S", "--all")
    assert (code, err) == (0, "")
    assert "5,552,843 in training, 5,550,915 in inference" in out
    assert "16 + n*16, 32 + n*16, 32 + n*16 voxels" in out
    assert re.search(r"^ds_4 +2 +16×16×16 +0.0625", out, re.MULTILINE)
    assert "arXiv" in out or "arxiv" in out
    assert "Apache-2.0" in out
    assert "gradient_clip: 1.0" in out  # a default that the file does not state


@pytest.mark.parametrize("ref", ["mednext-S", "zoo:mednext-S@1.0.0"])
def test_the_yaml_alone_is_a_spec_again(run_zoo, ref, tmp_path):
    _, out, _ = run_zoo("show", ref, "--yaml")
    assert validate(ModelSpec, parse_yaml(out), source="out") == get_spec(ref)
    path = tmp_path / "again.yaml"
    path.write_text(out)
    assert run_zoo("show", path, "--yaml")[1] == out


def test_the_json_alone_is_the_same_spec(run_zoo):
    assert json.loads(run_zoo("show", "mednext-S", "--json")[1]) == parse_yaml(
        run_zoo("show", "mednext-S", "--yaml")[1]
    )


def test_overrides_are_applied_and_listed(run_zoo):
    code, out, _ = run_zoo("show", "mednext-S", "arch.kernel_size=5", "training.seed=3", "--all")
    assert code == 0
    assert re.search(r"^arch.kernel_size +3 +5 *$", out, re.MULTILINE)
    assert re.search(r"^training.seed +0 +3 *$", out, re.MULTILINE)
    assert "not measured for this network" in out
    assert "expect: null" in out


def test_tasks_experiments_and_runs_are_shown(run_zoo, tmp_path):
    assert re.search(r"^mitochondria +sigmoid +foreground +1 bce \+ 1 dice", run_zoo("show", "mito")[1], re.MULTILINE)
    experiment = tmp_path / "mine.yaml"
    experiment.write_text(
        "{schema_version: 1, name: mine, summary: Mine., model: mednext-S, task: mito, training: {max_steps: 7}, "
        "data: {root: '???', train: [{image: 'a.h5:raw', label: 'a.h5:mito', region: {z: [0, 13]}}]}}"
    )
    _, out, _ = run_zoo("show", experiment)
    assert re.search(r"^train +a.h5:raw +a.h5:mito +z 0 to 12", out, re.MULTILINE)
    assert "max_steps 7" in out
    assert "zoo train mine data.root=FOLDER" in out
    assert "null" not in out
    model, task = get_spec("mednext-S").model_dump(mode="json"), parse_yaml(run_zoo("show", "mito", "--yaml")[1])
    folder = tmp_path / "run"
    folder.mkdir()
    document = {"schema_version": 1, "kind": "run", "name": "my-run", "model": model, "task": task, "data": {}}
    document |= {"training": model["training"], "prediction": {"window": [64, 64, 64]}, "versions": {"torch": "2"}}
    (folder / "spec.yaml").write_text(json.dumps(document))
    _, out, _ = run_zoo("show", folder)
    assert "A run of mednext-S@1.0.0 for mito." in out
    assert "window 64 × 64 × 64, overlap 0.5" in out
    assert "side by side" not in out
    document["data"] = {"validation": [{"image": "a.h5:raw", "label": "a.h5:mito"}]}
    (folder / "spec.yaml").write_text(json.dumps(document))
    _, out, _ = run_zoo("show", folder)
    assert re.search(r"^validation  scores of windows side by side, not blended: zoo predict blends them", out, re.M)
    assert json.loads(run_zoo("show", folder, "--json")[1])["kind"] == "run"
    assert json.loads(run_zoo("show", folder, "--kind", "model", "--json")[1])["name"] == "mednext-S"
    code, _, err = run_zoo("show", folder, "training.seed=1")
    assert code == 2
    assert "is a run, which is what it was: leave the overrides out" in err


# diff


def test_a_comparison_lists_the_fields_and_the_effect(run_zoo):
    code, out, err = run_zoo("diff", "mednext-S", "mednext-S-k5")
    assert (code, err) == (0, "")
    assert re.search(r"^arch.kernel_size +3 +5 +breaking", out, re.MULTILINE)
    assert re.search(r"^expect.probe +\d+ entries differ", out, re.MULTILINE)
    assert out.splitlines()[-1].startswith("breaking: weights of one do not fit the other")


def test_a_comparison_as_json_has_every_field(run_zoo):
    report = json.loads(run_zoo("diff", "mednext-S", "mednext-S-k5", "--json")[1])
    assert (report["a"], report["b"], report["effect"]) == ("mednext-S", "mednext-S-k5", "breaking")
    assert {"path": "arch.kernel_size", "change": "changed", "before": 3, "after": 5, "effect": "breaking"} in (
        report["differences"]
    )


def test_equal_specs_differ_in_nothing(run_zoo):
    assert (
        run_zoo("diff", "mednext-S", "mednext-S@1.0.0")[1]
        == "mednext-S and mednext-S@1.0.0 are equal in every field.\n"
    )
    assert json.loads(run_zoo("diff", "mito", "mito", "--json")[1])["effect"] is None


def test_versions_and_files_are_compared(run_zoo, add_spec, tmp_path):
    add_spec("mednext-XS", {"version": "2.0.0", "changes": {"2.0.0": "New."}})
    add_spec("mednext-XS@1.0.0", {"expect": None})
    code, out, err = run_zoo("diff", "mednext-XS@1.0.0", "mednext-XS")
    assert code == 0
    assert re.search(r"^changes.1.0.0 +First release. +\(absent\) +cosmetic", out, re.MULTILINE)
    assert out.splitlines()[-1].startswith("weights-compatible")
    assert "mednext-XS@1.0.0 declares no measurement" in err


# new


def test_a_new_model_is_written_and_its_path_printed(run_zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ["arch.base_channels=1", "training.patch_size=[16, 32, 32]"]
    code, out, err = run_zoo("new", "tiny", "--from", "mednext-S", *overrides)
    assert (code, out) == (0, "tiny.yaml\n")
    assert re.fullmatch(r"zoo: tiny has [\d,]+ parameters in training and [\d,]+ in inference.\n", err)
    spec = get_spec(tmp_path / "tiny.yaml")
    assert spec.arch.base_channels == 1
    code, out, err = run_zoo("new", "tiny", "--from", "mednext-S", *overrides)
    assert (code, out) == (2, "")
    assert "tiny.yaml exists and is not overwritten" in err
    code, out, err = run_zoo("verify", "tiny.yaml", "--level", "forward")
    assert (code, err if code else "") == (0, "")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="/proc, which even root cannot write to, is not here")
def test_a_place_that_cannot_be_written_is_an_error(run_zoo):
    code, out, err = run_zoo("new", "tiny", "--from", "mednext-S", "arch.base_channels=1", "--output", "/proc")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"zoo: /proc/tiny.yaml: cannot be written \(.*\), give a writable place.\n", err)


# phantom


def test_a_phantom_is_written_once(run_zoo, tmp_path):
    path = tmp_path / "p.h5"
    args = ["phantom", path, "--shape", "8,24,32", "--voxel-size", "8,8,8"]
    assert run_zoo(*args) == (0, f"{path}\n", "")
    with h5py.File(path) as file:
        assert set(file) == {"raw", "neurons", "mitochondria", "membranes"}
        assert {dataset.shape for dataset in file.values()} == {(8, 24, 32)}
        first = file["raw"][:]
    code, out, err = run_zoo(*args)
    assert (code, out) == (2, "")
    assert "p.h5 exists and is not overwritten, choose another name or add --overwrite" in err
    assert run_zoo(*args, "--overwrite", "--seed", "1")[0] == 0
    with h5py.File(path) as file:
        assert (file["raw"][:] != first).any()
    assert [item.name for item in Path(tmp_path).iterdir()] == ["p.h5"]


def test_a_damaged_tiff_is_one_sentence(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((5, 32, 32), np.uint8), photometric="minisblack")
    path.write_bytes(path.read_bytes()[:280])  # tifffile logs what it misses, and goes on
    run = subprocess.run([sys.executable, "-c", MAIN, "evaluate", path, path], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith(f"zoo: {path}: ")
    assert run.stderr.count("\n") == 1


def test_a_stream_without_unicode_gets_the_table_with_replacements():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run(
        [sys.executable, "-c", MAIN, "list", "mednext-S"], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert "5,552,843" in run.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_one_sentence():
    with Path("/dev/full").open("w") as full:
        run = subprocess.run([sys.executable, "-c", MAIN, "list"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 2
    assert "No space left on device" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_network_that_is_too_large_is_refused_before_torch_is_imported():
    code = f"import sys\ntry:\n    {MAIN}\nfinally:\n    assert 'torch' not in sys.modules"
    overrides = [
        "arch.base_channels=1024",
        "arch.expansion_ratios=64",
        "arch.block_counts=[64,64,64,64,64,64,64,64,64]",
    ]
    run = subprocess.run(
        [sys.executable, "-c", code, "new", "huge", "--from", "mednext-S", *overrides], capture_output=True, text=True
    )
    assert run.returncode == 2
    assert "asks for about 3.7e+12 parameters" in run.stderr
    assert "AssertionError" not in run.stderr


def test_sigterm_ends_a_verb_as_ctrl_c_does():
    """With what it has begun to write taken away again."""
    code = (
        "import os, signal, sys\n"
        "from connectomics_zoo.cli import main as module\n"
        "def stop(*args, **options):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        signal.pause()\n"
        "    finally:\n"
        "        print('cleaned')\n"
        "import connectomics_zoo.predict\n"
        "connectomics_zoo.predict.predict = stop\n"
        "sys.argv = ['zoo', 'predict', 'run', 'a.tif', 'b.tif']\n"
        "module.main()\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (130, "cleaned\n")
    assert run.stderr.endswith("zoo: stopped.\n")
