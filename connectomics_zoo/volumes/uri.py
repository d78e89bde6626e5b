"""Places in object stores and on web servers, and how tensorstore reaches them."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import tensorstore

from connectomics_zoo.errors import VolumeError

SCHEMES = ("s3", "gs", "http", "https")
"""What a URI may begin with, beside `file`, which is a local path."""

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_VIEWER = re.compile(r"(?:precomputed|zarr[23]?|n5)://(?=[A-Za-z][A-Za-z0-9+.-]+://)")
"""What Neuroglancer's links have before the URI; the format is seen in the store."""

FEW, MANY = 5, 10
"""Retries of a request, which take 8 s and 50 s: to see whether a server is there, and while one is busy."""

_DELAYS = {"initial_delay": "250ms", "max_delay": "8s"}

_CACHE_BYTES = 64 * 2**20
"""Chunks of all open stores that are kept, since the windows of a network overlap."""

_INSTANCE = Path("/sys/devices/virtual/dmi/id/sys_vendor")
"""Says who made the machine: on Amazon's, credentials may be those of its role."""


@dataclass(frozen=True)
class Uri:
    """A folder or file at `scheme://authority/path`; parts are joined, named and walked up as those of a `Path`."""

    scheme: str
    authority: str
    """Bucket, or host and port."""
    path: str
    """Without slashes at its ends."""
    query: str = ""
    """What a signed link of HTTP has after the question mark."""

    def __str__(self) -> str:
        """Return the URI without its query, which may hold a signature."""
        return f"{self.scheme}://{self.authority}" + (f"/{self.path}" if self.path else "")

    def __truediv__(self, below: str) -> Uri:
        """Return what lies at the relative path `below`."""
        parts = [part for part in f"{self.path}/{below}".split("/") if part not in ("", ".")]
        return Uri(self.scheme, self.authority, "/".join(parts), self.query)

    @property
    def name(self) -> str:
        """The last part of the path, empty where there is none."""
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot on, as of a `Path`."""
        return Path(self.name).suffix

    @property
    def parent(self) -> Uri:
        """The folder that it is in; of a bucket or host, itself."""
        return Uri(self.scheme, self.authority, self.path.rpartition("/")[0], self.query)

    @property
    def parents(self) -> tuple[Uri, ...]:
        """All folders that it is in, the nearest first."""
        count = self.path.count("/") + 1 if self.path else 0
        found = [self]
        for _ in range(count):
            found.append(found[-1].parent)
        return tuple(found[1:])


Place = Path | Uri
"""Where a file, a folder or a store is."""


def store_context(*, retries: int = MANY) -> Any:
    """Return the `tensorstore.Context` that every store is opened with, so that no server is waited for without end.

    Raises:
        VolumeError: the process was forked from one that had called this: it lacks the threads of tensorstore, which
            would end it.
    """
    if is_forked():
        raise VolumeError(
            "stores of chunks are not read in a process that was forked from one that has read some: start processes "
            "by spawn or forkserver (multiprocessing.get_context)."
        )
    _opening_process()
    return _context(retries)


def is_forked() -> bool:
    """Whether stores cannot be opened in this process, since it was forked from one that had opened some."""
    return _opening_process.cache_info().currsize > 0 and _opening_process() != os.getpid()


@functools.cache
def _opening_process() -> int:
    """Return the process that was the first to ask, in its forks too."""
    return os.getpid()


@functools.cache
def _context(retries: int) -> Any:
    patience = {f"{name}_request_retries": {"max_retries": retries, **_DELAYS} for name in ("s3", "gcs", "http")}
    return tensorstore.Context({**patience, "cache_pool": {"total_bytes_limit": _CACHE_BYTES}})


def is_uri(text: str) -> bool:
    """Whether a location is a URI of any scheme, also of one that is not read."""
    return _URI.match(text) is not None


def parse_place(text: str) -> Place:
    """Return the place that `text` names: a `Uri`, or a `Path` for `file://` and what is no URI.

    Raises:
        VolumeError: the scheme is not read, no bucket or host is named, or the path leads up.
    """
    found = _URI.match(_VIEWER.sub("", text))
    if found is None:
        return Path(text).expanduser()
    scheme, rest = found[1].lower(), found[2]
    if scheme == "file":
        return Path("/" + rest.lstrip("/"))
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise VolumeError(f"{text}: URIs of {found[1]}:// are not read, give one of {known}, or a local path.")
    query = ""
    if scheme in ("http", "https"):
        rest, _, query = rest.partition("?")
        query, mark, level = query.partition("#")
        rest += mark + level
    authority, _, path = rest.partition("/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not authority or re.search(r"[\s\x00-\x1f]", authority):
        kind = "host" if scheme in ("http", "https") else "bucket"
        raise VolumeError(f"{text}: names no {kind}, write {scheme}://{kind.upper()}/path.")
    if "@" in authority:
        raise VolumeError(
            f"{scheme}://…@{authority.rpartition('@')[2]}: has a name or a password in it, which is not read, leave "
            "it out."
        )
    if ".." in parts:
        raise VolumeError(f"{text}: has '..' in its path, write the path itself.")
    return Uri(scheme, authority, "/".join(parts), query)


def kvstore_of(place: Place) -> dict[str, Any]:
    """Return tensorstore's specification of the store of keys and values below the folder `place`.

    Of `s3://`, the environment says the rest, as for other tools: `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` the
    server (Amazon's where neither is set), `AWS_REGION` or `AWS_DEFAULT_REGION` the region (asked of Amazon where
    neither is set, `us-east-1` for other servers), and `AWS_ACCESS_KEY_ID` with `AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE`,
    `~/.aws/credentials` (or `AWS_SHARED_CREDENTIALS_FILE`), a container or the role of the machine who asks. Requests
    are not signed where `AWS_NO_SIGN_REQUEST` is set or none of those is found. Of `gs://`, credentials are
    `GOOGLE_APPLICATION_CREDENTIALS` or those of `gcloud`, and without them requests are anonymous. `http(s)://` is
    read only.
    """
    if isinstance(place, Path):
        return {"driver": "file", "path": f"{place.absolute()}/"}
    path = f"{place.path}/" if place.path else ""
    if place.scheme == "s3":
        return {"driver": "s3", "bucket": place.authority, "path": path, **_s3_options(os.environ)}
    if place.scheme == "gs":
        return {"driver": "gcs", "bucket": place.authority, "path": path}
    base = f"{place.scheme}://{place.authority}" + (f"?{place.query}" if place.query else "")
    # tensorstore encodes the path.
    return {"driver": "http", "base_url": base, "path": f"/{unquote(path)}"}


def _s3_options(environment: Mapping[str, str]) -> dict[str, Any]:
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    options: dict[str, Any] = {"aws_credentials": _s3_credentials(environment)}
    if endpoint:
        # Others than Amazon do not tell the region of a bucket, and mostly do not mind it.
        options |= {"endpoint": endpoint.rstrip("/"), "aws_region": region or "us-east-1"}
    elif region:
        options["aws_region"] = region
    return options


def _s3_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Return who asks; tensorstore's own search ends in an error where there is nobody."""
    if environment.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes"):
        return {"type": "anonymous"}
    if environment.get("AWS_ACCESS_KEY_ID"):
        return {"type": "environment"}
    shared = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    if environment.get("AWS_PROFILE") or shared.is_file():
        # tensorstore finds a profile only where both files are named, and one of them is there.
        config = Path(environment.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()
        files = {"credentials_file": str(shared), "config_file": str(config)}
        return {"type": "profile", "profile": environment.get("AWS_PROFILE") or "default", **files}
    if any(name.startswith("AWS_CONTAINER_CREDENTIALS_") for name in environment):
        return {"type": "ecs"}
    if environment.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return {"type": "default"}
    try:
        is_instance = _INSTANCE.read_text(encoding="utf-8").startswith("Amazon EC2")
    except OSError:
        is_instance = False
    return {"type": "imds" if is_instance else "anonymous"}
