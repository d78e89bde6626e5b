"""A prediction that was checked: what is predicted of which part, how it is computed and how it is written."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from connectomics_zoo.blocks.job import Cut, JobDescription
from connectomics_zoo.blocks.output import BlockOutput
from connectomics_zoo.errors import VolumeError, ZooError
from connectomics_zoo.network.device import Precision, choose_device
from connectomics_zoo.predict.checks import check_request, check_turns, check_volume, context_of
from connectomics_zoo.predict.ensemble import (
    Member,
    check_spread,
    common_precision,
    find_members,
    mean_and_spread_of,
    mean_of,
)
from connectomics_zoo.predict.network import make_forward
from connectomics_zoo.predict.plan import Geometry, cut, make_geometry
from connectomics_zoo.predict.request import Request, absolute
from connectomics_zoo.predict.slide import Forward
from connectomics_zoo.predict.stored import make_provenance, make_stored
from connectomics_zoo.predict.views import View, plan_views
from connectomics_zoo.predict.voxels import choose_ratios, say_resampled
from connectomics_zoo.schema.experiment import PredictionSpec, RunSpec
from connectomics_zoo.tasks.voxelwise import decode_voxels, decoded_channels
from connectomics_zoo.volumes import StoredPrediction, Volume, VoxelSize, check_mask, open_volume
from connectomics_zoo.volumes.box import region_box
from connectomics_zoo.volumes.intensity import scale_intensity
from connectomics_zoo.volumes.location import split_place
from connectomics_zoo.volumes.placement import offset_of_part, placement_of
from connectomics_zoo.volumes.prediction import this_program
from connectomics_zoo.volumes.values import store_values
from connectomics_zoo.volumes.voxel_size import lengths
from connectomics_zoo.volumes.writing import check_volume_place, refuse_own_input
from connectomics_zoo.weights.pretrained import Pretrained, digested

STAGE = "predict"

_log = logging.getLogger(__name__)


@dataclass
class Prediction:
    """What is predicted, with the opened volumes; the network is made when it is needed."""

    request: Request
    members: list[Member]
    chosen: PredictionSpec
    geometry: Geometry
    device: torch.device
    precision: Precision
    views: tuple[View, ...]
    source: Volume
    mask: Volume | None
    _forward: Forward | None = None

    @property
    def trained(self) -> Pretrained:
        """The weights; of an ensemble, those of its first member."""
        return self.members[0].trained

    @property
    def spec(self) -> RunSpec:
        """How they were trained; what the prediction follows from, all members have in common."""
        return self.members[0].spec

    @property
    def window(self) -> tuple[int, ...]:
        """The window, in network voxels."""
        assert self.chosen.window is not None
        return self.chosen.window

    @property
    def channels_in(self) -> int:
        """Channels of the image."""
        return self.spec.model.input.channels

    @property
    def channels_out(self) -> int:
        """Channels that `forward` gives: those of the task, and after them those of the spread, if it is asked for."""
        return len(self.spec.task.channels) * (1 if self.request.spread is None else 2)

    @property
    def channels(self) -> int | None:
        """Channels of the output, None for one without an axis."""
        count = decoded_channels(self.spec.task) if self.request.output == "label" else len(self.spec.task.channels)
        return None if count == 1 else count

    @property
    def voxel_size_nm(self) -> VoxelSize | None:
        """That of the output."""
        return self.source.voxel_size_nm or self.spec.data.voxel_size_nm

    def forward(self) -> Forward:
        """Return the function from windows to values; the weights' files are read for it once."""
        if self._forward is None:
            forwards = []
            for number, (spec, found) in enumerate(self.members):
                with digested(found) as trained:
                    self.members[number] = Member(spec, trained)
                    forward = make_forward(
                        trained,
                        spec,
                        window=self.window,
                        views=self.views,
                        merge=self.chosen.merge,
                        engine=self.request.engine,
                        device=self.device,
                        precision=self.precision,
                        beside="nothing" if self.request.spread is None else "variance",
                    )
                forwards.append(forward)
            self._forward = mean_of(forwards) if self.request.spread is None else mean_and_spread_of(forwards)
        return self._forward

    def stored(self) -> StoredPrediction:
        """Return what the output says of itself."""
        made = make_provenance(self.members, chosen=self.chosen, precision=self.precision, output=self.request.output)
        made = made.model_copy(update={"job": _digest(self._identity())})
        placement = placement_of(self.geometry.box, whole_shape=self.source.shape)
        return make_stored(
            self.spec, output=self.request.output, dtype=self.request.dtype, placement=placement, provenance=made
        )

    def scaled(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Return grey values of the volume as 0..1."""
        try:
            return scale_intensity(array, dtype=self.source.dtype, intensity_range=self.spec.data.intensity_range)
        except VolumeError as error:
            raise VolumeError(f"{self.source.location}: {error}") from None

    def to_store(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Return channel values (C, Z, Y, X) as they are written."""
        if self.request.output == "label":
            return decode_voxels(values, task=self.spec.task)
        return store_values(values, task=self.spec.task, dtype=np.dtype(self.request.dtype))

    def cut(self, *, workers: int) -> Cut:
        """Return how the output is cut, for so many who work on blocks at the same time."""
        edges = cut(
            self.geometry,
            channels_in=self.channels_in,
            channels_out=self.channels_out,
            value_bytes=np.dtype(self.request.dtype).itemsize,
            workers=workers,
        )
        box = self.geometry.box
        return Cut(start=box.start, stop=box.stop, block=edges.block, shards=edges.shards, chunks=edges.chunks)

    def output(self, cutting: Cut, *, overwrite: bool, location: str | None = None) -> BlockOutput:
        """Return where the blocks are written: those of the prediction, or of its spread at that `location`.

        Raises:
            OutputError: the output is not possible there.
        """
        place = check_volume_place(
            self.request.out if location is None else location,
            shape=self.geometry.box.shape,
            dtype=np.dtype(self.request.dtype),
            channels=self.channels,
            voxel_size_nm=self.voxel_size_nm,
            multiscale=self.request.multiscale,
            overwrite=overwrite,
        )
        return BlockOutput(
            place,
            cut=cutting,
            channels=self.channels,
            dtype=self.request.dtype,
            voxel_size_nm=self.voxel_size_nm,
            offset=offset_of_part(
                self.geometry.box.start,
                voxel_size_nm=self.voxel_size_nm,
                whole_offset_nm=self.source.offset_nm,
            ),
            multiscale=self.request.multiscale,
            overwrite=overwrite,
        )

    def is_finished(self) -> bool:
        """Whether the output is there already, as this would make it."""
        layouts = self.output(self.cut(workers=1), overwrite=True).levels(self.stored()).layouts
        try:
            for number, layout in enumerate(layouts if self.request.multiscale else ()):
                with open_volume(f"{self.request.out}#{number}") as level:
                    if level.shape != layout.shape[-3:]:
                        return False
            with open_volume(self.request.out) as found:
                return (found.shape, found.stored()) == (self.geometry.box.shape, self.stored())
        except ZooError:
            return False

    def describe(self, cutting: Cut) -> JobDescription:
        """Return what the job is."""
        return JobDescription(
            schema_version=1,
            verb="predict",
            program=this_program(),
            identity=self._identity(),
            # Not "auto", which may mean another one where a worker is.
            request={**self.request.portable(), "precision": self.precision},
            cut=cutting,
            stages=(STAGE,),
        )

    def _identity(self) -> dict[str, Any]:
        request, spec = self.request, self.spec
        # Through JSON, as what it is compared with has gone.
        document: dict[str, Any] = json.loads(
            json.dumps(
                {
                    "weights": self.trained.sha256(),
                    **self._more_identity(),
                    "volume": absolute(self.source.location),
                    "volume's shape": self.source.shape,
                    "volume's data type": str(self.source.dtype),
                    "volume's last change": _last_change(self.source.location),
                    "region": str(self.geometry.box),
                    "mask": None if self.mask is None else absolute(self.mask.location),
                    "intensity range": spec.data.intensity_range,
                    "downsample": [one if isinstance(one, int) else str(one) for one in self.geometry.factors],
                    "task": f"{spec.task.name} ({_digest(spec.task.identity())})",
                    **self.chosen.model_dump(mode="json"),
                    "engine": request.engine,
                    "precision": self.precision,
                    "output": request.output,
                    "dtype": request.dtype,
                    **({} if request.voxel_size_nm is None else {"voxel size": request.voxel_size_nm}),
                }
            )
        )
        return document

    def _more_identity(self) -> dict[str, Any]:
        """Return what an ensemble or a spread adds; a prediction without them has the identity that it always had."""
        others = [member.trained.sha256() for member in self.members[1:]]
        has_spread = self.request.spread is not None
        return ({"weights of others": others} if others else {}) | ({"spread": True} if has_spread else {})


@contextmanager
def prepared(request: Request, *, quiet: bool = False, elsewhere: bool = False) -> Iterator[Prediction]:
    """Check what is asked for, and yield it with its volumes open.

    Args:
        request: what is asked for.
        quiet: whether it was checked and warned of before.
        elsewhere: whether other machines compute, whose devices are not known here; these check the precision.

    Raises:
        ZooError: see `predict`.
    """
    members, chosen = find_members(request)
    spec = members[0].spec
    check_request(
        spec,
        batch_size=request.batch_size,
        output=request.output,
        dtype=request.dtype,
        engine=request.engine,
        precision=request.precision,
    )
    check_spread(request)
    seen = plan_views(chosen.views, task=spec.task, axes=spec.model.input.axes)
    source = open_volume(request.volume, voxel_size_nm=request.voxel_size_nm)
    mask = None if request.mask is None else open_volume(request.mask)
    try:
        if not quiet:
            for member in members:
                check_volume(source, member.spec)
        ratios = choose_ratios(source, spec)
        context = context_of(spec.model)
        check_turns(
            chosen, voxel_size_nm=source.voxel_size_nm or spec.data.voxel_size_nm, ratios=ratios, context=context
        )
        if mask is not None:
            check_mask(source, mask)
        for place in (source, mask):
            if place is not None:
                for made in (request.out, request.spread):
                    if made is not None:
                        refuse_own_input(place.location, made)
        device = choose_device(request.device, engine=request.engine)
        assert chosen.window is not None
        # A 2-D network looks at one section at a time.
        z, y, x = (1, *chosen.window)[-3:]
        geometry = make_geometry(
            shape=source.shape,
            factors=ratios,
            window=(z, y, x),
            overlap=chosen.overlap,
            box=region_box(request.region, shape=source.shape, location=source.location),
            context=context,
        )
        if not quiet and source.voxel_size_nm is None and spec.data.voxel_size_nm is not None:
            _log.warning(
                "%s does not say its voxel size, took the run's, %s nm",
                source.location,
                lengths(spec.data.voxel_size_nm),
            )
        if not quiet:
            say_resampled(source, spec, ratios)
        if elsewhere and request.precision != "auto":
            precision: Precision = request.precision
        else:
            precision = common_precision(members, request.precision, device=device)
        yield Prediction(request, members, chosen, geometry, device, precision, seen, source, mask)
    finally:
        for opened in (source, mask):
            if opened is not None:
                opened.close()


def _last_change(location: str) -> str | None:
    """Return when a local file was changed last, and its size; of a store, of its file of metadata."""
    place, dataset = split_place(location)
    if not isinstance(place, Path):
        return None
    folder = place if dataset is None else place / dataset
    names = ("zarr.json", ".zarray", "attributes.json", "info")
    files = [place] if place.is_file() else [folder / name for name in names if (folder / name).is_file()]
    if not files:
        return None
    found = files[0].stat()
    return f"{datetime.fromtimestamp(found.st_mtime, timezone.utc).isoformat()}, {found.st_size} bytes"


def _digest(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
