"""How a volume's voxels become those that the network of a run sees, whatever their size."""

from __future__ import annotations

import logging

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.volumes import Volume, VoxelSize
from connectomics_zoo.volumes.ratios import Ratios, ratios_between
from connectomics_zoo.volumes.voxel_size import FAR_FROM_TRAINED, TRAINED_TOLERANCE, lengths

_log = logging.getLogger(__name__)


def choose_ratios(source: Volume, spec: RunSpec) -> Ratios:
    """Return how many voxels of `source` make one that the network sees, (z, y, x).

    A run with `data.downsample` takes volumes as they are whose voxels differ by up to `TRAINED_TOLERANCE` from those
    that it was trained on, along each axis. What else there is, is resampled to the voxels that the network sees.

    Raises:
        VolumeError: the voxel size is not known and needed, or too far away, or the task cannot be resampled.
    """
    data, network = spec.data, spec.data.network_voxel_nm
    here = source.voxel_size_nm or data.voxel_size_nm
    if network is None:
        return data.downsample
    if here is None:
        raise VolumeError(
            f"{source.location}: does not say its voxel size, and {spec.name} sees voxels of {lengths(network)} nm "
            "(z, y, x), to which it is to be resampled: give voxel_size_nm (zoo predict: --voxel-size-nm Z,Y,X)."
        )
    trained = data.voxel_size_nm if data.network_voxel_size_nm is None else None
    if trained is not None:
        pairs = zip(here, trained, strict=True)
        z, y, x = (own if abs(edge / own - 1) <= TRAINED_TOLERANCE else edge for edge, own in pairs)
        here = z, y, x
    if spec.model.input.axes == "yx":
        here = network[0] / data.downsample[0], *here[1:]  # it looks at one section at a time, however thick
    ratios = ratios_between(network, here, location=source.location)
    if spec.task.affinities is not None and ratios != data.downsample:
        raise VolumeError(
            f"{source.location}: has voxels of {lengths(here)} nm (z, y, x), and the affinities of {spec.name} are "
            f"between voxels of {lengths(network)} nm, so that their offsets would mean other distances: resample the "
            "volume, or correct its voxel size if that is wrong."
        )
    return ratios


def say_resampled(source: Volume, spec: RunSpec, ratios: Ratios) -> None:
    """Log that a volume is resampled, from what to what, and whether that is far from what the run has seen."""
    here, network = source.voxel_size_nm or spec.data.voxel_size_nm, spec.data.network_voxel_nm
    if here is None or network is None or ratios == spec.data.downsample:
        return
    _log.warning(
        "%s has voxels of %s nm (z, y, x) and is resampled to the %s nm that %s sees, and its prediction back",
        source.location,
        lengths(here),
        lengths(network),
        spec.name,
    )
    if _is_far(here, spec):
        _log.warning(
            "%s: these voxels are more than %g times as large or as small as those that %s was trained on (%s nm): "
            "tissue may look different, so look at the prediction, and correct the voxel size if it is wrong",
            source.location,
            FAR_FROM_TRAINED,
            spec.name,
            lengths(spec.data.voxel_size_nm or network),
        )


def resampled_to_nm(spec: RunSpec, ratios: Ratios) -> VoxelSize | None:
    """Return the voxel size that a volume is resampled to, None where it is taken as the run's own volumes are."""
    return None if ratios == spec.data.downsample else spec.data.network_voxel_nm


def _is_far(here: VoxelSize, spec: RunSpec) -> bool:
    trained = spec.data.voxel_size_nm
    if trained is not None:
        times = [edge / own for edge, own in zip(here, trained, strict=True)]
        return not all(1 / FAR_FROM_TRAINED <= one <= FAR_FROM_TRAINED for one in times)
    # Its volumes had several voxel sizes: smaller ones are averaged, and only what is larger lacks something.
    assert spec.data.network_voxel_size_nm is not None
    return any(edge / own > FAR_FROM_TRAINED for edge, own in zip(here, spec.data.network_voxel_size_nm, strict=True))
