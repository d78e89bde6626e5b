"""How weights came to be: as data for `provenance.json`, and as the sentences of a weights entry."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from connectomics_zoo.push.trained import Trained
from connectomics_zoo.schema.experiment import VolumePair
from connectomics_zoo.volumes.box import region_text

_PACKAGE = "connectomics-zoo"
_LONGEST = 400
"""Characters of a sentence in a spec."""


def provenance(trained: Trained, *, sha256: str, size: int) -> dict[str, Any]:
    """Return where the weights come from: data, split, recipe, seed, versions, and the digest of their file."""
    run = trained.public
    data = run.data.model_dump(mode="json", exclude={"root"}, exclude_none=True)
    origin = {
        "weights": {"sha256": sha256, "size": size, "dtype": "float16" if trained.half else "float32"},
        "model": run.model.reference,
        "task": run.task.name,
        "license": trained.license,
        "data": data,
        "training": run.training.model_dump(mode="json"),
        "init_from": run.init_from,
        "prediction": run.prediction.model_dump(mode="json"),
        "seed": run.training.seed,
        "steps": trained.steps,
        "step_of_the_weights": trained.kept_step,
        "metrics": trained.metrics,
        "trained_on": run.trained_on,
        "trained_with": run.versions,
        "pushed_with": code_version(),
    }
    if trained.public_tuned is not None:
        origin["decode"] = trained.public_tuned.model_dump(mode="json", exclude_none=True)
    return origin


def code_version() -> dict[str, str]:
    """Return the version of this package, and the commit where it is known."""
    version = {_PACKAGE: metadata.version(_PACKAGE)}
    commit = _installed_commit() or _checked_out_commit()
    return version if commit is None else {**version, "commit": commit}


def _installed_commit() -> str | None:
    """Return the commit that pip installed from (PEP 610), or None."""
    text = metadata.distribution(_PACKAGE).read_text("direct_url.json")
    document = json.loads(text) if text else {}
    commit = document.get("vcs_info", {}).get("commit_id")
    return commit if isinstance(commit, str) else None


def _checked_out_commit() -> str | None:
    """Return the commit of the clone that this package runs from, or None where it is none or git is missing."""
    clone = Path(__file__).resolve().parents[2]
    if not (clone / ".git").exists():
        return None
    command = ["git", "-C", str(clone), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def describe_dataset(trained: Trained) -> str:
    """Return what the weights were trained on: whom to credit, or the names of the volumes."""
    data = trained.public.data
    return _clip(data.attribution or f"the volumes {_listed([pair.image for pair in data.train])}")


def describe_split(trained: Trained) -> str:
    """Return which part of the data was trained on, and which was scored on."""
    data = trained.public.data
    trained_on = f"trained on {_listed([describe_part(pair) for pair in data.train])}"
    if not data.validation:
        return _clip(f"{trained_on}; not scored")
    return _clip(f"{trained_on}; scored on {_listed([describe_part(pair) for pair in data.validation])}")


def describe_recipe(trained: Trained) -> str:
    """Return how the weights were trained, in one sentence."""
    recipe = trained.public.training
    patch = " x ".join(map(str, recipe.patch_size))
    voxel_nm = trained.public.data.network_voxel_nm
    voxels = "" if voxel_nm is None else f" of {' x '.join(f'{edge:g}' for edge in voxel_nm)} nm"
    start = "" if trained.public.init_from is None else f" from {trained.public.init_from}"
    decode = trained.public.task.decode
    objects = f"; decoded by {decode.method}" + ("" if decode.threshold is None else f" at {decode.threshold:g}")
    kept = f", weights of step {trained.kept_step}" if trained.kept_step != trained.steps else ""
    optimizer = f"{recipe.optimizer} with learning rate {recipe.learning_rate:g} ({recipe.schedule})"
    return _clip(
        f"{trained.steps} steps{start}{kept}, batch size {recipe.batch_size}, patches of {patch} network "
        f"voxels{voxels}, {optimizer}, {trained.public.trained_on or recipe.precision}, augmentation "
        f"{recipe.augmentation.described}"
        f"{objects if decode.is_instances else ''}; the whole of it is the spec in the file's metadata"
    )


def describe_part(pair: VolumePair) -> str:
    """Return the image of `pair`, and its region as zoo predict takes one, or the annotated ones in it."""
    parts = pair.regions or (pair.region,)
    return f"{pair.image} {_listed([region_text(part) or '' for part in parts], ' + ')}".rstrip()


def _listed(parts: Sequence[str], between: str = ", ") -> str:
    shown = between.join(parts[:3])
    return shown if len(parts) <= 3 else f"{shown} and {len(parts) - 3} more"


def _clip(sentence: str) -> str:
    return sentence if len(sentence) <= _LONGEST else sentence[: _LONGEST - 1] + "…"
