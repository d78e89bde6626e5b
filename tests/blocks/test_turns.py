"""Who may work on a job: shares that begin at the same time, as the jobs of an array do."""

from __future__ import annotations

import multiprocessing
import threading
import time

from support.block_work import take_turns

from connectomics_zoo.blocks.job import Job
from connectomics_zoo.blocks.turns import one_at_a_time
from connectomics_zoo.errors import OutputError


def test_shares_that_begin_and_leave_at_the_same_time_do_not_disturb_each_other(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=take_turns, args=(str(tmp_path), number, 100)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_job_may_go_while_others_wait_to_finish_it(tmp_path):
    job, held, errors = Job(tmp_path / "out.zarr"), threading.Event(), []
    for index in range(1000):
        job.mark_done("predict", index)

    def finish(is_first):
        try:
            with one_at_a_time(job):
                if is_first:
                    held.set()
                    time.sleep(0.3)
                Job(job.out).remove()
        except OutputError as error:
            errors.append(error)

    threads = [threading.Thread(target=finish, args=(number == 0,)) for number in range(4)]
    threads[0].start()
    held.wait()
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert list(tmp_path.iterdir()) == []
