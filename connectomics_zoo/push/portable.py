"""Takes out of a run what belongs to the machine that it was trained on, and finds what was forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from connectomics_zoo.errors import SpecError
from connectomics_zoo.runs.portable import is_elsewhere, is_private_source, volumes_of
from connectomics_zoo.schema.experiment import REQUIRED, DataSpec, RunSpec, VolumePair
from connectomics_zoo.schema.tuned import TunedDecoding
from connectomics_zoo.volumes.location import split_place
from connectomics_zoo.volumes.uri import Place


def portable_run(run: RunSpec) -> RunSpec:
    """Return `run` as it may be read anywhere: `data.root` is left to the reader, and volumes have relative places.

    Of a place outside of `data.root` the last part remains, and of that of the weights that the run started from;
    volumes of the same name get numbers as folders.
    """
    names = _portable_names(run.data)

    def portable(pair: VolumePair) -> VolumePair:
        mask = None if pair.mask is None else names[pair.mask]
        label = (
            names[pair.label]
            if isinstance(pair.label, str)
            else {name: names[place] for name, place in pair.label.items()}
        )
        return pair.model_copy(update={"image": names[pair.image], "label": label, "mask": mask})

    data = run.data.model_copy(
        update={
            "root": REQUIRED,
            "train": tuple(portable(pair) for pair in run.data.train),
            "validation": tuple(portable(pair) for pair in run.data.validation),
        }
    )
    source = run.init_from
    if source is not None and is_private_source(source):
        source = _last_part(source) or None
    return run.model_copy(update={"data": data, "init_from": source})


def portable_tuned(tuned: TunedDecoding) -> TunedDecoding:
    """Return `tuned` as it may be read anywhere: of the places of prediction and truth, the last part remains."""

    def portable(place: str) -> str:
        path, dataset = split_place(place)
        return (_last_part(str(path)) or "volume") + (f":{dataset}" if dataset else "")

    return tuned.model_copy(update={"prediction": portable(tuned.prediction), "truth": portable(tuned.truth)})


def _portable_names(data: DataSpec) -> dict[str, str]:
    """Return the place that each volume of `data` gets."""
    places = volumes_of(data)
    names = {place: place for place in places if not is_elsewhere(place)}
    taken = {str(split_place(place)[0]) for place in names}
    files: dict[Place, str] = {}
    for place in places:
        if place in names:
            continue
        path, dataset = split_place(place)
        if path not in files:
            name = _last_part(str(path)) or "volume"
            number = 2
            files[path] = name
            while files[path] in taken:
                files[path] = f"{number}/{name}"
                number += 1
            taken.add(files[path])
        names[place] = files[path] + (f":{dataset}" if dataset else "")
    return names


def _last_part(path: str) -> str:
    """Return the name at the end of a path in the spelling of any system, empty where there is none."""
    last = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return last if last.strip(".~") else ""


def refuse_leaks(files: Mapping[str, bytes], places: Iterable[str | Path | None]) -> None:
    """Refuse to give away files in which a place of this machine is named.

    Args:
        files: content by name.
        places: folders of this machine; None, the root and relative ones are left out.

    Raises:
        SpecError: a file names one of the places, or something in it.
    """
    for place in {str(place).rstrip("/\\") for place in places if place is not None and Path(place).is_absolute()}:
        if not place:
            continue
        pattern = re.compile(rb"(?<![\w.~/\\-])" + re.escape(place.encode()) + rb"(?=[/\\]|[\s'\":,;)\]}]|$)")
        for name, content in files.items():
            if pattern.search(content):
                raise SpecError(
                    f"{name} would tell the place {place!r} of this machine, nothing was given away: take it out of "
                    "the run's spec (data.attribution, data.license, names) or decode.yaml."
                )
