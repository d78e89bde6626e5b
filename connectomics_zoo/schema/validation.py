"""A document against its type: a complete spec, or every wrong field in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.base import describe_errors

_Spec = TypeVar("_Spec", bound=BaseModel)


def validate(kind: type[_Spec], document: Mapping[str, Any], *, source: str) -> _Spec:
    """Return `document` as a spec of type `kind`; `source` names it in the error.

    Raises:
        SpecError: it does not follow the schema; the message names every wrong field (five at most).
    """
    if not isinstance(document, Mapping):
        raise SpecError(f"{source}: holds {type(document).__name__}, a spec is a mapping of keys to values.")
    try:
        return kind.model_validate(dict(document))
    except ValidationError as error:
        raise SpecError(f"{source}: {describe_errors(error)}") from None
