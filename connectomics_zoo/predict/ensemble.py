"""Several networks that predict as one: the mean of what they give, and how far they, or the views of one, are apart.

The mean is taken after the activation. The spread is the standard deviation over all that is merged; by the law of
total variance, its square is the mean of the members' variances over their views plus the variance of the members.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from connectomics_zoo.errors import SpecError
from connectomics_zoo.network.device import AskedPrecision, Precision, prediction_precision
from connectomics_zoo.predict.checks import prediction_spec, with_intensity_range
from connectomics_zoo.predict.request import Request
from connectomics_zoo.schema.experiment import DataSpec, PredictionSpec, RunSpec
from connectomics_zoo.tasks.meaning import channels_difference
from connectomics_zoo.volumes.location import split_place
from connectomics_zoo.volumes.voxel_size import is_near_trained, lengths
from connectomics_zoo.weights.pretrained import Pretrained, find_run


class Member(NamedTuple):
    """A network, and how it was trained."""

    spec: RunSpec
    trained: Pretrained


def find_members(request: Request) -> tuple[list[Member], PredictionSpec]:
    """Return the networks that a request names, and how all of them predict.

    Raises:
        SpecError: they do not predict the same channels, or not in the same way.
        ZooError: see `find_run` and `prediction_spec`.
    """
    members, chosen = list[Member](), list[PredictionSpec]()
    for reference in (request.run, *request.others):
        spec, trained = find_run(reference, frozen=request.frozen)
        member = Member(with_intensity_range(spec, request.intensity_range), trained)
        way = prediction_spec(
            spec, window=request.window, overlap=request.overlap, views=request.views, merge=request.merge
        )
        if members:
            _refuse_unlike(members[0], member, ways=(chosen[0], way))
        members.append(member)
        chosen.append(way)
    if request.spread is not None and len(members) == 1 and chosen[0].views == "one":
        raise SpecError(
            "a spread is that of several views or several networks, and here is one of each: give views flips, or "
            "another network."
        )
    return members, chosen[0]


def _refuse_unlike(first: Member, other: Member, *, ways: tuple[PredictionSpec, PredictionSpec]) -> None:
    """Refuse members whose values cannot be averaged voxel by voxel."""
    names = f"{first.trained.name} and {other.trained.name}"
    difference = channels_difference(first.spec.task, other.spec.task)
    if difference is not None:
        raise SpecError(f"{names} do not predict the same ({difference}): give networks of one task.")
    here, there = first.spec, other.spec
    if here.model.input.channels != there.model.input.channels:
        raise SpecError(
            f"{names} take images of {here.model.input.channels} and of {there.model.input.channels} channels: give "
            "networks of the same images."
        )
    if here.model.input.axes != there.model.input.axes:
        raise SpecError(
            f"{names} look at {here.model.input.axes} and at {there.model.input.axes}: predict with each by itself."
        )
    if here.model.input.margins != there.model.input.margins:
        raise SpecError(
            f"{names} see {list(here.model.input.margins)} and {list(there.model.input.margins)} voxels of context "
            "around what they say something of: predict with each by itself."
        )
    if not _see_the_same(here.data, there.data):
        sizes = " and ".join(map(_voxels, (here.data, there.data)))
        raise SpecError(f"{names} see voxels of other sizes ({sizes}): predict with each by itself.")
    if here.data.intensity_range != there.data.intensity_range:
        raise SpecError(
            f"{names} were trained with the intensity ranges {_shown(here.data.intensity_range)} and "
            f"{_shown(there.data.intensity_range)}: give --intensity-range LOW,HIGH for both."
        )
    for field in ("window", "overlap", "views", "merge"):
        one, two = (getattr(way, field) for way in ways)
        if one != two:
            raise SpecError(
                f"{names} predict with {field} {_shown(one)} and {_shown(two)}: give --{field}, which holds for both."
            )


def _see_the_same(here: DataSpec, there: DataSpec) -> bool:
    """Whether the voxels that two networks see are about as large; where a size is unknown, so are the factors."""
    one, other = here.network_voxel_nm, there.network_voxel_nm
    if one is None or other is None:
        return one is other and here.downsample == there.downsample
    return is_near_trained(other, one)


def _voxels(data: DataSpec) -> str:
    size = data.network_voxel_nm
    return f"{list(data.downsample)} of a volume's" if size is None else f"{lengths(size)} nm"


def check_spread(request: Request) -> None:
    """Refuse a spread that cannot be beside what is asked for.

    Raises:
        SpecError: labels are asked for, or both outputs at one place.
    """
    if request.spread is None:
        return
    if request.output == "label":
        raise SpecError("a spread is that of probabilities, and labels are asked for: leave out --output label.")
    if split_place(request.spread)[0] == split_place(request.out)[0]:
        raise SpecError(f"{request.spread}: is where the prediction goes, give the spread a file or store of its own.")


def common_precision(members: Sequence[Member], asked: AskedPrecision, *, device: torch.device) -> Precision:
    """Return the precision of all members.

    Raises:
        SpecError: they have their own, which differ, or the device does not compute in the one asked for.
    """
    found = [prediction_precision(asked, run=member.spec, device=device) for member in members]
    for member, precision in zip(members, found, strict=True):
        if precision != found[0]:
            raise SpecError(
                f"{members[0].trained.name} and {member.trained.name} compute in {found[0]} and {precision} on "
                f"{device}: give --precision, which holds for both."
            )
    return found[0]


def _shown(value: object) -> str:
    if value is None:
        return "of the volume's type"
    return ",".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)


def mean_of(forwards: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """Return the function from windows to the mean of what all give; of one, itself."""
    return forwards[0] if len(forwards) == 1 else lambda windows: _mean([forward(windows) for forward in forwards])


def mean_and_spread_of(forwards: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """Return the function from windows to the mean of what all give, and its spread: (B, 2K, Z, Y, X) together.

    Args:
        forwards: of each member, from windows to its values and their variance over its views, (B, 2K, Z, Y, X).
    """

    def mean_and_spread(windows: Tensor) -> Tensor:
        values, variances = zip(*(forward(windows).chunk(2, dim=1) for forward in forwards), strict=True)
        mean = _mean(values)
        variance = _mean(variances) + _mean([(value - mean) ** 2 for value in values])
        return torch.cat([mean, variance.sqrt()], dim=1)

    return mean_and_spread


def _mean(values: Sequence[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total / len(values)
