"""Reads the small files of a store, on disk or behind a URI, and says in one sentence why one cannot be read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorstore

from connectomics_zoo.errors import VolumeError, ZooError, reason
from connectomics_zoo.volumes.checks import is_regular
from connectomics_zoo.volumes.uri import FEW, Place, Uri, kvstore_of, store_context

METADATA_SECONDS = 60
"""A server gets so long for a file of metadata; tensorstore would wait for minutes where a connection hangs."""

_DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED")
_AWAY = ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")


def read_files(folder: Place, names: Iterable[str]) -> dict[str, bytes]:
    """Return the contents of those of the files `names` in `folder` that are there.

    Raises:
        VolumeError: the server is not reached, or gives none of them.
        OSError: a local file cannot be read.
    """
    if isinstance(folder, Path):
        return {name: (folder / name).read_bytes() for name in names if is_regular(folder / name)}
    with reachable(folder):
        store = tensorstore.KvStore.open(kvstore_of(folder), context=store_context(retries=FEW)).result()
        pending = {name: store.read(name) for name in names}
    found: dict[str, bytes] = {}
    denied: VolumeError | None = None
    for name, future in pending.items():
        try:
            with reachable(folder):
                answer = future.result(timeout=METADATA_SECONDS)
        except _DeniedError as error:
            denied = error
            continue
        if answer.state == "value":
            found[name] = bytes(answer.value)
    if not found and denied is not None:
        raise denied
    return found


def find_files(folder: Place, names: Iterable[str]) -> dict[str, bytes]:
    """Return what `read_files` does, and nothing where the server gives none: some say that of what is not there.

    Raises:
        VolumeError: the server is not reached.
        OSError: a local file cannot be read.
    """
    try:
        return read_files(folder, names)
    except _DeniedError:
        return {}


def find_json(folder: Place, name: str) -> dict[str, Any] | None:
    """Return the JSON object in the file `name` of `folder`, None where no such file is there or given.

    Raises:
        VolumeError: the server is not reached.
        ValueError: it is no JSON object.
    """
    found = find_files(folder, [name])
    return parse_object(found[name], name=name) if name in found else None


def parse_object(content: bytes, *, name: str) -> dict[str, Any]:
    """Return the JSON object that the file `name` holds.

    Raises:
        ValueError: it is none.
    """
    try:
        document = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not valid JSON: {reason(error)}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{name} holds {type(document).__name__} and no mapping")
    return document


def refuse_missing_bucket(place: Uri) -> None:
    """Raise if the bucket of `place` on S3 is not there, which reading a file in it does not tell.

    Raises:
        VolumeError: it is not there.
    """
    if place.scheme != "s3":
        return
    bucket = Uri(place.scheme, place.authority, "")
    try:
        with reachable(bucket):
            store = tensorstore.KvStore.open(kvstore_of(bucket), context=store_context(retries=FEW)).result()
            store.list(tensorstore.KvStore.KeyRange("\x01", "\x02")).result(timeout=METADATA_SECONDS)
    except (_DeniedError, RuntimeError):
        return  # who may read may not always list, and not every server lists as Amazon's does


class _DeniedError(VolumeError):
    """A server does not give something to whoever asks."""


@contextmanager
def reachable(place: Place) -> Iterator[None]:
    """Turn what tensorstore raises where something cannot be reached or is not given into one `VolumeError`.

    Raises:
        VolumeError: saying what to do.
        RuntimeError: of everything else, in the few words of it that users can read.
    """
    try:
        yield
    except TimeoutError as error:
        raise VolumeError(f"{place}: the server takes too long to answer, try again later.") from error
    except ZooError:
        raise
    # tensorstore has few types of errors: which one it is stands at the beginning of the text. Any other type is a bug.
    except (ValueError, RuntimeError) as error:
        code, said = _parts(error)
        if isinstance(place, Uri):
            _raise_of_server(place, code=code, said=said, error=error)
        elif code in _DENIED:
            raise PermissionError(said) from error
        raise RuntimeError(said) from error


def _parts(error: Exception) -> tuple[str, str]:
    """Return the code of an error of tensorstore, and its text without what names no cause."""
    text = reason(error)
    found = re.match(r"([A-Z_]{4,}): ", text)
    said = text[found.end() :] if found else text
    said = re.sub(r"^All \d+ retry attempts failed: ", "", said)
    said = re.sub(r" \[[a-z_ ]+=.*$", "", said)
    return (found[1] if found else ""), said


def _raise_of_server(place: Uri, *, code: str, said: str, error: Exception) -> None:
    bucket = place.authority
    if code in _DENIED:
        raise _DeniedError(f"{place}: {_denial(place)} ({said}).") from error
    if code in _AWAY:
        where = ", and AWS_ENDPOINT_URL" if place.scheme == "s3" else ""
        raise VolumeError(
            f"{place}: the server does not answer ({said}), check the network{where}, and try again."
        ) from error
    # A list of what is in a bucket that is there is at most empty.
    if place.scheme == "s3" and code == "NOT_FOUND" and not place.path:
        raise VolumeError(f"{place}: there is no bucket {bucket!r}, check its name.") from error
    if "credentials" in said:
        raise VolumeError(
            f"{place}: the credentials that the environment names are not found ({said}), check AWS_PROFILE and "
            "~/.aws/credentials, or set AWS_NO_SIGN_REQUEST=1 for a public bucket."
        ) from error


def _denial(place: Uri) -> str:
    """Return why a server gives nothing, and what to do."""
    if place.scheme in ("http", "https"):
        return "the server does not give it to everybody, ask its owner for a link that may be read"
    if place.scheme == "gs":
        return (
            "may not be read by you, check the bucket, and say who you are by GOOGLE_APPLICATION_CREDENTIALS or "
            "`gcloud auth application-default login`"
        )
    if kvstore_of(place)["aws_credentials"]["type"] == "anonymous":
        return (
            "may not be read without credentials, and none are used: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE"
        )
    return "may not be read with your credentials, check the bucket and what its owner allows you"
