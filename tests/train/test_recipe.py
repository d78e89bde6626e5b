"""The recipe of trained weights, which a run that starts from them takes without being told."""

from __future__ import annotations

import h5py
import pytest
from support.tiny_training import request, write_volume

from connectomics_zoo.errors import SpecError, VolumeError, WeightsError
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.runs.folder import get_run, run_text
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.specs.overrides import parse_overrides
from connectomics_zoo.train import train
from connectomics_zoo.train.resolve import resolve_run

OWN = "mednext-S.vnc-membrane"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the volumes a.h5, b.h5 and c.h5, and the run `first`, of a recipe like no default."""
    folder = tmp_path_factory.mktemp("place")
    for seed, name in enumerate("abc"):
        write_volume(folder / f"{name}.h5", shape=(20, 80, 80), seed=seed)
        with h5py.File(folder / f"{name}.h5", "r+") as file:
            for dataset in file.values():
                dataset.attrs["voxel_size_nm"] = [50.0, 8.0, 8.0]
    changes = request(folder / "a.h5", max_steps=8, validate_every=4, warmup_steps=4, ema_decay=0.5, batch_size=2)
    changes |= {"threshold": 0.35, "prediction": {"views": "flips"}}
    changes["data"] |= {"downsample": [1, 2, 2], "intensity_range": [20, 240], "unlabelled": 255}
    train("mednext-S", changes, output=folder / "first", device="cpu")
    return folder


def on(volume, *more):
    return parse_overrides([f"data.train.image={volume}:raw", f"data.train.label={volume}:mito", *more])


def test_other_volumes_are_trained_on_as_the_weights_were(place):
    before, told = get_run(place / "first"), []
    run = resolve_run(place / "first", on(place / "b.h5"), notify=told.append)
    assert (run.model.arch, run.task, run.prediction) == (before.model.arch, before.task, before.prediction)
    assert run.task.decode.threshold == 0.35
    assert run.init_from == str(place / "first")
    assert [pair.image for pair in run.data.train] == [f"{place}/b.h5:raw"]
    assert not run.data.validation
    assert (run.data.network_voxel_nm, run.data.intensity_range) == ((50, 16, 16), (20, 240))
    assert run.data.unlabelled is None  # which says something of those labels alone
    kept = ("patch_size", "batch_size", "ema_decay", "augmentation", "precision", "schedule", "learning_rate")
    assert all(getattr(run.training, name) == getattr(before.training, name) for name in kept)
    assert run.training.loaded_learning_rate == pytest.approx(before.training.learning_rate / 10)
    assert (run.training.max_steps, run.training.validate_every, run.training.warmup_steps) == (2, 1, 0)
    assert len(told) == 1
    assert told[0].startswith(
        f"takes the recipe of {place / 'first'}: task mito with the threshold 0.35, patches of 16 x"
    )
    assert "grey values 20 to 240; 2 steps (its own training had 8), learning rate 0.0001 for what is loaded" in told[0]


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("training.max_steps=100", "training.max_steps", 100),
        ("training.max_steps=100", "training.validate_every", 10),
        ("training.max_steps=100", "training.warmup_steps", 4),
        ("training.validate_every=7", "training.validate_every", 7),
        ("training.learning_rate=0.02", "training.learning_rate", 0.02),
        ("training.learning_rate=0.02", "training.loaded_learning_rate", None),
        ("training.loaded_learning_rate=0.02", "training.loaded_learning_rate", 0.02),
        ("training.patch_size=[16,48,48]", "training.patch_size", (16, 48, 48)),
        ("training.patch_size=[16,48,48]", "prediction.window", (16, 48, 48)),
        ("threshold=0.6", "task.decode.threshold", 0.6),
        ("task=membrane", "task", get_task("membrane")),
        ("task=mito", "task.decode.threshold", 0.35),
        ("arch.kernel_size=5", "model.arch.kernel_size", 5),
        ("data.intensity_range=null", "data.intensity_range", None),
        ("data.unlabelled=7", "data.unlabelled", 7),
        ("prediction.views=one", "prediction.views", "one"),
        ("init_from=null", "init_from", None),
        ("init_from=null", "training.max_steps", 8),
        ("init_from=null", "training.loaded_learning_rate", None),
    ],
)
def test_what_is_given_wins(place, override, name, value):
    found = resolve_run(place / "first", on(place / "b.h5", override))
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value


def test_what_was_fine_tuned_is_so_again_with_the_same_steps_and_rates(place, tmp_path):
    folder = train(place / "first", on(place / "b.h5"), output=tmp_path / "second", device="cpu").folder
    before = get_run(folder)
    again = resolve_run(folder, on(place / "c.h5"))
    assert again.training == before.training
    assert before.training.max_steps == 2


def test_shipped_weights_bring_theirs(tmp_path):
    volume = write_volume(tmp_path / "v.h5", shape=(16, 300, 300))
    run = resolve_run(OWN, on(volume, "data.voxel_size_nm=[50,4.6,4.6]"))
    assert (run.task.name, run.task.decode.threshold, run.init_from) == ("membrane", 0.35, OWN)
    assert run.data.network_voxel_nm == pytest.approx((50, 9.2, 9.2))
    assert run.training.patch_size == run.prediction.window == (16, 128, 128)
    assert (run.data.root, run.data.license, run.data.attribution) == (None, None, None)
    assert run.name == "mednext-S"


def test_weights_whose_volumes_are_elsewhere_ask_for_others(monkeypatch):
    with pytest.raises(SpecError, match=rf"{OWN}: the volumes that it was trained on are not known here, give others"):
        resolve_run(OWN, {})
    with pytest.raises(WeightsError, match=r"mednext-S has no weights 'vnc-mitos': did you mean 'vnc-mito'"):
        resolve_run("mednext-S.vnc-mitos", {})
    monkeypatch.setattr("connectomics_zoo.weights.pretrained.run_in", lambda _: None)
    with pytest.raises(SpecError, match=rf"no recipe to take: train the model 'mednext-S' itself, init_from={OWN}"):
        resolve_run(OWN, {})


# More volumes -------------------------------------------------------------------------------------------------------


def pairs(run):
    return [pair.model_dump(mode="json", exclude_unset=True) for pair in run.data.train]


def test_a_volume_is_added_to_those_of_the_run(place, tmp_path):
    before = get_run(place / "first")
    (tmp_path / "more.yaml").write_text(dump_yaml({"image": f"{place}/c.h5:raw", "label": f"{place}/c.h5:mito"}))
    text = f"image={place}/b.h5:raw,label={place}/b.h5:mito,z=2:12,x=0:64"
    run = resolve_run(place / "first", {}, add=[text, str(tmp_path / "more.yaml")])
    assert pairs(run)[:1] == pairs(before)
    assert pairs(run)[1:] == [
        {"image": f"{place}/b.h5:raw", "label": f"{place}/b.h5:mito", "region": {"z": [2, 12], "x": [0, 64]}},
        {"image": f"{place}/c.h5:raw", "label": f"{place}/c.h5:mito"},
    ]
    assert run.data.validation == before.data.validation
    assert (run.data.unlabelled, run.data.intensity_range) == (255, (20, 240))


def test_an_added_volume_may_have_other_voxels(place, tmp_path):
    path = write_volume(tmp_path / "fine.h5", shape=(20, 160, 160))
    with h5py.File(path, "r+") as file:
        for dataset in file.values():
            dataset.attrs["voxel_size_nm"] = [50.0, 5.0, 5.0]
    run = resolve_run(place / "first", {}, add=[f"image={path}:raw,label={path}:mito"])
    assert run.data.network_voxel_size_nm == (50, 16, 16)
    assert run.data.downsample == (1, 1, 1)
    run = resolve_run(place / "first", {"data": {"downsample": [1, 2, 2]}})
    assert (run.data.network_voxel_size_nm, run.data.downsample) == (None, (1, 2, 2))


def test_a_volume_is_looked_for_here_and_then_in_the_folder_of_the_others(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    (tmp_path / "first").mkdir()
    run = get_run("first")
    here = run.model_copy(update={"data": run.data.model_copy(update={"root": str(place), "validation": ()})})
    document = run_text(here).replace(f"{place}/a.h5", "a.h5")
    (tmp_path / "first" / "spec.yaml").write_text(document)
    write_volume(tmp_path / "d.h5")
    monkeypatch.chdir(tmp_path)
    for name, found in (("d", f"{tmp_path}/d.h5:raw"), ("b", "b.h5:raw")):
        changes = parse_overrides(["data.voxel_size_nm=[50,8,8]"])
        run = resolve_run(tmp_path / "first", changes, add=[f"image={name}.h5:raw,label={name}.h5:mito"])
        assert [pair.image for pair in run.data.train] == ["a.h5:raw", found]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("vol.h5:raw", SpecError, r"--add vol\.h5:raw: is no volume with labels, write image=vol\.h5:raw,label=FILE"),
        ("image=vol.h5:raw", SpecError, r"--add image=vol\.h5:raw: .*label"),
        ("image=a.h5:raw,label=a.h5:mito,colour=red", SpecError, r"colour"),
        ("image=a.h5:raw,label=a.h5:mito,z=4:4", VolumeError, r"the region 'z=4:4' is empty"),
        ("missing.yaml", SpecError, r"missing\.yaml"),
    ],
)
def test_what_is_no_volume_is_not_added(place, text, error, message):
    with pytest.raises(error, match=message) as caught:
        resolve_run(place / "first", {}, add=[text])
    assert "\n" not in str(caught.value)


def test_a_resumed_run_gets_no_volume(place):
    with pytest.raises(SpecError, match=r"--add begins a new run and --resume goes on with .*first, leave out one"):
        train(place / "first", add=["image=a.h5:raw,label=a.h5:mito"], resume=True)


def test_the_command_line_starts_from_a_run_with_one_volume_more(run_zoo, place, tmp_path):
    code, out, err = run_zoo(
        "train",
        str(place / "first"),
        "training.max_steps=1",
        "--add",
        f"image={place}/b.h5:raw,label={place}/b.h5:mito",
        "--output",
        str(tmp_path / "run"),
    )
    assert code == 0
    assert f"zoo: takes the recipe of {place / 'first'}: " in err
    assert out.startswith(f"{tmp_path}/run: 1 steps")
    run = get_run(tmp_path / "run")
    assert (len(run.data.train), run.init_from) == (2, str(place / "first"))
