"""`suggest`: which boxes of a volume to annotate next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import OutputError, SpecError
from connectomics_zoo.network.device import AskedPrecision
from connectomics_zoo.predict import PredictReport, predict
from connectomics_zoo.schema.experiment import RunSpec, Views
from connectomics_zoo.schema.notebook import notebook_bar
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.suggest.annotated import boxes_of_run, without_annotated
from connectomics_zoo.suggest.candidates import Candidates, make_candidates, mean_measures
from connectomics_zoo.suggest.choose import choose
from connectomics_zoo.suggest.files import write_files
from connectomics_zoo.suggest.measures import ANNOTATED, SCORE, looks_of, measure_of
from connectomics_zoo.suggest.report import By, Suggestion, SuggestReport
from connectomics_zoo.volumes import Volume, VoxelSize, check_mask, open_volume
from connectomics_zoo.volumes.box import AnyRegion, region_box
from connectomics_zoo.weights.pretrained import Frozen, find_run

PREDICTION, SPREAD = "prediction.zarr", "spread.zarr"
"""What was predicted, in the folder of the output."""

Size = Sequence[int] | Literal["section"] | None

_log = logging.getLogger(__name__)


def suggest(
    run: str | Path | Sequence[str | Path],
    volume: str | Path,
    out: str | Path | None = None,
    *,
    number: int = 10,
    size: Size = None,
    by: By = "spread",
    diversity: float = 0.5,
    region: AnyRegion = None,
    exclude: str | Path | None = None,
    views: Views | None = None,
    intensity_range: tuple[float, float] | None = None,
    voxel_size_nm: VoxelSize | None = None,
    device: str = "auto",
    precision: AskedPrecision = "auto",
    batch_size: int = 1,
    overwrite: bool = False,
    frozen: Frozen = False,
    progress: Callable[[Progress], None] | None = None,
) -> SuggestReport:
    """Predict `volume`, and return the boxes of it whose labels would teach the network most.

    A box is scored by the mean over its voxels of the spread of networks and views, or of the doubt: how near values
    are to the threshold. The choice is greedy, by score and by the distance to what is chosen already (see
    `suggest.choose`). What a run was trained or validated on is left out, where that is this volume.

    Args:
        run: a run folder, trained weights, or a list of these, an ensemble (see `predict`).
        volume: the image.
        out: a folder for the boxes: `suggested.csv`, `neuroglancer.json`, `napari.csv` and `regions.yaml`, and for
            what is predicted, `prediction.zarr` and `spread.zarr`; these are used again where they are what this call
            would make. Without one, they are made in a temporary folder.
        number: how many boxes.
        size: their edges (z, y, x) in voxels of the volume, or `section` for whole sections; by default as large as the
            run's training patches. What is longer than the volume is cut to it.
        by: `spread`, or `doubt`, for which one view of one network is enough.
        diversity: what novelty counts against the score: 0 takes the highest scores, 1 the most unlike boxes.
        region: choose in this part alone (`z=13:16,y=0:512`).
        exclude: a volume of the same shape that is not 0 where something is annotated already.
        views: as of `predict`; by default those of the run, and where that is one view of one network, its flips.
        intensity_range: as of `predict`.
        voxel_size_nm: as of `predict`.
        device: as of `predict`.
        precision: as of `predict`.
        batch_size: as of `predict`.
        overwrite: predict anew where another prediction is in `out`.
        frozen: as of `predict`.
        progress: is told how many voxels are done.

    Raises:
        SpecError: an option is not possible, or all is annotated already.
        VolumeError: a volume cannot be read, or does not fit its use.
        OutputError: `out` cannot be written.
        ZooError: see `predict`.
    """
    progress = progress or notebook_bar("suggest")
    _check(number=number, by=by, diversity=diversity)
    runs = [run] if isinstance(run, str | Path) else list(run)
    if not runs:
        raise SpecError("the list of references is empty, give one or more: a run folder, or the name of weights.")
    spec, _ = find_run(runs[0], frozen=frozen)
    if views is None and by == "spread" and len(runs) == 1 and spec.prediction.views == "one":
        views = "flips"
    with ExitStack() as stack:
        source = stack.enter_context(open_volume(volume, voxel_size_nm=voxel_size_nm))
        mask = None if exclude is None else stack.enter_context(open_volume(exclude))
        if mask is not None:
            check_mask(source, mask)
        part = region_box(region, shape=source.shape, location=source.location)
        candidates = make_candidates(part, _edges(size, spec, source))
        members = [find_run(one, frozen=frozen)[0] for one in runs]
        allowed = without_annotated(candidates, [box for one in members for box in boxes_of_run(one, source)])
        _refuse_none(allowed, candidates)
        folder = Path(stack.enter_context(TemporaryDirectory())) if out is None else _folder(out)
        report = predict(
            runs,
            volume,
            folder / PREDICTION,
            spread=folder / SPREAD if by == "spread" else None,
            views=views,
            intensity_range=intensity_range,
            voxel_size_nm=voxel_size_nm,
            device=device,
            precision=precision,
            batch_size=batch_size,
            region=region,
            # As the only share of one, it takes what is finished for what it would make.
            shard=None if overwrite else "0/1",
            overwrite=overwrite,
            frozen=frozen,
            progress=progress,
        )
        made = stack.enter_context(open_volume(folder / PREDICTION))
        spread = stack.enter_context(open_volume(folder / SPREAD)) if by == "spread" else None
        measure = measure_of(source, made, spread, mask, task=spec.task, first=part.start)
        means = mean_measures(candidates, measure, advance=_advance(progress))
        allowed &= means[:, ANNOTATED] == 0
        _refuse_none(allowed, candidates)
        chosen = choose(
            candidates,
            number=number,
            scores=means[:, SCORE],
            features=looks_of(means),
            allowed=allowed,
            diversity=diversity,
            edges_nm=made.voxel_size_nm or (1.0, 1.0, 1.0),
        )
        if len(chosen) < number:
            _log.warning("no more than %d boxes of that size have room beside each other", len(chosen))
        result = _report(
            report, source, candidates, chosen, means[:, SCORE], allowed, by=by, out=out, size_nm=made.voxel_size_nm
        )
        if out is not None:
            write_files(folder, result, voxel_size_nm=made.voxel_size_nm, offset_nm=source.offset_nm)
    return result


def _check(*, number: int, by: By, diversity: float) -> None:
    if number < 1:
        raise SpecError(f"{number} boxes are not possible, give 1 or more.")
    if by not in get_args(By):
        raise SpecError(f"by {by!r} is not known, give spread or doubt.")
    if not 0 <= diversity <= 1:
        raise SpecError(f"diversity {diversity:g} is not possible, give a number from 0 to 1.")


def _edges(size: Size, spec: RunSpec, source: Volume) -> tuple[int, int, int]:
    """Return the edges of a box in voxels of the volume."""
    if size == "section":
        return (1, *source.shape[1:])
    if size is not None:
        if isinstance(size, str) or len(size) != 3 or min(size) < 1:
            raise SpecError(f"size {size!r} is not understood, give three whole numbers (z, y, x) from 1, or section.")
        z, y, x = size
        return z, y, x
    here, network = source.voxel_size_nm, spec.data.network_voxel_nm
    factors: Sequence[float] = spec.data.downsample
    if here is not None and network is not None:
        factors = [edge / own for edge, own in zip(network, here, strict=True)]
    if spec.model.input.axes == "yx":
        factors = [1, *factors[1:]]  # a section, however thick
    patch = (1, *spec.model.input.given(spec.training.patch_size))[-3:]
    z, y, x = (max(1, round(edge * factor)) for edge, factor in zip(patch, factors, strict=True))
    return z, y, x


def _folder(out: str | Path) -> Path:
    folder = Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file, and a folder is written: choose another name.")
    if not folder.parent.is_dir():
        raise OutputError(f"{folder}: there is no folder {folder.parent}, create it first.")
    folder.mkdir(exist_ok=True)
    return folder


def _refuse_none(allowed: NDArray[np.bool_], candidates: Candidates) -> None:
    if not allowed.any():
        size = " x ".join(map(str, candidates.size))
        raise SpecError(
            f"every box of {size} voxels has something in it that is annotated already: give a smaller size, another "
            "region, or another volume."
        )


def _advance(progress: Callable[[Progress], None] | None) -> Callable[[int, int], None]:
    if progress is None:
        return lambda done, total: None
    return lambda done, total: progress(Progress(done, total, unit="voxels", label="score"))


def _report(
    report: PredictReport,
    source: Volume,
    candidates: Candidates,
    chosen: list[int],
    scores: NDArray[np.float64],
    allowed: NDArray[np.bool_],
    *,
    by: By,
    out: str | Path | None,
    size_nm: tuple[float, float, float] | None,
) -> SuggestReport:
    suggestions = []
    for rank, number in enumerate(chosen, 1):
        z, y, x = candidates.box(number).ranges
        centre = None
        if size_nm is not None:
            offset = source.offset_nm or (0.0, 0.0, 0.0)
            middles = (
                (sum(limits) / 2 * edge + more) for limits, edge, more in zip((z, y, x), size_nm, offset, strict=True)
            )
            cz, cy, cx = (round(middle, 3) for middle in middles)
            centre = (cz, cy, cx)
        suggestions.append(Suggestion(rank, z, y, x, centre, round(float(scores[number]), 6)))
    return SuggestReport(
        run=report.run,
        members=report.members,
        volume=source.location,
        views=report.views,
        by=by,
        size=candidates.size,
        suggestions=tuple(suggestions),
        candidates=int(allowed.sum()),
        annotated=int((~allowed).sum()),
        mean_score=round(float(scores[allowed].mean()), 6),
        out=None if out is None else str(out),
    )
