"""Packages that only some formats need."""

from __future__ import annotations

import importlib
from typing import Any

from connectomics_zoo.errors import MissingPackageError


def optional_package(name: str, *, extra: str, location: object) -> Any:
    """Return the module `name`, which the volume at `location` needs.

    Raises:
        MissingPackageError: it is not installed; how to do that.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        raise MissingPackageError(
            f"{location}: reading it needs the package {name}, which is not installed, run `pip install "
            f"'connectomics-zoo[{extra}]'`."
        ) from error
