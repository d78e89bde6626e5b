"""Tables on disk, whole or not at all: comma-separated values, or Parquet."""

from __future__ import annotations

import csv
import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import MissingPackageError, OutputError
from connectomics_zoo.files.atomic import check_place, whole_file
from connectomics_zoo.measure.report import Columns

_ROWS = 100_000
"""Rows of a CSV that are texts at a time."""


class TableFile:
    """A table that is still to be written; whether it can be is known before.

    Args:
        path: ends in .csv or .parquet.
        overwrite: whether to replace what is there.

    Raises:
        OutputError: the name has another end, something is there, or the folder cannot be written.
        MissingPackageError: Parquet needs pyarrow.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        self._overwrite = overwrite
        self._format = path.suffix.lower()
        if self._format not in (".csv", ".parquet"):
            raise OutputError(f"{path}: is the name of no table, let it end in .csv or .parquet.")
        if self._format == ".parquet":
            _parquet(path)
        check_place(path, overwrite=overwrite)

    def write(self, columns: Columns) -> None:
        """Write the columns.

        Raises:
            OutputError: they cannot be written.
        """
        with whole_file(self.path, overwrite=self._overwrite) as partial:
            if self._format == ".csv":
                _write_csv(partial, columns)
            else:
                _write_parquet(partial, columns)


def _write_csv(path: Path, columns: Columns) -> None:
    rows = len(next(iter(columns.values())))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for start in range(0, rows, _ROWS):
            texts = [_texts(column[start : start + _ROWS]) for column in columns.values()]
            writer.writerows(zip(*texts, strict=True))


def _texts(column: NDArray[Any]) -> list[str]:
    """Whole numbers exactly, others in ten digits, nothing where there is none, and 0 and 1 for no and yes."""
    if column.dtype.kind == "f":
        return ["" if math.isnan(value) else f"{value:.10g}" for value in column.tolist()]
    return list(map(str, (column.astype(np.uint8) if column.dtype.kind == "b" else column).tolist()))


def _write_parquet(path: Path, columns: Columns) -> None:
    arrow, parquet = _parquet(path)
    # NaN is no value; whole numbers keep their type, uint64 among them.
    arrays = {name: arrow.array(column, from_pandas=True) for name, column in columns.items()}
    parquet.write_table(arrow.table(arrays), str(path))


def _parquet(path: Path) -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"{path}: Parquet needs the package pyarrow, which is not installed, run `pip install "
            "'connectomics-zoo[parquet]'`, or write a .csv."
        ) from error
