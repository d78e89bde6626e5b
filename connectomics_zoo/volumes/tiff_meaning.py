"""What the tags and headers of a TIFF say of its values and of where its sections are: used, or refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from connectomics_zoo.errors import LimitError, VolumeError

MAX_SEGMENT_BYTES = 2**30
"""Largest compressed strip or tile that is decoded, which is in memory as a whole."""

_PAGE_BYTES = 64
"""No page of a TIFF is described in fewer."""

_WHITE_IS_ZERO = 0
_PHOTOMETRICS = (0, 1, 3, 4)  # MinIsWhite, MinIsBlack, Palette (whose indices are the values), Mask

_NOT_CALIBRATED = 20  # ImageJ's Calibration.NONE
_SIGNED_16 = (0, -32768.0, 1.0)


class Meaning(NamedTuple):
    """What the stored values of a page stand for."""

    dtype: np.dtype[Any]
    """Of the values that are meant."""
    white: int | None
    """What 0 stands for where the file counts down from white; None where it counts up from black."""
    is_signed: bool
    """Whether 32768 stands for 0, as ImageJ stores signed 16-bit integers."""


def meaning_of(file: Any, page: Any, *, path: Path) -> Meaning:
    """Return what a page says of its values.

    Raises:
        VolumeError: it is turned, coloured or calibrated in a way that is not read.
    """
    keyframe, stored = page.keyframe, np.dtype(page.dtype)
    orientation = keyframe.tags.valueof("Orientation", 1)
    if orientation != 1:
        raise VolumeError(
            f"{path}: is stored turned or mirrored (TIFF orientation {int(orientation)}), which is not read: save it "
            "with the first row at the top and the first column on the left (orientation 1)."
        )
    photometric = int(keyframe.photometric)
    if photometric not in _PHOTOMETRICS:
        name = getattr(keyframe.photometric, "name", photometric)
        raise VolumeError(
            f"{path}: has the photometric interpretation {name}, which is not grey: save it as grey values."
        )
    is_signed = _is_signed(file, stored, path=path)
    if photometric != _WHITE_IS_ZERO:
        return Meaning(np.dtype(np.int16) if is_signed else stored, None, is_signed)
    if stored.kind == "b":
        # tifffile calls all bits that it writes so, and reads them as they are.
        return Meaning(stored, None if keyframe.software == "tifffile.py" else 1, False)
    if file.is_imagej or stored.kind != "u":
        raise VolumeError(
            f"{path}: says that 0 is white (PhotometricInterpretation 0), and {stored} "
            f"{'of ImageJ ' if file.is_imagej else ''}may be meant inverted or not: save it with 0 as black (ImageJ: "
            "Image > Lookup Tables > Invert LUT, and Edit > Invert if the values change with it)."
        )
    return Meaning(stored, 2 ** int(keyframe.bitspersample) - 1, False)


def apply_meaning(block: npt.NDArray[Any], meaning: Meaning) -> npt.NDArray[Any]:
    """Return what the stored values of `block` stand for."""
    if meaning.is_signed:
        return (block.astype(np.int32) - 32768).astype(np.int16)
    if meaning.white is None:
        return block
    return ~block if block.dtype.kind == "b" else block.dtype.type(meaning.white) - block


def _is_signed(file: Any, stored: np.dtype[Any], *, path: Path) -> bool:
    """Whether ImageJ's calibration makes signed integers of unsigned ones."""
    said = file.imagej_metadata if file.is_imagej else None
    if not said or "cf" not in said or said["cf"] == _NOT_CALIBRATED:
        return False
    line = (said["cf"], said.get("c0", 0), said.get("c1", 1))
    if line == (0, 0, 1):
        return False
    if line == _SIGNED_16 and stored == np.uint16:
        return True
    raise VolumeError(
        f"{path}: has grey values that ImageJ calibrates (function {line[0]}, {line[1]} + {line[2]} v), which is not "
        "read: apply the calibration to the values and remove it (Analyze > Calibrate…, None), and save again."
    )


def ome_files(file: Any) -> list[str]:
    """Return the names of the files that an OME-TIFF says its sections are in; none where it is one file."""
    return sorted({name for item in _ome_items(file, "UUID") if (name := item.get("FileName"))})


def check_ome(file: Any, *, path: Path) -> None:
    """Refuse an OME-TIFF whose files are not there, or that declares more sections than they can hold.

    Raises:
        VolumeError: naming the file, or the number of sections.
    """
    if not file.is_ome:
        return
    size = path.stat().st_size
    for name in ome_files(file):
        source = path.parent / name
        if not source.resolve().is_relative_to(path.parent.resolve()):
            raise VolumeError(
                f"{path}: has sections in {name}, outside of its folder, which is not read: copy it there."
            )
        if not source.is_file():
            raise VolumeError(
                f"{path}: has sections in {name}, and there is no such file in {path.parent}: put all files there."
            )
        size += source.stat().st_size
    for pixels in _ome_items(file, "Pixels"):
        counts = [pixels.get(f"Size{axis}", "1") for axis in "ZCT"]
        declared = math.prod(int(count) if count.isdecimal() else 1 for count in counts)
        if declared > size // _PAGE_BYTES + 1:
            raise VolumeError(
                f"{path}: declares {declared} sections (OME: SizeZ, SizeC and SizeT {', '.join(counts)}), and its "
                f"{size} bytes cannot hold them, copy it again or correct its header."
            )


def _ome_items(file: Any, tag: str) -> list[Any]:
    if not file.is_ome:
        return []
    try:
        root = ElementTree.fromstring(file.ome_metadata or "")
    except ElementTree.ParseError:
        return []
    return [item for item in root.iter() if item.tag.rpartition("}")[2] == tag]


def refuse_missing_pages(series: Any, *, path: Path) -> None:
    """Refuse an OME-TIFF that declares sections which no file has.

    Raises:
        VolumeError: naming the first.
    """
    if series.kind != "ome" or series.dataoffset is not None:
        return
    for number, page in enumerate(series.pages):
        if page is None:
            raise VolumeError(
                f"{path}: declares {len(series.pages)} sections, and number {number} is in none of its files, copy it "
                "again."
            )


def refuse_huge_segments(keyframe: Any, *, path: Path) -> None:
    """Refuse strips and tiles that would take too much memory to decode.

    Raises:
        LimitError: naming their size.
    """
    if keyframe.is_tiled:
        pixels = keyframe.tilelength * keyframe.tilewidth * keyframe.tiledepth
    else:
        pixels = min(keyframe.rowsperstrip, keyframe.imagelength) * keyframe.imagewidth
    needed = pixels * keyframe.samplesperpixel * np.dtype(keyframe.dtype).itemsize
    if keyframe.compression != 1 and needed > MAX_SEGMENT_BYTES:
        raise LimitError(
            f"{path}: one compressed {'tile' if keyframe.is_tiled else 'strip'} takes {needed / 2**30:.1f} GiB to "
            f"decode, at most {MAX_SEGMENT_BYTES / 2**30:g} GiB is: write it uncompressed, or in tiles."
        )
