"""A Python that has imported the engine once, and forks for each command as if a Python had been started for it.

`fork_server()` starts it and gives the words that stand for `python` in a command: ``[*words, "-c", code]`` and
``[*words, script, argument]`` run in the caller's folder, environment, stdin, stdout and stderr, and end with their
exit code. What the command finds imported is the one difference, and the reason: torch, Lightning and MONAI take two
seconds each time. A command for which variables that are read at imports have other values than for the server
(`READ_EARLY`) runs in a Python of its own; and so do tests of what is imported, which start one themselves.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CLIENT = Path(__file__).with_name("forked.py")
"""What a command starts: it hands itself over to the server, and ends as the command did."""

SETTINGS = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
"""Added to the environment. A child has only the thread that forked, so that libraries must have started none."""

READ_EARLY = (
    "CUDA",
    "HF_",
    "HOME",
    "KMP_",
    "LANG",
    "LC_",
    "LD_",
    "MKL_",
    "MPL",
    "OMP_",
    "OPENBLAS_",
    "PYTHON",
    "TORCH",
)
"""How the variables begin that are read at imports; but PYTHONPATH is heeded anew in each child."""


@contextmanager
def fork_server(folder: Path) -> Iterator[list[str]]:
    """Run a server with its socket in `folder`, and give the words that stand for `python` in a command.

    The server gets the environment of now. It imports beside the tests, and the first command waits for that.
    """
    environment = {**os.environ, **SETTINGS}
    address = str(folder / "s")  # a name of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno()), os.environ.get("PYTHONPATH", "")],
            # Pipes, so that Python makes streams that never seek: a child writes through them to whatever it is given.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in environment.items() if name != "PYTHONPATH"},
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the tests
        )
    try:
        yield [sys.executable, "-I", "-S", str(CLIENT), address]
    finally:
        _, error = server.communicate()  # closes its stdin, at which it ends
    assert server.returncode == 0, error


def _import_everything() -> None:
    """Import what commands need; nothing may be computed, for a child gets none of the threads that do it."""
    import connectomics_zoo

    for module in pkgutil.walk_packages(connectomics_zoo.__path__, "connectomics_zoo."):
        importlib.import_module(module.name)
    import torch
    import torch._dynamo  # which the first pass without data imports, so that each child would

    threads = Path("/proc/self/task")
    assert not threads.exists() or len(list(threads.iterdir())) == 1, "an import started threads, which no child has"
    assert not torch.cuda.is_initialized(), "an import has initialised CUDA, which no child could use"
    gc.freeze()  # a child that looks for garbage would copy all that the imports made


def _serve(listener: socket.socket, environment: dict[str, str]) -> list[str]:
    """Fork for every command; return in a child, with the words of its command."""
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # who has ended is a zombie no more, and counts in our time
                pass
        if 0 in ready:
            sys.exit()
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _attend(connection, environment)
        connection.close()


def _attend(connection: socket.socket, environment: dict[str, str]) -> list[str]:
    """Fork for one command and tell the client its end; return in the child, with the words of the command."""
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    command: dict[str, Any] = json.loads(connection.makefile("rb").readline())
    if _read_early(command["environment"]) != _read_early(environment):
        connection.sendall(b"start")
        os._exit(0)
    ended, running = os.pipe()
    child = os.fork()
    if child == 0:
        connection.close()
        os.close(ended)
        _take_over(command, files)
        return command["words"]
    os.close(running)
    if connection in select.select([connection, ended], [], [])[0]:  # the client has gone
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with suppress(BrokenPipeError):
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _read_early(environment: dict[str, str]) -> dict[str, str]:
    early = {name: value for name, value in environment.items() if name.startswith(READ_EARLY)}
    early.pop("PYTHONPATH", None)
    early.pop("TORCHINDUCTOR_CACHE_DIR", None)  # which importing torch sets, here and there
    return early


def _take_over(command: dict[str, Any], files: list[int]) -> None:
    """Take the folder, the environment and the streams of the client."""
    for stream, file in enumerate(files):
        os.dup2(file, stream)
        os.close(file)
    os.chdir(command["folder"])
    os.environ.clear()
    os.environ.update(command["environment"])
    import numpy as np

    np.random.seed()  # to other numbers than the next child; `random` sees to that itself


def _use_path(first: str, pythonpath: str) -> None:
    """Let imports look in `first` and in the folders of `pythonpath`, before those that this Python has of its own."""
    added = [str(Path(entry).absolute()) for entry in pythonpath.split(os.pathsep) if entry]
    sys.path[:] = [first, *added, *OWN_PATH]
    importlib.invalidate_caches()


def _main() -> None:
    listener = socket.socket(fileno=int(sys.argv[1]))
    environment = dict(os.environ)
    _use_path(str(Path(__file__).parent), sys.argv[2])
    _import_everything()
    words = _serve(listener, environment)
    _run(words)


def _run(words: list[str]) -> None:
    """Run a command in this process, a child, and end it."""
    module = types.ModuleType("__main__")
    if words[0] == "-c":
        first, place, code, sys.argv = "", "<string>", words[1], ["-c", *words[2:]]
    else:
        first, place, code, sys.argv = str(Path(words[0]).parent), words[0], Path(words[0]).read_text(), words
        module.__file__ = words[0]
    _use_path(first, os.environ.get("PYTHONPATH", ""))
    sys.modules["__main__"] = module
    exit_code = 0
    try:
        exec(compile(code, place, "exec"), module.__dict__)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            raise
        exit_code = int(stop.code or 0)
    # As Python ends, but that it would then free all that was imported piece by piece, for which a child copies it.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    OWN_PATH = sys.path[1:]
    _main()
