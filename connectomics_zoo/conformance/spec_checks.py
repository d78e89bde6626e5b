"""What is promised without a network: files, names, schema, lock, licence, and builders that are light to import."""

from __future__ import annotations

import subprocess
import sys

from connectomics_zoo import catalog
from connectomics_zoo.catalog import Catalog, Entry
from connectomics_zoo.catalog.examine import find_problems
from connectomics_zoo.conformance.subject import Model
from connectomics_zoo.errors import ZooError
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.schema.builder import builder_module
from connectomics_zoo.schema.experiment import ExperimentSpec
from connectomics_zoo.schema.json_schema import violations
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs import releases
from connectomics_zoo.specs.lookup import get_spec, get_task
from connectomics_zoo.specs.resolve import check_arch
from connectomics_zoo.verify.run import verify

HEAVY = ("torch", "lightning")
"""What importing a builder must not load: `zoo list` and `zoo show` answer in the time of reading."""

NO_LICENCE = ("", "todo", "tbd", "none", "unknown", "unlicensed", "?", "-")
"""What stands where a licence should, in small letters."""

_IMPORT = """
import sys
from connectomics_zoo.schema.builder import builder_module
builder_module(sys.argv[1])
print(*[name for name in sys.argv[2:] if name in sys.modules])
"""


def files(home: Catalog) -> list[str]:
    """All that a catalogue has is there, as far as reading tells."""
    return [] if home.is_builtin else find_problems(home)


def light_builder(name: str) -> list[str]:
    """Importing the builder loads nothing heavy, in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, name, *HEAVY], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        return [f"the builder {name!r} cannot be imported: {said.partition(': ')[2] or said}"]
    if done.stdout.strip():
        loaded = ", ".join(done.stdout.split())
        return [f"importing the builder {name!r} loads {loaded}: import it within build(), as specs are read without."]
    return []


def builder_schema(name: str) -> list[str]:
    """The builder is one, and its `Config` has a JSON Schema."""
    builder_module(name).Config.model_json_schema()
    return []


def schema(model: Model) -> list[str]:
    """The file follows the schema, its place says its name, and sizes and outputs follow from `arch`."""
    (report,) = verify([f"{model.entry.catalog.name}:{_reference(model)}"], level="schema").models
    locked = {difference.path for difference in _unlike_release(model)} if report.version else set()
    return [f"{model.name}: {check.describe()}" for check in report.failures if check.path not in locked]


def _reference(model: Model) -> str:
    """The name, with the version of one that is not current."""
    return model.entry.name if model.entry.version is None else f"{model.entry.name}@{model.entry.version}"


def lock(model: Model) -> list[str]:
    """The network is what was released under its name and version."""
    return [
        f"{model.name}: {item.path} is {item.declared!r} and was released as {item.released!r}; {item.note}"
        for item in _unlike_release(model)
    ]


def _unlike_release(model: Model) -> list[releases.ReleaseDifference]:
    return releases.check(model.spec, home=model.entry.catalog)


def own_name(entry: Entry) -> list[str]:
    """No other catalogue has a spec of that name, which all would then have to write with the catalogue in front."""
    others = [
        item.catalog.owner
        for item in catalog.entries(entry.kind)
        if item.name == entry.name and item.catalog != entry.catalog and item.version is None
    ]
    return [
        f"the {entry.kind} {entry.name!r} of {entry.catalog.owner} has the name of one of {owner}: rename it, or users "
        f"must write {entry.catalog.name}:{entry.name}."
        for owner in others
    ]


def licence(model: Model) -> list[str]:
    """Whose the network is, under which licence, and how to cite it, is said; of trained weights too."""
    source, problems = model.spec.source, []
    if source.license.strip().lower() in NO_LICENCE:
        problems.append(f"{model.name}: source.license is {source.license!r}, name the licence of the network's code.")
    if source.bibtex is None:
        problems.append(f"{model.name}: source.bibtex is missing, say how the network is cited.")
    problems += [
        f"{model.name}: weights.{tag}.license is {entry.license!r}, name the licence of the weights."
        for tag, entry in model.spec.weights.items()
        if entry.license.strip().lower() in NO_LICENCE
    ]
    return problems


def task(entry: Entry) -> list[str]:
    """The task follows its schema, in pydantic and in JSON Schema, and is called as its file."""
    return _named(entry, validate(TaskSpec, read_yaml(entry.path), source=entry.path.name).name)


def experiment(entry: Entry) -> list[str]:
    """The experiment follows its schema, and its model and task are there and take what it changes."""
    spec = validate(ExperimentSpec, read_yaml(entry.path), source=entry.path.name)
    problems = _named(entry, spec.name)
    try:
        get_spec(spec.model)
        get_task(spec.task)
        check_arch(spec)
    except ZooError as error:
        problems.append(f"{entry.name}: {error}")
    return problems


def _named(entry: Entry, name: str) -> list[str]:
    problems = [
        f"{entry.name}: {path or 'the file'}: {message}"
        for path, message in violations(entry.kind, read_yaml(entry.path))
    ]
    if name != entry.name:
        problems.append(f"{entry.path.name}: its name is {name!r}, call the file {name}.yaml.")
    return problems
