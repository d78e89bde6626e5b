"""What a reference is: a name in a catalogue, a place on the Hub, a YAML file or a run folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, NoReturn

from pydantic import TypeAdapter, ValidationError

from connectomics_zoo import catalog
from connectomics_zoo.errors import UnknownNameError, WeightsError
from connectomics_zoo.files.safetensors import PICKLES
from connectomics_zoo.hub import HubReference
from connectomics_zoo.schema.base import RepoId

_REFERENCE = re.compile(
    r"^(?:(?P<catalog>[A-Za-z][\w-]*):)?(?P<name>[A-Za-z][\w-]*)(?:@(?P<version>\d+\.\d+\.\d+))?(?:\.(?P<tag>[A-Za-z][\w-]*))?$"
)


_HUB = re.compile(
    r"^hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[A-Za-z0-9][\w.%-]{0,120}))?"
    r"(?:/(?P<file>[A-Za-z0-9][\w.-]{0,120}))?$"
)


_REPO = TypeAdapter(RepoId)


class Reference(NamedTuple):
    """A parsed reference: `path` (a YAML file or a run folder), `hub` (a repository there), or a catalogue name."""

    text: str
    name: str = ""
    catalog: str | None = None
    version: str | None = None
    tag: str | None = None
    path: Path | None = None
    hub: HubReference | None = None

    def at(self, hub: HubReference) -> Reference:
        """Return the reference to another commit or file of the repository."""
        return self._replace(text=str(hub), hub=hub)


def parse_reference(text: str | Path | Reference) -> Reference:
    """Return what `text` refers to; what is parsed already is returned as it is.

    A text is `name`, `name@1.0.0`, `name.tag`, `catalog:name`, `hf://org/repo@revision`, a YAML file or a run folder. A
    text with a path separator or the suffix `.yaml` is a path; anything else is a name.

    Raises:
        UnknownNameError: it is none of them, or both a name in a catalogue and a folder here.
        WeightsError: it is a weights file, which does not say of what network.
    """
    if isinstance(text, Reference):
        return text
    if isinstance(text, str) and text.startswith("hf:"):
        return Reference(text=text, hub=_parse_hub(text))
    path = Path(text)
    text = str(text)
    if path.suffix in (".safetensors", *PICKLES) and is_there(path) and path.is_file():
        _refuse_file(text, is_pickle=path.suffix in PICKLES)
    if "/" in text or "\\" in text or text in (".", "..") or path.suffix in (".yaml", ".yml"):
        if not is_there(path):
            raise UnknownNameError(f"{text!r} does not exist, give a YAML file, a run folder or the name of a model.")
        return Reference(text=text, path=path)
    match = _REFERENCE.match(text)
    if match is None:
        raise UnknownNameError(
            f"{text!r} is no reference, write name, name@1.0.0, name.tag, catalog:name, a path to a YAML file or a "
            "run folder."
        )
    if is_there(path) and path.is_dir():
        if match["name"] not in catalog.names_of("model"):
            return Reference(text=text, path=path)
        raise UnknownNameError(
            f"{text!r} is a model and a folder here, write ./{text} or {_home(match['name'])}:{text}."
        )
    return Reference(text, match["name"], match["catalog"], match["version"], match["tag"])


def _refuse_file(text: str, *, is_pickle: bool) -> NoReturn:
    """Say what to do with weights that come without the spec of their network."""
    if is_pickle:
        raise WeightsError(
            f"{text}: is a pickle, which can run code when it is read, and is not loaded: make safetensors of it with "
            "zoo convert."
        )
    raise WeightsError(
        f"{text}: is a weights file alone, which does not say of what network: give the folder with its spec.yaml, or "
        "start from it with init_from."
    )


def is_there(path: Path) -> bool:
    """Return whether there is a file or folder at `path`, any text; what the system refuses is not there."""
    try:
        return path.exists()
    except OSError:  # a name that is too long, a folder that must not be read
        return False


def _parse_hub(text: str) -> HubReference:
    match = _HUB.match(text)
    try:
        return HubReference(_REPO.validate_python(match["repo"] if match else ""), match["revision"], match["file"])  # type: ignore[index]
    except ValidationError:
        raise UnknownNameError(
            f"{text!r} is no reference to the Hub, write hf://org/repo@revision, or "
            "hf://org/repo@revision/file.safetensors where it has several."
        ) from None


def _home(name: str) -> str:
    return next(entry.catalog.name for entry in catalog.entries("model") if entry.name == name)
