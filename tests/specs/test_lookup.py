"""References: every form means one spec, and what is unknown or ambiguous is an error that says what to write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from pydantic import ValidationError
from support.tiny_training import make_run

from connectomics_zoo import catalog
from connectomics_zoo.errors import SpecError, UnknownNameError, WeightsError, nearest
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.runs.folder import SPEC_FILE, get_run
from connectomics_zoo.runs.portable import check_portable
from connectomics_zoo.schema.experiment import DataSpec, ExperimentSpec, PredictionSpec, RunSpec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.specs.lookup import find_spec, get_experiment, get_spec, get_task, spec_path
from connectomics_zoo.specs.reference import parse_reference
from connectomics_zoo.specs.resolve import resolve_model

S_FILE = catalog.find("model", "mednext-S").path


@pytest.fixture
def run_folder(tmp_path):
    model = get_spec("mednext-S")
    run = RunSpec(
        schema_version=1,
        kind="run",
        name="my-run",
        model=model,
        task=get_task("mito"),
        data=DataSpec(),
        training=model.training,
        prediction=PredictionSpec(window=model.training.patch_size),
    )
    folder = tmp_path / "runs" / "my-run"
    folder.mkdir(parents=True)
    (folder / SPEC_FILE).write_text(dump_yaml(run.model_dump(mode="json")))
    return folder


EXPERIMENT = "{schema_version: 1, name: mine, summary: Mine., model: mednext-S, task: mito, data: {root: '???'}}"


@pytest.mark.parametrize("text", ["mednext-S", "mednext-S@1.0.0", "zoo:mednext-S", "zoo:mednext-S@1.0.0", str(S_FILE)])
def test_every_form_of_a_reference_means_the_same_spec(text):
    spec = get_spec(text)
    assert isinstance(spec, ModelSpec)
    assert spec.reference == "mednext-S@1.0.0"


def test_a_spec_is_a_reference_to_itself():
    spec = get_spec("mednext-S")
    assert get_spec(spec) is spec


def test_the_parts_of_a_reference_are_told_apart():
    assert parse_reference("zoo:mednext-S@1.0.0.mito")[1:] == ("mednext-S", "zoo", "1.0.0", "mito", None, None)
    assert parse_reference("mednext-S.vnc-mito")[1:] == ("mednext-S", None, None, "vnc-mito", None, None)


@pytest.mark.parametrize(
    ("text", "parts", "is_pinned"),
    [
        ("hf://org/repo", ("org/repo", None, None), False),
        ("hf://org/repo@v1.0", ("org/repo", "v1.0", None), False),
        (f"hf://org/repo@{'a' * 40}", ("org/repo", "a" * 40, None), True),
        (f"hf://o-r.g/re_po@{'0' * 40}/ema.safetensors", ("o-r.g/re_po", "0" * 40, "ema.safetensors"), True),
        (f"hf://org/repo@{'a' * 39}", ("org/repo", "a" * 39, None), False),
    ],
)
def test_a_repository_on_the_hub_is_a_reference(text, parts, is_pinned):
    hub = parse_reference(text).hub
    assert hub == parts
    assert hub.is_pinned == is_pinned
    assert str(hub) == text


ELSEWHERE = [
    "/data/a.h5:raw",
    "../a.h5:raw",
    "b/../../a.h5:raw",
    "~/a.h5",
    "C:\\a.h5",
    "\\\\server\\a.h5",
    "s3://bucket/a.zarr",
]


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_run_from_elsewhere_may_not_name_places_of_this_machine(place):
    pair = {"image": place, "label": "a.h5:mito"}
    with pytest.raises(SpecError, match=r"^there: names the place .*below data\.root alone"):
        check_portable(make_run({"train": [pair]}), source="there")


def test_a_run_from_elsewhere_may_not_name_its_root():
    with pytest.raises(SpecError, match=r"names the place '/home'"):
        check_portable(make_run({"root": "/home"}), source="there")
    pair = {"image": "sub/a..b.h5:raw", "label": "a.h5:mito"}
    check_portable(make_run({"root": "???", "validation": [pair]}), source="there")


def test_a_path_may_be_relative_and_without_a_folder(tmp_path, monkeypatch):
    shutil.copy(S_FILE, tmp_path / "my.yaml")
    monkeypatch.chdir(tmp_path)
    assert get_spec("my.yaml").name == "mednext-S"
    assert get_spec("./my.yaml").name == "mednext-S"
    assert spec_path(parse_reference("my.yaml")).name == "my.yaml"


def test_a_run_folder_is_a_reference_to_its_model(run_folder, monkeypatch):
    assert get_spec(run_folder).name == "mednext-S"
    assert get_spec(run_folder / SPEC_FILE).name == "mednext-S"
    assert get_run(run_folder).name == "my-run"
    monkeypatch.chdir(run_folder.parent)
    assert get_spec("my-run").name == "mednext-S"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MedNext-s", r"unknown model 'MedNext-s': did you mean 'mednext-S'"),
        ("mednet_s", r"unknown model 'mednet_s': did you mean 'mednext-S'"),
        ("mednext-S@9.9.9", r"model 'mednext-S' has no version '9.9.9'"),
        ("mednext-S@1.0", r"'mednext-S@1.0' is no reference, write name, name@1.0.0, name.tag, catalog:name"),
        ("zo:mednext-S", r"unknown catalogue 'zo': did you mean 'zoo'"),
        ("mednext S", r"'mednext S' is no reference"),
        ("", r"'' is no reference"),
        ("none.yaml", r"'none.yaml' does not exist, give a YAML file, a run folder or the name of a model"),
        ("runs/none", r"'runs/none' does not exist"),
        ("hf://org", r"'hf://org' is no reference to the Hub, write hf://org/repo@revision"),
        ("hf://org/../secret", r"is no reference to the Hub"),
        ("hf://org/repo@main/../x", r"is no reference to the Hub"),
        ("hf:/org/repo", r"is no reference to the Hub"),
    ],
)
def test_a_wrong_reference_is_an_error_that_says_what_to_write(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError, match=message):
        get_spec(text)


def test_a_folder_without_a_spec_is_no_run(tmp_path):
    with pytest.raises(UnknownNameError, match=rf"is a folder without {SPEC_FILE}, a run folder has one"):
        get_spec(tmp_path)
    with pytest.raises(UnknownNameError, match=rf"is no run folder: it has no {SPEC_FILE}"):
        get_run(tmp_path)


def test_a_name_that_is_also_a_folder_must_say_which(tmp_path, monkeypatch):
    (tmp_path / "mednext-S").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError, match=r"is a model and a folder here, write ./mednext-S or zoo:mednext-S"):
        get_spec("mednext-S")
    assert get_spec("zoo:mednext-S").name == "mednext-S"


def test_a_name_in_two_catalogues_must_say_which(add_spec):
    add_spec("mednext-S", {"summary": "The other one."})
    with pytest.raises(SpecError, match=r"'mednext-S' is in several catalogues: write zoo:mednext-S or other:med"):
        get_spec("mednext-S")
    assert get_spec("other:mednext-S").summary == "The other one."
    assert get_spec("zoo:mednext-S").summary != "The other one."


def test_a_name_in_the_second_catalogue_alone_needs_no_catalogue(add_spec):
    add_spec("mednext-XS")
    assert get_spec("mednext-XS").name == "mednext-XS"


def test_an_older_version_lies_beside_the_current_one(add_spec):
    add_spec("mednext-XS", {"version": "2.0.0", "changes": {"2.0.0": "New."}})
    add_spec("mednext-XS@1.0.0", {"summary": "The old one."})
    assert get_spec("mednext-XS").version == "2.0.0"
    assert get_spec("mednext-XS@2.0.0").version == "2.0.0"
    assert get_spec("mednext-XS@1.0.0").summary == "The old one."
    with pytest.raises(UnknownNameError, match=r"'mednext-XS' has no version '3.0.0': .*'?1.0.0"):
        get_spec("mednext-XS@3.0.0")


def test_a_spec_that_breaks_its_schema_names_the_file_and_the_field(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(S_FILE.read_text().replace("builder: mednext", "builder: mednxt"))
    with pytest.raises(
        SpecError, match=r"bad.yaml: .*unknown builder 'mednxt': did you mean 'mednext'.*of another package, install"
    ):
        get_spec(path)
    path.write_text(S_FILE.read_text().replace("family: mednext", "family: [mednext]"))
    with pytest.raises(SpecError, match=r"bad.yaml: family: Input should be a valid string"):
        get_spec(path)


def test_tasks_and_experiments_go_by_name_and_by_path(tmp_path):
    assert get_task("mito").name == "mito"
    assert get_task(catalog.find("task", "mito").path).name == "mito"
    path = tmp_path / "mine.yaml"
    path.write_text(EXPERIMENT)
    assert get_experiment(path).model == "mednext-S"
    with pytest.raises(UnknownNameError, match=r"unknown task 'mitos': did you mean 'mito'"):
        get_task("mitos")


def test_the_kind_of_a_reference_is_found_out(tmp_path, run_folder):
    path = tmp_path / "mine.yaml"
    path.write_text(EXPERIMENT)
    assert isinstance(find_spec("mednext-S"), ModelSpec)
    assert isinstance(find_spec("mednext-S@1.0.0"), ModelSpec)
    assert isinstance(find_spec("mito"), TaskSpec)
    assert isinstance(find_spec(str(path)), ExperimentSpec)
    assert isinstance(find_spec(str(run_folder)), RunSpec)
    assert isinstance(find_spec(str(run_folder / SPEC_FILE)), RunSpec)
    assert isinstance(find_spec(str(run_folder), kind="model"), ModelSpec)


def test_a_name_of_two_kinds_must_say_which(add_spec):
    add_spec("twice")
    add_spec("twice", {"summary": "A task."}, kind="task")
    with pytest.raises(SpecError, match=r"'twice' is a model and a task, say which with --kind model"):
        find_spec("twice")
    assert isinstance(find_spec("twice", kind="task"), TaskSpec)
    assert isinstance(find_spec("twice", kind="model"), ModelSpec)


def test_what_is_no_spec_of_any_kind_is_an_error(tmp_path):
    path = tmp_path / "compose.yaml"
    path.write_text("services: {}")
    with pytest.raises(SpecError, match=r"compose.yaml: no model, task or experiment .*, is it a spec\?"):
        find_spec(str(path))
    with pytest.raises(UnknownNameError, match=r"unknown model, task or experiment 'mitto': did you mean 'mito'"):
        find_spec("mitto")


def test_resolving_raises_the_patch_to_a_legal_one_and_keeps_an_unchanged_network():
    spec = resolve_model("mednext-S", arch={"kernel_size": 3})
    assert spec.expect is not None
    flat = resolve_model("mednext-S", arch={"spatial_dims": 2})
    assert flat.input.size.allows(flat.training.patch_size)


def test_every_builtin_spec_is_called_after_its_file_and_lies_in_its_family():
    models = [entry for entry in catalog.entries("model") if entry.catalog.name == "zoo"]
    assert len(models) >= 8
    for entry in models:
        spec = get_spec(entry.path)
        assert (spec.name, spec.family) == (entry.name, entry.family)


@pytest.mark.parametrize(
    ("name", "known", "help_text"),
    [
        ("mednext_s", ["mednext-S", "rsunet"], "did you mean 'mednext-S'?"),
        ("RSUNET", ["mednext-S", "rsunet"], "did you mean 'rsunet'?"),
        ("zzz", ["b", "a"], "known are a, b."),
        ("zzz", [], "none is known."),
        ("zzz", [f"n{n:02}" for n in range(20)], f"known are {', '.join(f'n{n:02}' for n in range(12))} and 8 more."),
    ],
)
def test_the_nearest_names_are_offered_in_any_case(name, known, help_text):
    assert nearest(name, known) == help_text


def test_an_unknown_version_is_answered_with_the_known_one():
    with pytest.raises(UnknownNameError, match=r"'mednext-S' has no version '9\.9\.9': known are 1\.0\.0"):
        get_spec("mednext-S@9.9.9")


def test_a_tag_that_the_model_has_no_weights_of_is_refused():
    with pytest.raises(WeightsError, match="mednext-M has no trained weights"):
        get_spec("mednext-M.vnc-mito")
    with pytest.raises(WeightsError, match="mednext-S has no weights 'vnc-mitos': did you mean 'vnc-mito'"):
        get_spec("mednext-S.vnc-mitos")


def test_tasks_and_experiments_take_their_catalogue_in_front():
    assert get_task("zoo:mito") == get_task("mito")
    assert get_experiment("zoo:vnc-mito") == get_experiment("vnc-mito")
    with pytest.raises(UnknownNameError, match="unknown catalogue 'zooo': did you mean 'zoo'"):
        get_task("zooo:mito")
    assert find_spec("zoo:mito") == get_task("mito")


DISTRIBUTION = "thirdparty 1.0"


def _installed(folder, entry_points):
    """Announce catalogues in `folder` as an installed distribution does."""
    information = folder / "thirdparty-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    lines = [f"{name} = {package}" for name, package in entry_points.items()]
    (information / "entry_points.txt").write_text("\n".join([f"[{catalog.GROUP}]", *lines]))


def _zoo_with(folder, *args):
    code = "from connectomics_zoo.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("package", ["gone_zoo", "gone_parent.zoo", "json.decoder", "os.path.zoo", "package:attribute"])
def test_a_catalogue_whose_package_is_gone_is_left_out_with_a_sentence(tmp_path, package):
    _installed(tmp_path, {"stale": package})
    result = _zoo_with(tmp_path, "show", "mednext-S", "--yaml")
    assert result.returncode == 0
    assert result.stdout.startswith("schema_version: 1\nname: mednext-S\n")
    assert result.stderr == (
        f"zoo: the catalogue 'stale' of the package '{DISTRIBUTION}' is left out: its package '{package}' cannot be "
        "found, reinstall or uninstall it.\n"
    )


def test_a_stale_catalogue_takes_no_other_with_it_and_nothing_is_imported(tmp_path):
    _installed(tmp_path, {"stale": "gone.zoo", "good": "parent.zoo"})
    (tmp_path / "parent" / "zoo" / "specs" / "tasks").mkdir(parents=True)
    for package in ("parent", "parent/zoo"):
        (tmp_path / package / "__init__.py").write_text(
            "raise RuntimeError('a catalogue is found without importing it')"
        )
    shutil.copy(catalog.find("task", "mito").path, tmp_path / "parent" / "zoo" / "specs" / "tasks" / "other.yaml")
    result = _zoo_with(tmp_path, "list", "--kind", "task", "good:*")
    assert result.returncode == 0
    assert result.stdout.splitlines()[2].startswith("other  mitochondria")
    assert result.stderr.count("\n") == 1


def test_a_run_from_before_argmax_refused_a_threshold_loads():
    document = make_run({"train": [{"image": "a.h5:raw", "label": "a.h5:mito"}]}).model_dump(mode="json")
    document["task"] = get_task("binary").model_dump(mode="json", exclude_none=True)
    document["task"]["decode"]["threshold"] = 0.5
    assert RunSpec.model_validate(document).task == get_task("binary")
    with pytest.raises(ValidationError, match="threshold has no effect with method 'argmax'"):
        TaskSpec.model_validate(document["task"])


def test_parity_is_not_read_of_new_numbers():
    task = get_task("synapse-polarity").model_dump(mode="json", exclude_none=True)
    with pytest.raises(ValidationError, match="labels whose parity presynapse and postsynapse read"):
        TaskSpec.model_validate({**task, "labels": {"relabel": True}})


@pytest.mark.parametrize("place", ["", "folder/"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.safetensors", "is a weights file alone, which does not say of what network: give the folder"),
        ("x.pt", "is a pickle, which can run code when it is read, and is not loaded: make safetensors of it"),
        ("x.ckpt", "is a pickle"),
    ],
)
def test_a_weights_file_is_no_reference_and_the_error_says_what_to_do(tmp_path, monkeypatch, place, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / place / name).write_bytes(b"anything")
    with pytest.raises(WeightsError, match=message):
        parse_reference(f"{place}{name}")
