"""What is pushed: every file of it, made from a verified run in a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from connectomics_zoo.files.digests import file_sha256
from connectomics_zoo.push.card import card_text
from connectomics_zoo.push.entry import package_entry
from connectomics_zoo.push.folder import CARD_FILE, PICTURE_FILE
from connectomics_zoo.push.measured import Measured, Notify, measure_package
from connectomics_zoo.push.portable import refuse_leaks
from connectomics_zoo.push.provenance import provenance
from connectomics_zoo.push.trained import Trained, require_verified, write_trained
from connectomics_zoo.runs.folder import (
    CURVE_FILE,
    METRICS_FILE,
    PROVENANCE_FILE,
    SPEC_FILE,
    TUNED_FILE,
    WEIGHTS_FILE,
)
from connectomics_zoo.runs.portable import is_elsewhere, is_private_source, volumes_of
from connectomics_zoo.schema.model import WeightsEntry


@dataclass(frozen=True)
class Package:
    """Everything that is given away, in a folder of its own, but for the card."""

    trained: Trained
    """The run."""
    measured: Measured
    """What was measured of the files."""
    folder: Path
    """Where they lie."""
    entry: WeightsEntry
    """What a spec says of the weights."""
    names: tuple[str, ...]
    """The files."""

    def paths(self, *more: str) -> dict[str, Path]:
        """Return where each file lies, and each of `more`."""
        return {name: self.folder / name for name in (*self.names, *more)}

    def write_card(self, *, repo: str | None, revision: str | None) -> None:
        """Write the card into the folder; see `card_text`.

        Raises:
            SpecError: it would name a place of this machine.
        """
        assert self.entry.size is not None
        text = card_text(
            self.trained,
            self.measured,
            repo=repo,
            revision=revision,
            size=self.entry.size,
            has_curve=CURVE_FILE in self.names,
        )
        (self.folder / CARD_FILE).write_text(text, encoding="utf-8")
        refuse_leaks_of(self.trained, self.folder, (CARD_FILE,))


def make_package(trained: Trained, folder: Path, *, pictures: bool, notify: Notify) -> Package:
    """Verify the run, write everything but the card into `folder`, and measure it.

    Args:
        trained: the run.
        folder: an empty folder.
        pictures: add pictures, which show the data.
        notify: is told what is measured, and what could not be.

    Raises:
        ZooError: it is no run that may be given away.
    """
    require_verified(trained.folder)
    write_trained(trained, folder)
    measured = measure_package(folder, trained.run, pictures=pictures, notify=notify)
    weights = folder / WEIGHTS_FILE
    digest, size = file_sha256(weights), weights.stat().st_size
    origin = provenance(trained, sha256=digest, size=size)
    (folder / PROVENANCE_FILE).write_text(json.dumps(origin, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    tuned = [] if trained.tuned is None else [TUNED_FILE]
    names = [WEIGHTS_FILE, SPEC_FILE, METRICS_FILE, *tuned, PROVENANCE_FILE]
    if measured.has_picture:
        names.append(PICTURE_FILE)
    if pictures and (trained.folder / CURVE_FILE).is_file():
        shutil.copyfile(trained.folder / CURVE_FILE, folder / CURVE_FILE)
        names.append(CURVE_FILE)
    refuse_leaks_of(trained, folder, [name for name in names if name != WEIGHTS_FILE])
    objects = {name: score for name, score in measured.scores.items() if name not in trained.metrics}
    entry = package_entry(trained, sha256=digest, size=size, probe=measured.probe, scores=objects)
    return Package(trained, measured, folder, entry, tuple(names))


def refuse_leaks_of(trained: Trained, folder: Path, names: Iterable[str]) -> None:
    """Refuse to give away files of `folder` in which a place of this machine is named that the run knows of.

    Raises:
        SpecError: a file names one.
    """
    data, source = trained.run.data, trained.run.init_from
    places = [
        Path.home(),
        Path.cwd(),
        folder,
        trained.folder.resolve(),
        *map(Path, filter(is_elsewhere, volumes_of(data))),
    ]
    if source is not None and is_private_source(source):
        places.append(Path(source))
    if trained.tuned is not None:
        places += map(Path, filter(is_elsewhere, (trained.tuned.prediction, trained.tuned.truth)))
    if data.folder is not None:
        places.append(data.folder.resolve())
    refuse_leaks({name: (folder / name).read_bytes() for name in names}, [*places, *(item.parent for item in places)])
