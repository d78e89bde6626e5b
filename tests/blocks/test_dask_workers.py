"""Blocks on Dask workers: who gets which, what is tried again, and what is said when it is given up."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.block_work import Troubled, make_job
from support.prediction import grey, make_run, write
from support.volume_files import read_all

from connectomics_zoo.blocks import dask_worker, local_workers
from connectomics_zoo.blocks.dask_worker import BlockError
from connectomics_zoo.blocks.runner import run_blocks
from connectomics_zoo.blocks.where import where_from
from connectomics_zoo.errors import CheckFailedError, MissingPackageError, OutputError
from connectomics_zoo.predict import plan, predict

distributed = pytest.importorskip("distributed", reason="Dask, an extra, is not installed")

from connectomics_zoo.blocks import dask_workers  # noqa: E402
from connectomics_zoo.blocks.dask_workers import HOPELESS, LOSSES, TRIES, Workers  # noqa: E402


class FakeFuture:
    def __init__(self, error: BaseException | None) -> None:
        self.status = "finished" if error is None else "error"
        self._error = error

    def exception(self) -> BaseException | None:
        return self._error

    def cancel(self) -> None:
        """Nothing runs."""

    def add_done_callback(self, call) -> None:
        call(self)


class FakeClient:
    """Does each block at once, as `outcome(address, index)` says: an error, or None."""

    def __init__(self, addresses: list[str], outcome) -> None:
        self.addresses = addresses
        self.outcome = outcome
        self.submitted: list[tuple[str, int]] = []

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(self.addresses, 1)

    def submit(self, function, out, stage, work, index, *, workers, **_):
        (address,) = workers
        self.submitted.append((address, index))
        return FakeFuture(self.outcome(address, index))


class FakeSource:
    address = "tcp://here:1"
    patience = 0.0
    dashboard = None

    def __init__(self) -> None:
        self.renewed: list[str] = []

    def keep_up(self, *, present: int, is_working: bool) -> None:
        """All stay."""

    def renew(self, client, address: str) -> None:
        self.renewed.append(address)

    def explain(self) -> str:
        return "no worker has started, says squeue."


@pytest.fixture
def job(tmp_path):
    return make_job(tmp_path / "out.zarr", 8)


def killed() -> distributed.scheduler.KilledWorker:
    return distributed.scheduler.KilledWorker("key", None, 0)


def run(job, outcome, *, addresses=("a", "b"), blocks=8):
    client, source, finished = FakeClient(list(addresses), outcome), FakeSource(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dask_workers, "_LOOK", 0.01)
        problems = Workers(client, source).run(job, "predict", None, list(range(blocks)), finish=finished.append)
    return problems, finished, client, source


def test_every_block_is_done_once_and_both_workers_have_some(job):
    problems, finished, client, _ = run(job, lambda address, index: None)
    assert problems == {}
    assert sorted(finished) == list(range(8))
    assert {address for address, _ in client.submitted} == {"a", "b"}
    assert len(client.submitted) == 8


def test_a_block_that_fails_goes_to_another_worker_and_is_named_after_the_last_try(job):
    problems, finished, client, source = run(
        job, lambda address, index: BlockError("failed", "it is damaged.") if index == 3 else None
    )
    assert problems == {3: "it is damaged."}
    assert sorted(finished) == [0, 1, 2, 4, 5, 6, 7]
    tries = [address for address, index in client.submitted if index == 3]
    assert len(tries) == TRIES
    assert set(tries[:2]) == {"a", "b"}
    assert source.renewed == []


def test_a_worker_gets_a_block_that_it_failed_with_only_when_all_have(job):
    _, _, client, _ = run(job, lambda address, index: BlockError("failed", "damaged."), blocks=1)
    assert [address for address, _ in client.submitted][:2] == ["a", "b"]


def test_what_dask_logs_is_for_nobody(caplog):
    with dask_workers._silence():
        for name in ("distributed.client", "distributed.core", "tornado.application", "asyncio"):
            logging.getLogger(name).error("a comm was closed")
    assert caplog.text == ""


def test_a_process_in_which_something_broke_is_replaced(job):
    problems, _, _, source = run(
        job, lambda address, index: BlockError("broken", "CUDA error") if (address, index) == ("a", 0) else None
    )
    assert problems == {}
    assert source.renewed == ["a"]


def test_a_worker_that_cannot_take_part_gets_no_more_blocks_and_the_others_do_them(job, caplog):
    problems, finished, client, _ = run(
        job, lambda address, index: BlockError("refused", "it has zoo 0.0.9.") if address == "b" else None
    )
    assert problems == {}
    assert len(finished) == 8
    assert [address for address, _ in client.submitted].count("b") == 1
    assert "a worker cannot take part: it has zoo 0.0.9." in caplog.text


def test_if_no_worker_can_take_part_the_reason_is_the_error(job):
    with pytest.raises(CheckFailedError, match=re.escape("it has zoo 0.0.9.")):
        run(job, lambda address, index: BlockError("refused", "it has zoo 0.0.9."))


def test_an_environment_without_the_package_is_a_sentence(job):
    with pytest.raises(CheckFailedError, match=r"not the same environment .*No module named 'connectomics_zoo'"):
        run(job, lambda address, index: ModuleNotFoundError("No module named 'connectomics_zoo'"))


def test_a_block_whose_workers_are_always_lost_is_named(job):
    problems, finished, client, _ = run(job, lambda address, index: killed() if index == 3 else None)
    assert len(finished) == 7
    assert "its worker was lost 5 times" in problems[3]
    assert [index for _, index in client.submitted].count(3) == LOSSES


def test_a_block_that_was_done_before_its_worker_was_lost_is_not_done_again(job):
    def outcome(address, index):
        if index != 3:
            return None
        job.mark_done("predict", 3)
        return killed()

    problems, finished, client, _ = run(job, outcome)
    assert problems == {}
    assert sorted(finished) == list(range(8))
    assert [index for _, index in client.submitted].count(3) == 1


def test_what_fails_from_the_first_block_on_is_not_tried_with_all(job):
    problems, finished, client, _ = run(job, lambda address, index: BlockError("failed", "no such file."))
    assert finished == []
    assert len(problems) == HOPELESS
    assert len(client.submitted) < 8 * TRIES


def test_without_workers_it_is_said_why(job):
    with pytest.raises(CheckFailedError, match="no worker has started, says squeue"):
        run(job, lambda address, index: None, addresses=())


def test_without_dask_the_extra_is_named(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    grid = job.describe().cut.grid
    with pytest.raises(MissingPackageError, match=re.escape("pip install 'connectomics-zoo[cluster]'")):
        run_blocks(job, "predict", Troubled(Path()), grid=grid, where=where_from(workers=2))


def test_a_scheduler_that_does_not_answer_is_named(job, monkeypatch):
    monkeypatch.setattr(dask_workers, "_CONNECT", 0.5)
    with pytest.raises(CheckFailedError, match=r"the Dask scheduler at tcp://127.0.0.1:9 does not answer"):
        run_blocks(
            job,
            "predict",
            Troubled(Path()),
            grid=job.describe().cut.grid,
            where=where_from(scheduler="tcp://127.0.0.1:9"),
        )


def test_one_worker_dies_and_one_block_is_damaged_and_all_else_is_done(job, tmp_path, capfd):
    work = Troubled(tmp_path, damaged=3, deadly=5)
    told = []
    with pytest.raises(
        CheckFailedError, match=r"1 of 8 blocks were given up \(z=0:4,y=0:4,x=12:16: block 3: its file is damaged"
    ):
        run_blocks(
            job,
            "predict",
            work,
            grid=job.describe().cut.grid,
            where=where_from(workers=2),
            progress=lambda progress: told.append(progress.done),
        )
    assert job.done("predict") == {0, 1, 2, 4, 5, 6, 7}
    assert len(work.tried(3)) == TRIES
    assert len(work.tried(5)) == 2
    assert told == [64 * blocks for blocks in range(8)]
    assert capfd.readouterr().err == ""  # what Dask has to say about it


MAIN = """
import sys
from pathlib import Path
from support.block_work import Troubled, make_job
from connectomics_zoo.blocks.runner import run_blocks
from connectomics_zoo.blocks.where import where_from
folder = Path(sys.argv[1])
job = make_job(folder / "out.zarr", 8)
work = Troubled(folder, seconds=600)
run_blocks(job, "predict", work, grid=job.describe().cut.grid, where=where_from(workers=1))
"""


def wait_until(condition, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_workers_end_soon_after_the_main_process_was_killed(tmp_path):
    work = Troubled(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    main = subprocess.Popen([sys.executable, "-c", MAIN, str(tmp_path)], env=environment)
    try:
        wait_until(lambda: work.tried(0), seconds=60)
    finally:
        main.send_signal(signal.SIGKILL)
        main.wait()
    (pid,) = work.tried(0)
    wait_until(lambda: not Path("/proc", pid).exists(), seconds=30)


def another(job):
    """Begin another job at the same place, as `--overwrite` does."""
    job.clear()
    return make_job(job.out, 8)


def test_a_block_that_outlives_its_job_is_not_done_in_the_next_one(job, tmp_path):
    token = job.describe().token
    another(job)
    work = Troubled(tmp_path)
    with pytest.raises(
        BlockError, match=r"out\.zarr\.job: another job was begun there .* with --overwrite\."
    ) as caught:
        dask_worker.work_on(job.out, "predict", work, 2, token=token)
    assert caught.value.kind == "refused"
    assert work.tried(2) == []
    assert job.done("predict") == set()


def test_a_block_in_work_while_another_job_takes_the_place_is_not_written_down(job):
    with pytest.raises(BlockError, match="another job was begun there"):
        dask_worker.work_on(job.out, "predict", lambda index, advance: another(job), 2, token=job.describe().token)
    assert job.done("predict") == set()


def test_a_block_in_work_ends_soon_after_another_job_has_taken_the_place(job, monkeypatch):
    monkeypatch.setattr(dask_worker, "_RECHECK", 0.0)
    told = []

    def work(index, advance):
        for fraction in (0.1, 0.2, 0.3):
            if fraction == 0.2:
                another(job)
            advance(fraction)
            told.append(fraction)

    with pytest.raises(BlockError, match="another job was begun there"):
        dask_worker.work_on(job.out, "predict", work, 2, token=job.describe().token)
    assert told == [0.1]


def test_a_block_of_a_job_that_is_gone_is_not_written_down(job, tmp_path):
    token = job.describe().token
    job.remove()
    with pytest.raises(BlockError, match="the folder of the job is not there"):
        dask_worker.work_on(job.out, "predict", Troubled(tmp_path), 2, token=token)
    assert not job.folder.exists()


def test_workers_of_a_job_whose_folder_has_gone_are_not_asked(job):
    job.remove()
    with pytest.raises(OutputError, match="the folder of the job has gone: repeat the command"):
        run(job, lambda address, index: None)


def test_workers_predict_what_one_process_does(tmp_path, monkeypatch):
    run_folder = make_run(tmp_path / "tiny", data={"voxel_size_nm": (30.0, 8.0, 8.0)})
    image = write(tmp_path / "image.h5", grey((16, 130, 260)))
    alone = predict(run_folder, image, tmp_path / "alone.zarr", dtype="float32", device="cpu")
    for name, value in {"CHUNK_EDGE": 16, "SHARD_EDGES": (16, 64, 64), "BLOCK_WINDOWS": 40}.items():
        monkeypatch.setattr(plan, name, value)
    shared = predict(run_folder, image, tmp_path / "shared.zarr", dtype="float32", device="cpu", workers=2)
    assert alone.blocks == 1
    assert shared.blocks >= 8
    assert shared.complete
    np.testing.assert_allclose(read_all(tmp_path / "shared.zarr"), read_all(tmp_path / "alone.zarr"), rtol=0, atol=1e-6)
    assert not (tmp_path / "shared.zarr.job").exists()


def test_each_worker_of_a_job_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(dask_worker, "_end_when_closing", lambda worker: None)
    monkeypatch.setenv(dask_worker.GPUS, "2")
    seen = []
    for number in range(2):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
        dask_worker.dask_setup(SimpleNamespace(name=f"SLURMCluster-3-{number}"))
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert seen == ["5", "7"]


def test_workers_of_this_machine_share_its_cores_and_gpus(monkeypatch, tmp_path):
    monkeypatch.setattr(local_workers, "usable_cores", lambda: 8)
    monkeypatch.setattr(local_workers, "_visible_gpus", lambda: ["5", "7"])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    workers = local_workers.LocalWorkers(3, address="tcp://127.0.0.1:1", folder=tmp_path)
    environments = [workers.environment(number) for number in range(3)]
    assert [item["OMP_NUM_THREADS"] for item in environments] == ["2", "2", "2"]
    assert [item["CUDA_VISIBLE_DEVICES"] for item in environments] == ["5", "7", "5"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what the user wants of each process
    assert workers.environment(0)["OMP_NUM_THREADS"] == "1"


def listening(pid: int) -> set[str]:
    """The addresses at which a process takes connections, as the kernel writes them."""
    sockets = {link.readlink().name for link in Path("/proc", str(pid), "fd").iterdir() if link.is_symlink()}
    lines = [line for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    fields = [line.split() for line in lines]
    return {one[1].partition(":")[0] for one in fields if one[3] == "0A" and f"socket:[{one[9]}]" in sockets}


def test_no_other_user_can_give_work_to_the_workers_of_this_machine(tmp_path):
    pytest.importorskip("cryptography", reason="without it Dask makes no keys")
    with local_workers.local_workers(1, folder=tmp_path) as workers:
        assert workers.address.startswith("tls://127.0.0.1:")
        with distributed.Client(workers.address, security=workers.security, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
            (pid,) = client.run(os.getpid).values()
            assert listening(pid) == {"0100007F"}
            assert listening(os.getpid()) <= {"0100007F"}
        for security in (None, distributed.Security.temporary()):
            with dask_workers._silence(), pytest.raises((OSError, TypeError)):
                distributed.Client(workers.address, security=security, timeout=3, set_as_default=False)


def test_without_keys_workers_of_this_machine_work_too(tmp_path, monkeypatch):
    monkeypatch.setattr(local_workers, "_keys", lambda: None)
    with local_workers.local_workers(1, folder=tmp_path) as workers:
        assert workers.address.startswith("tcp://127.0.0.1:")
        with distributed.Client(workers.address, security=workers.security, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)


def test_no_worker_has_more_than_one_block_whatever_there_is_to_do(job):
    flying: list[int] = []

    class Slow(FakeClient):
        def submit(self, *arguments, **options):
            future = super().submit(*arguments, **options)
            flying.append(len(self.submitted) - len(finished))
            return future

    finished: list[int] = []
    workers = Workers(Slow(["a", "b"], lambda address, index: None), FakeSource())
    assert workers.run(job, "predict", None, list(range(200)), finish=finished.append) == {}
    assert sorted(finished) == list(range(200))
    assert max(flying) <= 2
