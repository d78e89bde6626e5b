"""Does the work of a comparison, one reference and seed at a time, and makes rows of what is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connectomics_zoo.bench.run import step_memory, this_machine
from connectomics_zoo.compare.folder import read_json, write_json
from connectomics_zoo.compare.members import Member
from connectomics_zoo.compare.report import Row, Seen
from connectomics_zoo.compare.scoring import score
from connectomics_zoo.compare.training import steps_in, train_seed
from connectomics_zoo.network.build import with_counts
from connectomics_zoo.runs.metrics import has_metrics, read_metrics
from connectomics_zoo.schema.experiment import DataSpec, RunSpec, VolumePair
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.schema.task import TaskSpec


@dataclass
class Work:
    """What is done for each reference, in the folder of the comparison; what is there is not done again."""

    folder: Path
    """The folder."""
    pairs: Sequence[VolumePair]
    """What is scored."""
    data: DataSpec
    """The places of the pairs."""
    task: TaskSpec
    """What is predicted."""
    device: str
    """Where."""
    memory: bool
    """Whether peak memory is measured."""
    progress: Callable[[Progress], None] | None
    """Is told of every step."""
    notify: Callable[[str], None] | None
    """Is told what became of weights to start from."""
    total: int = 0
    """Steps of all runs together."""
    before: int = 0
    """Steps of the runs that are done."""
    planned: dict[str, int] = field(default_factory=dict)
    """The steps of each run of a member, by its name."""

    parameters: dict[str, int] = field(default_factory=dict)
    """The parameters of a member's network as it predicts, by its name, as far as they were counted."""

    def run_folder(self, member: Member, seed: int) -> Path:
        """Return the run folder of a member with a seed."""
        return self.folder / member.name / f"seed-{seed}"

    def result_file(self, member: Member, seed: int) -> Path:
        """Return the file of what a run scored."""
        return self.folder / member.name / (f"seed-{seed}.json" if member.is_trained_here else "scores.json")

    def steps_in(self, minutes: float, member: Member) -> int:
        """Return how many steps a member does in so many minutes, as it was measured once."""
        file = self.folder / member.name / "speed.json"
        known = read_json(file)
        if known is None:
            self._tell(0, label=f"measures the speed of {member.ref}")
            known = {"steps": steps_in(minutes, member, file.parent, device=self.device)}
            write_json(file, known)
        return int(known["steps"])

    def expect(self, members: Sequence[Member], *, seeds: int) -> None:
        """Take note of the work ahead, for the progress."""
        for member in members:
            assert member.run is not None
            steps = member.run.training.max_steps if member.is_trained_here else 0
            self.planned[member.name] = steps
            self.total += steps * seeds

    def do(self, member: Member, seed: int) -> Member:
        """Train a member with a seed, score it and measure its memory, as far as that is not done."""
        result = self.result_file(member, seed)
        known = self._known(member, seed)
        if known is None:
            write_json(result, self._trained(member, seed) if member.is_trained_here else self._loaded(member))
        self.before += self.planned[member.name]
        self._tell(0, label=member.ref)
        if self.memory and read_json(self._memory_file(member)) is None:
            write_json(self._memory_file(member), self._measure_memory(member))
        return member

    def _known(self, member: Member, seed: int) -> dict[str, Any] | None:
        known = read_json(self.result_file(member, seed))
        if known is None or member.weights is None:
            return known
        return known if known["sha256"] == member.weights.sha256() else None

    def _trained(self, member: Member, seed: int) -> dict[str, Any]:
        folder = self.run_folder(member, seed)
        label = f"{member.ref}, seed {seed}"
        minutes = train_seed(
            member,
            seed,
            folder,
            device=self.device,
            progress=lambda state: self._tell(state.done, label=label, numbers=state.numbers),
            notify=self.notify,
        )
        metrics, steps, _ = read_metrics(folder)
        assert member.run is not None
        chose = member.run.training.keep == "best" and bool(member.run.data.validation)
        chosen = {f"val/{self.task.metrics[0]}"} & metrics.keys() if chose else set()
        return {
            "steps": steps,
            "minutes": minutes,
            "chosen": {name.removeprefix("val/"): metrics[name] for name in chosen},
            **self._score(folder, folder.with_name(f"{folder.name}.scratch"), label=label),
        }

    def _loaded(self, member: Member) -> dict[str, Any]:
        assert member.weights is not None
        folder = Path(member.ref)
        steps = read_metrics(folder)[1] if folder.is_dir() and has_metrics(folder) else None
        scratch = self.folder / member.name / "scratch"
        return {
            "sha256": member.weights.sha256(),
            "steps": steps,
            "minutes": None,
            "chosen": {},
            **self._score(member.ref, scratch, label=member.ref),
        }

    def _score(self, ref: str | Path, scratch: Path, *, label: str) -> dict[str, Any]:
        self._tell(0, label=f"scores {label}")
        found = score(ref, self.pairs, self.data, task=self.task, scratch=scratch, device=self.device)
        return {
            "scores": found.scores,
            "voxels_per_second": found.voxels_per_second,
            "machine": this_machine(self.device),
        }

    def _memory_file(self, member: Member) -> Path:
        return self.folder / member.name / "memory.json"

    def _measure_memory(self, member: Member) -> dict[str, int | None]:
        assert member.run is not None
        self._tell(0, label=f"measures the memory of {member.ref}")
        run = member.run
        window = (1, run.model.input.channels, *run.window)
        found = {"prediction": step_memory(run.model, window, "inference", device=self.device), "training": None}
        if member.is_trained_here:
            batch = (run.training.batch_size, run.model.input.channels, *run.training.patch_size)
            found["training"] = step_memory(run.model, batch, "training", device=self.device)
        return found

    def _tell(self, done: int, *, label: str, numbers: Any = None) -> None:
        if self.progress is not None:
            total = max(self.total, self.before + done)
            self.progress(Progress(self.before + done, total, unit="steps", label=label, numbers=numbers or {}))

    def machines(self, members: Sequence[Member], *, seeds: int) -> str:
        """Return where everything was measured."""
        known = [read_json(self.result_file(member, seed)) for member in members for seed in range(seeds)]
        return " and ".join(dict.fromkeys(result["machine"] for result in known if result is not None))


def row_of(member: Member, work: Work, *, seeds: int, seen: Seen) -> Row:
    """Return what is known of a member by now."""
    numbers = range(seeds if member.is_trained_here else 1)
    results = {seed: result for seed in numbers if (result := read_json(work.result_file(member, seed))) is not None}
    memory = read_json(work.folder / member.name / "memory.json") or {}
    done = list(results.values())
    speeds = [result["voxels_per_second"] for result in done if result["voxels_per_second"] is not None]
    steps = {result["steps"] for result in done}
    is_own = member.is_trained_here
    return Row(
        ref=member.ref,
        trained_here=is_own,
        folders=tuple(str(work.run_folder(member, seed)) for seed in results) if is_own else (),
        seeds=tuple(results) if is_own else (),
        scores=_by_name([result["scores"] for result in done]),
        chosen=_by_name([result["chosen"] for result in done]),
        seen=seen,
        steps=steps.pop() if len(steps) == 1 else None,
        minutes=tuple(result["minutes"] for result in done if result["minutes"] is not None),
        training_memory_bytes=memory.get("training"),
        prediction_memory_bytes=memory.get("prediction"),
        voxels_per_second=sum(speeds) / len(speeds) if speeds else None,
        error=member.error,
        **({} if member.run is None else _network(member.name, member.run, work)),
    )


def _network(name: str, run: RunSpec, work: Work) -> dict[str, Any]:
    if name not in work.parameters:
        expect = with_counts(run.model).expect
        assert expect is not None
        work.parameters[name] = expect.parameters.inference
    return {
        "model": run.model.name,
        "parameters": work.parameters[name],
        "patch_size": run.training.patch_size,
        "batch_size": run.training.batch_size,
    }


def _by_name(rows: Sequence[dict[str, float]]) -> dict[str, tuple[float, ...]]:
    """Return the values of each name, of those that all rows have."""
    names = [name for name in (rows[0] if rows else {}) if all(name in row for row in rows)]
    return {name: tuple(row[name] for row in rows) for name in names}
