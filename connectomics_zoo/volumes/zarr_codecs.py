"""Which codecs of a Zarr array are decoded, and by what; asked before the store is opened: making some runs code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from connectomics_zoo.errors import VolumeError

# Those of zarr and numcodecs that turn bytes into numbers. Left out is what makes Python objects of them (pickle,
# json2, msgpack2, vlen-…), and whatever another package may register.
_COMPRESSORS = frozenset({"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"})
_FILTERS = frozenset(
    {
        "adler32",
        "astype",
        "bitround",
        "crc32",
        "crc32c",
        "delta",
        "fixedscaleoffset",
        "fletcher32",
        "jenkins_lookup3",
        "packbits",
        "quantize",
        "shuffle",
    }
)
_FORMAT_3 = frozenset({"bytes", "endian", "transpose", "sharding_indexed", "crc32c"})
_TENSORSTORE = frozenset({"blosc", "bz2", "gzip", "zlib", "zstd", "bytes", "transpose", "sharding_indexed", "crc32c"})
SAFE_CODECS = _COMPRESSORS | _FILTERS | _FORMAT_3 | {f"numcodecs.{name}" for name in _COMPRESSORS | _FILTERS}


def refuse_codecs(document: Mapping[str, Any], *, location: object) -> None:
    """Refuse an array with a codec off the list.

    Args:
        document: `.zarray` or `zarr.json` of the array.
        location: names the array in errors.

    Raises:
        VolumeError: a codec is not on the list.
    """
    for name in _codecs(document):
        if name not in SAFE_CODECS:
            known = ", ".join(sorted(_COMPRESSORS))
            raise VolumeError(
                f"{location}: is stored by the codec {name!r}, which is not read, since codecs can run code (those "
                f"that are: {known}): write the array again with one of those."
            )


def foreign_codec(document: Mapping[str, Any]) -> str | None:
    """Return a codec of an array that tensorstore does not have, None where it has all."""
    if document.get("filters"):
        return str(next(_codecs({"codecs": document["filters"]})))
    return next((str(name) for name in _codecs(document) if name not in _TENSORSTORE), None)


def _codecs(document: Mapping[str, Any]) -> Iterator[object]:
    """Names of all codecs of an array, and of those that a sharding codec has inside."""
    listed = document.get("compressor"), *_items(document.get("filters")), *_items(document.get("codecs"))
    for codec in listed:
        if codec is None:
            continue
        if not isinstance(codec, Mapping):
            yield codec
            continue
        yield codec.get("id", codec.get("name"))
        configuration = codec.get("configuration")
        inside = configuration if isinstance(configuration, Mapping) else {}
        for key in ("codecs", "index_codecs"):
            yield from _codecs({"codecs": inside.get(key)})


def _items(value: object) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]
