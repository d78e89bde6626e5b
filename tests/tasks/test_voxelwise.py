"""Labels that follow from each voxel alone."""

from __future__ import annotations

import numpy as np
from support.tasks import make_task

from connectomics_zoo.tasks.voxelwise import decode_voxels, decoded_channels


def test_a_voxel_is_foreground_above_the_threshold_and_not_at_it():
    task = make_task(("sigmoid", "foreground", {"bce": 1.0}), ("sigmoid", "boundary", {"bce": 1.0}))
    values = np.array([0.0, 0.5, np.nextafter(np.float32(0.5), np.float32(1)), 1.0], np.float32).reshape(1, 1, 1, 4)
    masks = decode_voxels(np.concatenate([values, 1 - values]), task=task)
    assert masks.dtype == np.uint8
    assert masks.shape == (decoded_channels(task), 1, 1, 4)
    assert masks[0].ravel().tolist() == [0, 0, 1, 1]
    assert masks[1].ravel().tolist() == [1, 0, 0, 0]
