"""What labels look like, looked at once for training, evaluation and tuning; and what is background in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError

GREY = 0.5
"""Labels of which a larger fraction differs from the next one along x are taken for grey values."""

_FEWEST_GREYS = 16
"""Fewer values are no grey image, but points or noise in labels."""

_FEWEST_PAIRS = 1000
"""Of fewer voxels, nothing is known of what differs from the next one."""

SOFT = 0.25
"""Edges of which a larger fraction goes on in the same direction are ramps, which labels do not have."""

HALF = 127.5
"""Of the probabilities in uint8."""

_MOST_VALUES = 1000


def largest_id(dtype: np.dtype[Any]) -> int | None:
    """Return the id that stands for background where it occurs: the largest of a wide type (CREMI, Paintera)."""
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" and dtype.itemsize >= 4 else None


def is_one_of(labels: NDArray[Any], ids: Sequence[int]) -> NDArray[np.bool_]:
    """Return where `labels` have one of `ids`, which may be any integers; `np.isin` would round large ones."""
    found = np.zeros(labels.shape, dtype=bool)
    for one in ids:
        found |= labels == one
    return found


def clean_labels(labels: NDArray[Any], *, unlabelled: Sequence[int], location: str) -> NDArray[Any]:
    """Return labels with 0 for all background.

    Args:
        labels: as they are read, of any shape.
        unlabelled: labels of voxels that do not count, which stay as they are.
        location: names them in errors.

    Raises:
        VolumeError: there are negative ones that are not `unlabelled`.
    """
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        negative = (labels < 0) & ~is_one_of(labels, unlabelled)
        if negative.any():
            lowest = int(labels[negative].min())
            raise VolumeError(
                f"{location}: holds the negative label {lowest}, and objects have positive ones: if voxels with it are "
                f"not annotated, give data.unlabelled={lowest} (zoo evaluate: --unlabelled {lowest}; zoo decode: "
                f"--ignore-label {lowest}), else save them with another one."
            )
    return without_largest(labels, unlabelled=unlabelled)


def without_largest(labels: NDArray[Any], *, unlabelled: Sequence[int]) -> NDArray[Any]:
    """Return labels with 0 for the largest id of a wide type, unless that is `unlabelled`."""
    top = largest_id(labels.dtype)
    if top is None or top in unlabelled:
        return labels
    is_top = labels == top
    return np.where(is_top, np.zeros((), labels.dtype), labels) if is_top.any() else labels


class LabelLook:
    """What has been seen of labels, block by block."""

    def __init__(self, unlabelled: Sequence[int] = ()) -> None:
        self._unlabelled = tuple(unlabelled)
        self._compared = self._different = self._ramps = 0
        self.values: set[int] = set()
        """Labels that occur; beyond a thousand, of further ones the largest id alone."""

    def add(self, labels: NDArray[Any], known: NDArray[np.bool_] | None = None) -> None:
        """Look at a block (Z, Y, X) as it was read; `known` is False for voxels that do not count."""
        if self._unlabelled:
            annotated = ~is_one_of(labels, self._unlabelled)
            known = annotated if known is None else known & annotated
        rises, falls = labels[..., 1:] > labels[..., :-1], labels[..., 1:] < labels[..., :-1]
        if known is None:
            self._compared += rises.size
        else:
            both = known[..., 1:] & known[..., :-1]
            rises, falls = rises & both, falls & both
            self._compared += int(np.count_nonzero(both))
        changes = rises | falls
        self._different += int(np.count_nonzero(changes))
        self._ramps += int(np.count_nonzero(rises[..., 1:] & rises[..., :-1]))
        self._ramps += int(np.count_nonzero(falls[..., 1:] & falls[..., :-1]))
        if labels.dtype.kind == "f":
            return
        if len(self.values) >= _MOST_VALUES:
            top = largest_id(labels.dtype)
            if top is not None and top not in self.values and (labels == top).any():
                self.values.add(top)
            return
        starts = np.concatenate([np.ones((*labels.shape[:-1], 1), bool), labels[..., 1:] != labels[..., :-1]], axis=-1)
        if known is not None:
            # A label that begins where nothing is known may go on where it is.
            starts[..., 1:] |= ~known[..., :-1]
            starts &= known
        self.values.update(np.unique(labels[starts]).tolist())

    @property
    def grey(self) -> str | None:
        """What is wrong if they look like a grey image."""
        if self._different <= GREY * self._compared or self._compared < _FEWEST_PAIRS:
            return None
        if len(self.values) < _FEWEST_GREYS:
            return None
        return (
            f"looks like a grey image, not like labels ({round(100 * self._different / self._compared)} % of its "
            "voxels differ from the next one along x): give a label volume"
        )

    @property
    def is_soft(self) -> bool:
        """Whether edges are ramps, as those of probabilities and of masks that were smoothed or resampled."""
        return len(self.values) > 2 and self._ramps > SOFT * self._different

    @property
    def is_hard(self) -> bool:
        """Whether they look like labels: objects with hard edges, beside each other or on background 0."""
        return (0 in self.values or self._different > 0) and not self.is_soft and self.grey is None

    @property
    def is_mask(self) -> bool:
        """Whether the only labels are 0 and the one that masks have: 1, or the largest of 8 or 16 bits."""
        return len(self.values) == 2 and 0 in self.values and max(self.values) in (1, 255, 65535)

    def bytes_hold(self) -> Literal["probability", "label", "unclear"]:
        """Decide what uint8 beyond 1 holds where the file does not say it.

        Labels have hard edges, and probabilities that are all below one half no foreground. A mask with 255 for 1 may
        be read either way.
        """
        highest = max(self.values)
        if not self.is_hard or (len(self.values) == 2 and highest > HALF):
            return "probability"
        return "unclear" if highest > HALF else "label"

    @property
    def single(self) -> str | None:
        """What is wrong if there is one label alone."""
        return f"holds nothing but the label {min(self.values)} in this part" if len(self.values) == 1 else None

    @property
    def objects_as_mask(self) -> str | None:
        """What is to be known where labels are cut into foreground and background and there are several."""
        objects = len(self.values - {0})
        if objects < 2 or self.is_soft:
            return None
        count = f"over {_MOST_VALUES}" if objects >= _MOST_VALUES else str(objects)
        return f"holds {count} labels, and all above 0 count as foreground"

    def check(self, dtype: np.dtype[Any], *, location: str) -> list[str]:
        """Return what is legal and yet hardly meant, as the ends of sentences that begin with the volume's name.

        Raises:
            VolumeError: they look like a grey image, or it is not clear which are background.
        """
        if self.grey is not None:
            raise VolumeError(f"{location}: {self.grey}.")
        self.refuse_unclear(dtype, location=location)
        return self.warnings(dtype)

    def refuse_unclear(self, dtype: np.dtype[Any], *, location: str) -> None:
        """Refuse 0 and the type's largest id alone: either may be background.

        Raises:
            VolumeError: these two are all that there is.
        """
        top = largest_id(dtype)
        if top is not None and top not in self._unlabelled and self.values == {0, top}:
            raise VolumeError(
                f"{location}: holds 0 and {top} alone, and it is not clear which of them is background: save a mask as "
                f"0 and 1, or if {top} is not annotated, give data.unlabelled={top} (zoo evaluate: --unlabelled {top})."
            )

    def warnings(self, dtype: np.dtype[Any]) -> list[str]:
        """Return what is legal and yet hardly meant; see `check`."""
        found = []
        top = largest_id(dtype)
        if top is not None and top in self.values and top not in self._unlabelled:
            found.append(f"has voxels with the largest id, {top}, which is taken for background")
        if dtype == np.uint16 and 65535 in self.values and len(self.values) > 2:
            found.append(
                "has objects and the largest id, 65535, which is taken for one of them: if it is background or not "
                "annotated, save it as 0 or give data.unlabelled=65535"
            )
        if not found and self.is_soft and dtype.kind in "iu":
            low, high = min(self.values), max(self.values)
            found.append(
                f"looks like a soft mask, not like labels (its edges are ramps from {low} to {high}), and all above 0 "
                f"counts: cut it first, as mask > {(low + high) // 2}"
            )
        return found
