"""`zoo compare`: a command as in the help, volumes as they are written there, and a sentence for each mistake."""

from __future__ import annotations

import json

import pytest
from support.prediction import make_run
from support.tiny_training import TINY, write_volume

from connectomics_zoo.errors import SpecError
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.train.added import parse_volume

VOLUME = "image=v.h5:raw,label=v.h5:mito"


@pytest.fixture
def here(tmp_path, monkeypatch):
    write_volume(tmp_path / "v.h5", shape=(20, 32, 32))
    make_run(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("part", ["region=z=13:16,y=0:512", "z=13:16,y=0:512"])
def test_a_part_is_said_along_every_axis(part):
    region = {"z": [13, 16], "y": [0, 512]}
    assert parse_volume(f"{VOLUME},{part}") == {"image": "v.h5:raw", "label": "v.h5:mito", "region": region}
    assert parse_volume(part) == {"region": region}


def test_several_label_volumes_have_names():
    assert parse_volume("image=v.h5:raw,label.mito=m.h5:a,label.er=e.h5:b,annotated=[mito]") == {
        "image": "v.h5:raw",
        "label": {"mito": "m.h5:a", "er": "e.h5:b"},
        "annotated": ["mito"],
    }


@pytest.mark.parametrize("text", ["v.h5:raw", "image", "picture=v.h5", "image=a,image=b"])
def test_what_is_no_volume_is_refused(text):
    with pytest.raises(SpecError, match="is no volume, write image=FILE:DATASET,label=FILE:DATASET"):
        parse_volume(text)


def test_models_are_trained_and_weights_are_scored_in_one_table(run_zoo, here):
    document = {
        "schema_version": 1,
        "name": "tiny",
        "summary": "Small.",
        "model": "mednext-S",
        "task": "mito",
        "data": {},
    }
    recipe = {"patch_size": [16, 32, 32], "batch_size": 1}
    (here / "tiny.yaml").write_text(dump_yaml({**document, "arch": TINY, "training": recipe}))
    options = ["--steps", "1", "--no-memory", "--device", "cpu", "--output", "out"]
    bad = "training.patch_size=[16,32,32]"
    command = ["compare", "tiny.yaml", "./mine", bad, "--data", VOLUME, *options]
    code, out, err = run_zoo(*command)
    assert code == 0
    assert out.splitlines()[0].split()[:3] == ["reference", "Dice,", "test"]
    assert [line.split()[0] for line in out.splitlines()[2:4]] == ["tiny.yaml", "./mine"]
    assert "Scores are of the test data (v.h5:raw z=16:20), which chose nothing." in out
    assert "wrote out/comparison.md, .csv, .json and .png" in err
    code, out, _ = run_zoo(*command, "--json")
    assert code == 0
    assert [row["ref"] for row in json.loads(out)["rows"]] == ["tiny.yaml", "./mine"]

    code, out, err = run_zoo("compare", "mednext-S", *command[1:], "training.max_steps=3")
    assert (code, err.splitlines()[-1]) == (
        2,
        "zoo: training.max_steps is not possible here, the budget is what steps or minutes say: leave it out.",
    )
    (here / "odd.yaml").write_text(dump_yaml({**document, "name": "odd", "task": "membrane"}))
    code, out, _ = run_zoo("compare", "tiny.yaml", "odd.yaml", *command[2:])
    assert code == 1
    assert out.splitlines()[3].split()[:2] == ["odd.yaml", "failed"]
    assert "odd.yaml is of the task membrane, and what is compared is mito: give task=… or compare it by itself." in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "zoo: there is nothing to compare, give models, experiments, run folders or trained weights."),
        (["./mine", "--data", VOLUME, "--steps", "5"], "zoo: all references are trained already, leave out the budget"),
        (["./mine"], "zoo: there is nothing to score on, give a test"),
        (["./mine", "--test", "v.h5"], "zoo: 'v.h5' is no volume"),
        (["./mine", "--test", "image=v.h5:raw,label=v.h5:mit"], "there is no array 'mit', did you mean 'mito'?"),
        (["mednext-S", "task=mito", "--data", VOLUME], "zoo: give one budget for each run: steps (--steps 2000) or"),
        (["mednext-S", "--data", "vnc-mitt", "--steps", "5"], "vnc-mitt"),
        (["mednext-S", "--data", VOLUME, "--steps", "5"], "no task is given, add task=NAME"),
        (["vnc-mito", "--steps", "5"], "the folder of the volumes is not given, add data.root=FOLDER"),
        (["mednext-S.vnc-mito", "--memory"], "the folder of the volumes is not given, add data.root=FOLDER"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_leaves_nothing(run_zoo, here, arguments, message):
    before = sorted(here.iterdir())
    code, out, err = run_zoo("compare", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(here.iterdir()) == before
