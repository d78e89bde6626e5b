"""The client of the fork server: hands a command over, and ends as the command did. Imports little, to start fast."""

import json
import os
import signal
import socket
import sys


def run(address: str, words: list[str]) -> str:
    """Let the server run a command, and return its exit code (negative: the signal), or what is to be done instead."""
    command = {"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109 (an import less)
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [b" "], [0, 1, 2])
        server.sendall(json.dumps(command).encode() + b"\n")
        return server.recv(64).decode()


try:
    answer = run(sys.argv[1], sys.argv[2:])
except OSError:
    answer = ""
if answer == "start":
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
if not answer:
    sys.exit("the fork server has ended")
if int(answer) < 0:
    if -int(answer) != signal.SIGKILL:
        signal.signal(-int(answer), signal.SIG_DFL)
    os.kill(os.getpid(), -int(answer))
sys.exit(int(answer))
