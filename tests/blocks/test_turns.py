"""Who may work on a job: shares that begin at the same time, as the jobs of an array do."""

from __future__ import annotations

import multiprocessing

from support.block_work import take_turns


def test_shares_that_begin_and_leave_at_the_same_time_do_not_disturb_each_other(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=take_turns, args=(str(tmp_path), number, 100)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert list(tmp_path.iterdir()) == []
