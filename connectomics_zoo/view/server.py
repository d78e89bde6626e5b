"""Serves Neuroglancer's page and volumes to it on a port of this machine; what is shown is read when asked for."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import secrets
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from connectomics_zoo.errors import MissingPackageError, ZooError, reason
from connectomics_zoo.view.scene import Scene
from connectomics_zoo.view.state import served_source, state_of

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".css": "text/css",
    ".wasm": "application/wasm",
    ".map": "application/json",
}

_HOST = re.compile(r"[\w.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")

_HEARTBEAT_SECONDS = 15.0

_log = logging.getLogger(__name__)


def client_folder() -> Path:
    """Return the folder of Neuroglancer's page, which comes with its Python package.

    Raises:
        MissingPackageError: that is not installed.
    """
    found = importlib.util.find_spec("neuroglancer")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        client = Path(folder) / "static" / "client"
        if (client / "index.html").is_file():
            return client
    raise MissingPackageError(
        "zoo view needs the package neuroglancer, which is not installed, run `pip install 'connectomics-zoo[view]'`."
    )


class Server:
    """Shows a scene until it is closed; who knows its URL can see it.

    Args:
        scene: what is shown.
        host: the address that is listened on.
        port: 0 for any that is free.
        boxes: further layers, as states have them.

    Raises:
        MissingPackageError: Neuroglancer is not installed.
        ZooError: the port is taken, or the address is not of this machine.
    """

    def __init__(self, scene: Scene, *, host: str, port: int, boxes: Sequence[Mapping[str, Any]] = ()) -> None:
        self.scene, self.client, self.boxes = scene, client_folder(), boxes
        self.token = secrets.token_hex(16)
        self.sources = scene.sources
        self.closing = threading.Event()
        self._said: set[str] = set()

        class Handler(_Handler):
            server_state = self

        try:
            self._http = (_HTTPServer6 if ":" in host else _HTTPServer)((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise ZooError(
                f"port {port} of {host} cannot be listened on ({reason(error)}): give another one (--port), or 0 for "
                "any that is free; of addresses (--host), one of this machine."
            ) from None
        self._http.failed = self.say
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._http.server_address[1]}/v/{self.token}/"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def state(self, host: str) -> dict[str, Any]:
        """Return the state, for a browser that calls this server `host`."""
        base = f"precomputed://http://{host}/v/{self.token}/data"
        sources = {id(source): served_source(source, f"{base}/{number}") for number, source in enumerate(self.sources)}
        return state_of(self.scene, sources, boxes=self.boxes)

    def content(self, path: str) -> tuple[bytes, str] | None:
        """Return what lies at a path below the token, and its type; None where nothing does.

        Raises:
            VolumeError: a volume cannot be read there.
        """
        room, _, rest = path.partition("/")
        if room == "view":
            name = rest or "index.html"
            kind = _TYPES.get(Path(name).suffix)
            file = self.client / name
            return (file.read_bytes(), kind) if kind and Path(name).name == name and file.is_file() else None
        number, _, name = rest.partition("/")
        if room != "data" or not number.isdecimal() or int(number) >= len(self.sources):
            return None
        source = self.sources[int(number)]
        if name == "info":
            return json.dumps(source.info()).encode(), "application/json"
        if name == "properties/info":
            return json.dumps(source.properties()).encode(), "application/json"
        key, _, chunk = name.partition("/")
        block = source.chunk(key, chunk)
        return None if block is None else (block, "application/octet-stream")

    def say(self, message: str) -> None:
        """Log what is wrong, once."""
        if message not in self._said:
            self._said.add(message)
            _log.warning("%s", message)

    def close(self) -> None:
        """Stop, and close the volumes."""
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self.scene.close()


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    failed: Callable[[str], None]

    def server_bind(self) -> None:
        """Bind, without asking what this machine is called, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing where a browser has gone, and of all else what it was, once."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            self.failed(f"zoo view could not answer a browser: {type(error).__name__}: {error}")


class _HTTPServer6(_HTTPServer):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing for a request."""

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer with a file of the page, a description, or a chunk."""
        state = self.server_state
        path = self.path.partition("?")[0]
        host = self.headers.get("Host", "")
        if _HOST.fullmatch(host) is None:
            self._answer(HTTPStatus.BAD_REQUEST)
        elif path == "/favicon.ico":
            self._answer(HTTPStatus.NO_CONTENT)
        elif path == f"/events/{state.token}":
            self._stay()
        elif path in (f"/v/{state.token}", f"/v/{state.token}/"):
            self._answer(
                HTTPStatus.FOUND, location=f"/v/{state.token}/view/#!http://{host}{path.rstrip('/')}/state.json"
            )
        elif path == f"/v/{state.token}/state.json":
            self._answer(HTTPStatus.OK, json.dumps(state.state(host)).encode(), "application/json")
        elif not path.startswith(f"/v/{state.token}/"):
            self._answer(HTTPStatus.NOT_FOUND)
        else:
            self._content(path.removeprefix(f"/v/{state.token}/"))

    def _content(self, path: str) -> None:
        try:
            found = self.server_state.content(path)
        except ZooError as error:
            self.server_state.say(str(error))
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, str(error).encode(), "text/plain; charset=utf-8")
            return
        if found is None:
            self._answer(HTTPStatus.NOT_FOUND)
        else:
            self._answer(HTTPStatus.OK, *found)

    def _answer(self, status: HTTPStatus, body: bytes = b"", kind: str = "text/plain", *, location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if location:
            self.send_header("Location", location)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stay(self) -> None:
        """Keep a connection open, by which the page sees whether somebody is there; nothing is ever sent by it."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        while not self.server_state.closing.is_set():
            self.wfile.write(b":\n\n")
            self.wfile.flush()
            self.server_state.closing.wait(_HEARTBEAT_SECONDS)
