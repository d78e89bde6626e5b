"""How far a job is: the speed of late, and lines of the log that say nothing of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from support.block_work import make_job

from connectomics_zoo.blocks.status import status_of

VOXELS = 64
"""Of a block."""

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def job(tmp_path):
    return make_job(tmp_path / "out.zarr", 8)


def write_log(job, *entries):
    (job.folder / "log.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


def block(second: float, **changes) -> dict[str, object]:
    """The entry of a block that took two seconds, so many seconds after noon."""
    time = (NOON + timedelta(seconds=second)).isoformat()
    entry = {"time": time, "event": "block", "stage": "predict", "block": 0, "seconds": 2.0, **changes}
    return {key: value for key, value in entry.items() if value is not None}


def begin(second: float) -> dict[str, object]:
    return {"time": (NOON + timedelta(seconds=second)).isoformat(), "event": "begin", "stage": "predict"}


def speed_of(job) -> float | None:
    return status_of(job.out).voxels_per_second


def test_one_after_the_other_blocks_take_the_time_of_both(job):
    write_log(job, begin(0), block(2), block(4))
    assert speed_of(job) == VOXELS * 2 / 4


def test_workers_at_the_same_time_are_faster(job):
    write_log(job, begin(0), block(2), block(2), block(4), block(4))
    assert speed_of(job) == VOXELS * 4 / 4


def test_a_pause_before_a_job_goes_on_does_not_count(job):
    day = 86400
    write_log(job, begin(0), block(2), block(4), begin(day), block(day + 2), block(day + 4))
    job.mark_done("predict", 0)
    assert speed_of(job) == VOXELS * 2 / 4
    assert status_of(job.out).seconds_left == 7 * 2


def test_a_share_that_begins_while_others_work_slows_nothing_down(job):
    write_log(job, begin(0), begin(0), block(2), block(2), begin(2), block(4), block(4), block(4))
    assert speed_of(job) == VOXELS * 5 / 4


@pytest.mark.parametrize(
    "changes",
    [
        {"time": None},
        {"seconds": None},
        {"block": None},
        {"stage": None},
        {"time": 12},
        {"time": "noon"},
        {"seconds": "long"},
        {"seconds": float("nan")},
        {"seconds": -5},
        {"block": [1]},
        {"block": 8},
        {"block": -1},
        {"stage": "level-1"},
        {"stage": ["predict"]},
    ],
)
def test_a_line_that_says_nothing_of_a_block_of_the_job_is_skipped(job, changes):
    write_log(job, begin(0), block(2), block(4), block(900, **changes))
    status = status_of(job.out)
    assert status.voxels_per_second == VOXELS * 2 / 4
    assert status.last == block(4)["time"]


def test_blocks_of_an_earlier_stage_do_not_count(job):
    job.begin(job.describe().model_copy(update={"stages": ("find", "predict")}))
    write_log(job, *(block(second, stage="find") for second in (2, 4, 6)), begin(6), block(10, seconds=4.0))
    assert speed_of(job) == VOXELS / 4


def test_of_a_log_without_blocks_no_speed_is_said(job):
    write_log(job, begin(0), {"event": "block"})
    status = status_of(job.out)
    assert (status.voxels_per_second, status.seconds_left, status.last) == (None, None, None)
