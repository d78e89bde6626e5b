"""A command that is forked runs as one for which a Python is started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from support.forkserver import SETTINGS


@pytest.fixture(params=["forked", "started"])
def python(request, forked_python):
    """Run `python` with arguments, forked and started: both must pass every test."""
    words = forked_python if request.param == "forked" else [sys.executable]

    def run(*args, environment=(), **options):
        variables = {**os.environ, **SETTINGS, **dict(environment)}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.run([*words, *args], env=variables, text=True, check=False, **streams)

    return run


def test_a_command_gets_its_arguments_folder_variables_and_input(python, tmp_path):
    code = "import os, sys; print(sys.argv, os.getcwd(), os.environ['ZOO_X'], input(), __name__, sys.path[0])"
    done = python("-c", code, "a", "b c", cwd=tmp_path, input="said\n", environment={"ZOO_X": "x"})
    assert done.stdout == f"['-c', 'a', 'b c'] {tmp_path} x said __main__ \n"


def test_a_script_runs_from_its_file(python, tmp_path):
    (tmp_path / "script.py").write_text("import beside, sys; print(beside.x, __name__, __file__, sys.argv)")
    (tmp_path / "beside.py").write_text("x = 1")
    script = str(tmp_path / "script.py")
    assert python(script, "a").stdout == f"1 __main__ {script} {[script, 'a']}\n"


@pytest.mark.parametrize(
    ("code", "exit_code", "error"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('a sentence')", 1, "a sentence\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os; os._exit(4)", 4, ""),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM, ""),
    ],
)
def test_a_command_ends_with_its_exit_code(python, code, exit_code, error):
    done = python("-c", code)
    assert done.returncode == exit_code
    assert done.stderr.endswith(error)
    assert bool(done.stderr) == bool(error)


def test_what_is_registered_for_the_end_runs_and_output_is_complete(python):
    code = "import atexit, sys; atexit.register(print, 'end'); print('x' * 100_000); sys.exit(1)"
    assert python("-c", code).stdout == "x" * 100_000 + "\nend\n"


def test_output_goes_to_the_end_of_a_file(python, tmp_path):
    code = "import sys; sys.stdout.reconfigure(errors='replace'); print('out'); print('err', file=sys.stderr)"
    with (tmp_path / "out").open("w") as out:
        out.write("before\n")
        out.flush()
        python("-c", code, stdout=out, stderr=subprocess.STDOUT)
    assert sorted((tmp_path / "out").read_text().splitlines()) == ["before", "err", "out"]


def test_pythonpath_brings_packages(python, tmp_path):
    (tmp_path / "brought.py").write_text("x = 'brought'")
    code = "import brought; print(brought.x)"
    assert python("-c", code, environment={"PYTHONPATH": str(tmp_path)}).stdout == "brought\n"
    assert "ModuleNotFoundError" in python("-c", code).stderr


def test_nothing_is_left_of_an_earlier_command(python, tmp_path):
    change = "import os, sys, zoo; os.chdir('/'); os.environ['ZOO_X'] = 'x'; zoo.changed = 1; sys.path.append('x')"
    look = "import os, sys, zoo; print(os.getcwd(), 'ZOO_X' in os.environ, hasattr(zoo, 'changed'), 'x' in sys.path)"
    assert python("-c", change).returncode == 0
    assert python("-c", look, cwd=tmp_path).stdout == f"{tmp_path} False False False\n"


def test_commands_draw_different_random_numbers(python):
    code = "import random, numpy; print(random.random(), numpy.random.random())"
    first, second = (python("-c", code).stdout.split() for _ in range(2))
    assert not {*first} & {*second}


def test_torch_computes_with_threads(python):
    code = "import torch; torch.set_num_threads(2); print(float(torch.ones(1000, 1000).matmul(torch.ones(1000)).sum()))"
    assert python("-c", code).stdout == "1000000.0\n"


def test_a_command_is_forked_with_torch_but_for_other_variables_that_imports_read(forked_python):
    code = "import sys; print('torch' in sys.modules)"

    def run(**variables):
        environment = {**os.environ, **SETTINGS, **variables}
        return subprocess.run([*forked_python, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert run().stdout == "True\n"
    assert run(HF_HOME="elsewhere").stdout == "False\n"


def test_a_command_is_ended_with_its_client(forked_python, tmp_path):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    environment = {**os.environ, **SETTINGS}
    client = subprocess.Popen([*forked_python, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    command = int(client.stdout.readline())
    client.kill()
    assert client.stdout.read() == ""  # nobody holds the pipe any more
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(command, 0)
            time.sleep(0.01)
