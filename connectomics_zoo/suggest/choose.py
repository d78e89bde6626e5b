"""The greedy choice among candidates: what is uncertain, and unlike what was chosen before.

Each next box has the largest `(1 - diversity) * relevance + diversity * novelty`, as in maximal marginal relevance
(Carbonell & Goldstein, SIGIR 1998). Its relevance is its score, its novelty the distance to the nearest chosen box,
half of it in space and half in what the boxes look like, so that n boxes do not show one thing n times; suggestive
annotation (Yang et al., MICCAI 2017, arXiv:1706.04737) takes images that are uncertain and unlike in the same spirit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.suggest.candidates import Candidates


def choose(
    candidates: Candidates,
    *,
    number: int,
    scores: NDArray[np.float64],
    features: NDArray[np.float64],
    allowed: NDArray[np.bool_],
    diversity: float,
    edges_nm: tuple[float, float, float],
) -> list[int]:
    """Return the chosen candidates, the first choice first, at most `number`; no two share a voxel.

    Args:
        candidates: the boxes.
        number: how many are wanted.
        scores: of each, (N,), from 0 up.
        features: what each looks like, (N, F), in any units.
        allowed: which may be chosen, (N,).
        diversity: what novelty counts against the score, 0 to 1.
        edges_nm: edges of a voxel (z, y, x), by which distances along the axes compare.
    """
    left = allowed.copy()
    if not left.any():
        return []
    relevance = scores / max(scores[left].max(), np.finfo(float).tiny)
    centres = (candidates.starts + np.array(candidates.size) / 2) * edges_nm
    # Half the diagonal, and what two boxes differ by on average: beyond, boxes are as far apart as can be wished.
    far = max(float(np.linalg.norm(np.ptp(centres, axis=0))) / 2, np.finfo(float).tiny)
    looks = _standardised(features, left)
    novelty = np.ones(len(scores))
    chosen: list[int] = []
    while left.any() and len(chosen) < number:
        gain = (1 - diversity) * relevance + (diversity * novelty if chosen else 0)
        best = int(np.where(left, gain, -np.inf).argmax())
        chosen.append(best)
        left &= ~candidates.overlapping(candidates.box(best))
        in_space = np.minimum(1, np.linalg.norm(centres - centres[best], axis=1) / far)
        in_looks = np.minimum(1, np.linalg.norm(looks - looks[best], axis=1) / np.sqrt(2 * looks.shape[1]))
        novelty = np.minimum(novelty, (in_space + in_looks) / 2)
    return chosen


def _standardised(features: NDArray[np.float64], among: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return features with mean 0 and standard deviation 1 among some; one that does not vary is 0."""
    centred = features - features[among].mean(axis=0)
    width = features[among].std(axis=0)
    standardised: NDArray[np.float64] = centred / np.where(width > 1e-9, width, np.inf)
    return standardised
