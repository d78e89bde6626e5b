"""`zoo fit`: the largest size that fits, by trying all of them; and what cannot fit is refused, and nothing else."""

from __future__ import annotations

import json
import math

import pytest
from support.tiny_training import make_run, request, write_volume

from connectomics_zoo.errors import LimitError, ZooError
from connectomics_zoo.fit import run as fit_run
from connectomics_zoo.fit.memory import training_bytes
from connectomics_zoo.fit.run import fit, refuse_what_cannot_fit
from connectomics_zoo.fit.search import LARGEST_EDGE, largest_size, legal_size
from connectomics_zoo.schema.model import SizeRule
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.train import train

RULES = [
    SizeRule(minimum=(16, 32, 32), step=(16, 16, 16)),
    SizeRule(minimum=(1, 16, 32), step=(1, 16, 16)),
    SizeRule(minimum=(16, 32), step=(16, 16)),
    SizeRule(minimum=(64, 64, 64), step=(65536, 65536, 65536)),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.describe())
@pytest.mark.parametrize("anisotropy", [1, 6.25])
@pytest.mark.parametrize("voxels", [1000, 300_000, 2_100_000, 30_000_000, 10**10])
def test_the_largest_size_is_the_one_that_trying_all_finds(rule, anisotropy, voxels):
    def needs(size):  # with a step in it, as where another tensor becomes the largest
        return 5_000 + 3 * math.prod(size) + (40_000 if math.prod(size) > 200_000 else 0)

    tried = []
    found = largest_size(
        rule, anisotropy=anisotropy, needs=lambda size: tried.append(size) or needs(size), limit=3 * voxels
    )
    sizes = {legal_size(rule, edge, anisotropy=anisotropy) for edge in range(1, LARGEST_EDGE + 1)}
    fitting = [size for size in sizes if needs(size) <= 3 * voxels]
    assert found == (max(fitting, key=math.prod) if fitting else None)
    assert len(tried) <= 8


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.describe())
def test_sizes_are_legal_and_as_flat_as_the_voxels_are_long(rule):
    for edge in (1, 50, 128, 200):
        size = legal_size(rule, edge, anisotropy=4)
        assert rule.allows(size)
        if len(size) == 3 and size != rule.minimum:
            assert size[0] * 4 <= max(size[1], 4 * rule.minimum[0])


def test_the_patch_that_is_found_fits_and_the_next_one_does_not():
    rule = get_spec("monai_unet").input.size
    (found,) = fit("monai_unet", memory_bytes=3 * 10**9, anisotropy=2).fits
    assert found.memory.total <= 3e9 / 1.15
    larger = legal_size(rule, found.patch[1] + 16, anisotropy=2)
    (none,) = fit("monai_unet", memory_bytes=3 * 10**9, patch=larger).fits
    assert none.patch is None
    assert none.memory.total > 3e9 / 1.15


def test_the_verb_prints_a_row_for_each_model_and_all_as_json(run_zoo):
    options = ("--memory", "4GB", "--patch", "32", "--batch", "3")
    code, out, err = run_zoo("fit", "rsunet", "mednext-S.vnc-mito", *options)
    assert code == 0, err
    assert [line.split()[:3] for line in out.splitlines()[2:4]] == [
        ["rsunet", "32×32×32", "3"],
        ["mednext-S.vnc-mito", "32×32×32", "3"],
    ]
    code, out, _ = run_zoo("fit", "monai_unet", *options, "--predict", "--json")
    report = json.loads(out)
    assert (code, report["use"], report["memory_bytes"]) == (0, "predict", 4 * 10**9)
    assert report["fits"][0]["memory"]["weights"] < 100e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mednext-S", "--memory", "much"), "'much' is no memory, write it like 24GB or 24GiB."),
        (("mednext-S", "--memory", "0GB"), "'0GB' is no memory, write it like 24GB or 24GiB."),
        (("mednext-S", "--memory", "4GB", "--anisotropy", "0"), "an anisotropy of 0 is not possible, give more than 0"),
        (("mito", "--memory", "4GB"), "mito is a task, give a model, with --task mito."),
        (("rsunet", "--memory", "4GB", "--checkpointing"), "rsunet has no checkpointing to switch, leave"),
        (
            ("mednext-S", "--memory", "4GB", "--patch", "30"),
            "does not accept the patch [30, 30, 30], legal are 16 + n*16, 32 + n*16, 32 + n*16 voxels along z, y, x: "
            "give 32,32,32.",
        ),
        (
            ("mednext-S", "--memory", "4GB", "--patch", "big"),
            "'big' is not one or two or three whole numbers (z, y, x), write them like 128 or 32,128,128.",
        ),
    ],
)
def test_a_mistake_is_one_sentence(run_zoo, arguments, message):
    code, out, err = run_zoo("fit", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_where_no_gpu_is_and_no_memory_given_the_cpu_is_meant(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(fit_run, "available_bytes", lambda: 2 * 10**9)
    report = fit("mednext-S", {"arch": {"base_channels": 2}}, patch=(32,), batch=1)
    assert (report.device, report.memory_bytes) == ("cpu", 2 * 10**9)
    monkeypatch.setattr(fit_run, "available_bytes", lambda: None)
    with pytest.raises(ZooError, match=r"^how much memory is free on the cpu is not known here, give it: --memory"):
        fit("mednext-S")


def test_what_an_earlier_network_left_in_the_cache_of_the_gpu_is_free(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for name, value in {"mem_get_info": (2, 24), "memory_reserved": 20, "memory_allocated": 5}.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda value=value: value)
    assert fit_run.free_bytes("cuda") == 17


def counted(run):
    recipe = run.training
    return training_bytes(
        run.model,
        recipe.patch_size,
        batch=recipe.batch_size,
        precision="32-true",
        where="cuda",
        task=run.task,
    ).total


def test_only_what_surely_does_not_fit_is_refused():
    run = make_run({}, patch_size=[64, 96, 96], batch_size=2)
    needed = counted(run)
    refuse_what_cannot_fit(run, device="cuda", precision="32-true", free=int(0.86 * needed))
    with pytest.raises(LimitError) as refusal:
        refuse_what_cannot_fit(run, device="cuda", precision="32-true", free=int(0.84 * needed))
    assert str(refusal.value) == (
        f"a step of mednext-S on batches of 2 patches of [64, 96, 96] takes about {needed / 1e9:.1f} GB and the GPU "
        f"has {0.84 * needed / 1e9:.1f} GB free: say arch.checkpointing=true, lower training.batch_size "
        "(training.accumulate keeps its effect), or give a smaller training.patch_size (zoo fit mednext-S says what "
        "fits)."
    )


def test_ways_out_that_there_are_not_are_not_named():
    run = make_run({}, model="rsunet", patch_size=[32, 64, 64])
    with pytest.raises(LimitError, match=r"GB free: give a smaller training\.patch_size \(zoo fit rsunet") as refusal:
        refuse_what_cannot_fit(run, device="cuda", precision="32-true", free=10**8)
    assert "checkpointing" not in str(refusal.value)


def test_memory_that_nobody_knows_refuses_nothing(monkeypatch):
    run = make_run({}, patch_size=[512, 2048, 2048], batch_size=64)
    monkeypatch.setattr(fit_run, "available_bytes", lambda: None)
    refuse_what_cannot_fit(run, device="cpu", precision="32-true")
    refuse_what_cannot_fit(run, device="mps", precision="32-true", free=1)


def test_training_that_cannot_fit_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    volume = write_volume(tmp_path / "vol.h5")
    monkeypatch.setattr(fit_run, "available_bytes", lambda: 10**8)
    with pytest.raises(LimitError, match=r"takes about \d+\.\d GB and the CPU has 0\.1 GB free: "):
        train("mednext-S", request(volume), output=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
