"""Volumes that are added to those of a run: `image=vol.h5:raw,label=vol.h5:mito,z=0:4`, or a YAML file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from connectomics_zoo.errors import SpecError
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.schema.experiment import REQUIRED, VolumePair
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.overrides import parse_overrides
from connectomics_zoo.volumes.box import parse_region
from connectomics_zoo.volumes.location import split_place

_AXES = ("z", "y", "x")


def with_added(document: Mapping[str, Any], volumes: Sequence[str], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return an experiment's document with more volumes to train on.

    Args:
        document: the experiment.
        volumes: each a YAML file, or `image=…,label=…` with what else a volume may have; relative to this folder, or
            where there is nothing, to the folder of the experiment's volumes.
        overrides: what is merged in later, and may name that folder.

    Raises:
        SpecError: a text is no volume.
    """
    data = dict(document.get("data", {}))
    given = overrides.get("data")
    root = (given if isinstance(given, Mapping) else {}).get("root", data.get("root"))
    train = data.get("train", [])
    pairs = [train] if isinstance(train, Mapping) else list(train)
    for text in volumes:
        for pair in _parse(text):
            checked = validate(VolumePair, pair, source=f"--add {text}").model_dump(mode="json", exclude_unset=True)
            pairs.append(_from_here(checked) if isinstance(root, str) and root != REQUIRED else checked)
    return {**document, "data": {**data, "train": pairs}}


def _parse(text: str) -> Iterator[dict[str, Any]]:
    if Path(text).suffix in (".yaml", ".yml"):
        document = read_yaml(Path(text))
        listed = document.get("train")
        yield from listed if isinstance(listed, list) else [document if listed is None else listed]
        return
    if "=" not in text:
        raise SpecError(
            f"--add {text}: is no volume with labels, write image={text},label=FILE:DATASET, or give a YAML file with "
            "both."
        )
    yield parse_volume(text)


def parse_volume(text: str) -> dict[str, Any]:
    """Return the fields of `image=v.h5:raw,label=v.h5:mito,z=13:16`; of several label volumes, `label.NAME=…`.

    A part may be said as `region=z=13:16,y=0:512` as well.

    Raises:
        SpecError: it is not of that form.
    """
    plain = re.sub(r"(^|,)\s*region\s*=\s*(?=[zyx]\s*=)", r"\1", text)
    pieces = re.split(r",(?=\s*[A-Za-z]+(?:\.[A-Za-z0-9_-]+)?\s*=)", plain)
    names = [piece.partition("=")[0].strip() for piece in pieces]
    known = {*VolumePair.model_fields, *_AXES}
    are_known = all("=" in piece and name.partition(".")[0] in known for piece, name in zip(pieces, names, strict=True))
    if not are_known or len(set(names)) < len(names):
        raise SpecError(
            f"{text!r} is no volume, write image=FILE:DATASET,label=FILE:DATASET, and perhaps mask=… and z=0:13 behind "
            "them."
        )
    pair = parse_overrides([piece.strip() for piece, name in zip(pieces, names, strict=True) if name not in _AXES])
    limits = [piece for piece, name in zip(pieces, names, strict=True) if name in _AXES]
    if limits:
        pair["region"] = parse_region(",".join(limits)).model_dump(mode="json", exclude_none=True)
    return pair


def _from_here(pair: dict[str, Any]) -> dict[str, Any]:
    """Return the pair with whole paths where they lead somewhere from this folder."""
    changes = {name: _place_from_here(pair[name]) for name in ("image", "label", "mask") if pair.get(name)}
    return {**pair, **changes}


def _place_from_here(place: Any) -> Any:
    """Return a place, or places by name, such that they lead somewhere from any folder."""
    if isinstance(place, Mapping):
        return {name: _place_from_here(text) for name, text in place.items()}
    path = split_place(place)[0]
    is_here = isinstance(path, Path) and not path.is_absolute() and path.exists()
    return f"{Path.cwd()}/{place}" if is_here else place
