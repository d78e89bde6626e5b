"""The base of every spec type: strict, frozen, documented; plus the value types that several specs share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from connectomics_zoo.errors import nearest
from connectomics_zoo.schema.limits import MAX_EDGE
from connectomics_zoo.schema.report import Page, facts


class Node(BaseModel):
    """Base class: unknown keys are errors, nothing is coerced, NaN is refused, instances are frozen."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        defer_build=True,  # a command reads one kind of spec, and should not wait for the others
    )

    def _page(self) -> Page:
        """Return what a notebook shows: the fields as a table, or what a kind of spec has better to show."""
        return Page("", "", "", facts(self.model_dump(mode="json", exclude_none=True)))

    def _repr_html_(self) -> str:
        return self._page().to_html()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return self._page().bundle()

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_keys(cls, value: Any) -> Any:
        """Refuse unknown keys here, where the known ones are at hand; `extra="forbid"` says it to the JSON Schema."""
        unknown = [key for key in value if key not in cls.model_fields] if isinstance(value, dict) else []
        if unknown:
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    InitErrorDetails(
                        type=PydanticCustomError(
                            "unknown_key", "unknown key, {nearest}", {"nearest": nearest(str(key), cls.model_fields)}
                        ),
                        loc=(str(key),),
                        input=value[key],
                    )
                    for key in unknown
                ],
            )
        return value


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
"""A name: a letter, then at most 63 letters, digits, `_` or `-`."""

Version = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})$")]
"""A semantic version `major.minor.patch`."""

Sentence = Annotated[str, StringConstraints(min_length=1, max_length=400)]

Sha256 = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]

_NO_REPO = r"\.git$|[^/]{97}"
"""What the Hub does not take although it is of the form `org/name`."""


def _known_to_the_hub(repo: str) -> str:
    if re.search(_NO_REPO, repo):
        raise PydanticCustomError("repository", "must not end in .git, nor have a part of more than 96 characters")
    return repo


RepoId = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9_]|[.-][A-Za-z0-9_]){0,95}/[A-Za-z0-9](?:[A-Za-z0-9_]|[.-][A-Za-z0-9_]){0,95}$"
    ),
    AfterValidator(_known_to_the_hub),
    Field(json_schema_extra={"not": {"pattern": _NO_REPO}}),
]
"""A repository on the Hugging Face Hub: `org/name`."""

Revision = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
"""A commit: 40 hexadecimal digits."""

_Edge = Annotated[int, Field(ge=1, le=MAX_EDGE)]

Size = Annotated[tuple[_Edge, ...], Strict(False), Field(min_length=2, max_length=3)]
"""Voxels per axis, (z, y, x), or (y, x) for a 2-D network."""

Shape = Annotated[
    tuple[Annotated[int, Field(ge=1, le=MAX_EDGE)], ...], Strict(False), Field(min_length=4, max_length=5)
]
"""A tensor's shape (B, C, Z, Y, X), or (B, C, Y, X) for a 2-D network."""


def describe_errors(error: ValidationError) -> str:
    """Return pydantic's findings as one line: `arch.kernel_size: … (got 4); …`, at most five of them."""
    findings = []
    for item in error.errors(include_url=False)[:5]:
        path = readable_path(item["loc"])
        given = item.get("input")
        is_list_wanted = item["type"] in ("tuple_type", "list_type")
        message = _list_wanted(given) if is_list_wanted else item["msg"].removeprefix("Value error, ")
        silent = item["type"] in ("missing", "unknown_key") or isinstance(given, dict)
        shown = "" if silent else f" (got {_short(given)})"
        findings.append(f"{path}: {message}{shown}" if path else f"{message}{shown}")
    more = error.error_count() - len(findings)
    return "; ".join(findings) + (f"; and {more} more" if more > 0 else "")


def _list_wanted(given: Any) -> str:
    """Say how to write the list that `given` is not."""
    if isinstance(given, str) and "," in given:
        return f"must be a list, write [{', '.join(part.strip() for part in given.split(','))}]"
    return "must be a list, such as [16, 32, 32]" if isinstance(given, int | float) else "must be a list"


def readable_path(location: Iterable[int | str]) -> str:
    """Return a location as it reads in a spec: `outputs[1].stride`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith(("function-", "tuple[", "list[")):
            path += f".{part}" if path else part
    return path


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
