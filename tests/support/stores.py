"""Servers on loopback for stores of chunks: one of S3, and one that gives the files of a folder."""

from __future__ import annotations

import functools
import http.server
import itertools
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_AWS = ("NO_SIGN_REQUEST", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "REGION", "DEFAULT_REGION",
        "ENDPOINT_URL", "ENDPOINT_URL_S3", "WEB_IDENTITY_TOKEN_FILE", "SHARED_CREDENTIALS_FILE")  # fmt: skip


def forget_credentials(monkeypatch, folder: Path) -> None:
    """Take everything out of the environment that says who asks for a bucket, and of whom."""
    for name in _AWS:
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "no-credentials"))
    monkeypatch.setattr("connectomics_zoo.volumes.uri._INSTANCE", folder / "no-instance")


_NUMBERS = itertools.count()
"""Of buckets: all servers of a process have the same ones."""


class S3Server:
    """A server of S3 (moto); each bucket is a new one."""

    def __init__(self) -> None:
        import boto3
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.address = f"http://{host}:{port}"
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.address,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def new_bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"lab-{next(_NUMBERS)}"
        self.client.create_bucket(Bucket=name)
        return name

    def upload(self, folder: Path, *, bucket: str, to: str) -> None:
        """Copy the files of a local folder into a bucket, below the key `to`."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{to}/{path.relative_to(folder).as_posix()}"
                self.client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())

    def keys(self, bucket: str) -> set[str]:
        """Return the keys of what is in a bucket."""
        return {item["Key"] for item in self.client.list_objects_v2(Bucket=bucket).get("Contents", [])}

    def stop(self) -> None:
        """End it."""
        self._server.stop()


class _Files(http.server.SimpleHTTPRequestHandler):
    """Gives files, also to who asks for objects of Google's buckets; a path that begins with a status gets that one."""

    missing = 404

    def do_GET(self) -> None:
        found = re.match("/storage/v1/b/([^/]+)/o/?([^?]*)", self.path)
        if found is not None:
            self.path = f"/{found[1]}/{found[2].replace('%2F', '/')}"
            if not found[2]:
                self._list(is_there=Path(self.directory, found[1]).is_dir())
                return
        status = self.path.split("/")[1]
        if status in ("302", "401", "403", "500"):
            self.send_error(int(status))
        else:
            super().do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        super().send_error(self.missing if code == 404 else code, message, explain)

    def _list(self, *, is_there: bool) -> None:
        self.send_response(200 if is_there else 404)
        self.end_headers()
        self.wfile.write(b"{}")

    def end_headers(self) -> None:
        self.send_header("x-goog-generation", "1")
        self.send_header("ETag", '"1"')
        self.send_header("Access-Control-Allow-Origin", "*")  # a page of another port may look at them
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def file_server(folder: Path, *, missing: int = 404) -> Iterator[str]:
    """Serve the files of a folder, which nobody can list; yield the address.

    Args:
        folder: what is served.
        missing: the status of what is not there.
    """
    handler = functools.partial(type("Files", (_Files,), {"missing": missing}), directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
