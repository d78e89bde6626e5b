"""What lies beside the objects of a volume that was decoded in blocks: fragments, their edges, and the look-up table.

    OUT.objects/fragments.zarr      uint64: the number of the block in the upper 32 bits, 1..N in the lower ones
    OUT.objects/edges/INDEX.npz     the edges of a block, in columns: u, v, count, mean, minimum, maximum
    OUT.objects/table/NAME.npy      one row a fragment: fragment, object (0 for background), voxels

Columns of `edges` are those of `decode.edges.Edges`; `repulsive_u` and so on are the edges that keep apart. A pair of
fragments of two blocks may be in both their files: counts add up.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from numpy.typing import NDArray

from connectomics_zoo.blocks.grid import BlockGrid, Edges
from connectomics_zoo.errors import OutputError
from connectomics_zoo.files.atomic import check_place
from connectomics_zoo.volumes import Box, VoxelSize, open_volume
from connectomics_zoo.volumes.uri import Place
from connectomics_zoo.volumes.zarr_writing import ArrayLayout, ArrayWriter, create_array, open_store, store_errors

_CHUNK = range(16, 129)
"""Edges of a chunk, in voxels."""


def chunks_of(edges: Edges) -> Edges:
    """Return the edges of the chunks of a block: the largest ones of which it is made."""
    z, y, x = (max((size for size in _CHUNK if edge % size == 0), default=edge) for edge in edges)
    return z, y, x


@dataclass(frozen=True)
class ObjectFiles:
    """The files; each block has its own, and is written by one process at a time."""

    folder: Place
    """Where they lie: on a disk, or in an object store."""
    grid: BlockGrid
    """The blocks of what is decoded, whose first voxel is (0, 0, 0)."""

    def create_array(self, name: str, *, voxel_size_nm: VoxelSize | None) -> None:
        """Create the Zarr store `name` of ids, each block a file of it.

        Raises:
            OutputError: it cannot be written.
        """
        layout = ArrayLayout(
            shape=self.grid.box.shape,
            dtype=np.dtype(np.uint64),
            chunks=chunks_of(self.grid.edges),
            shards=self.grid.edges,
            voxel_size_nm=voxel_size_nm,
            attributes={"content": "instances"},
        )
        create_array(self.folder / name, dataset=None, layout=layout, finished=True)

    def write(self, name: str, index: int, labels: NDArray[Any]) -> None:
        """Write a block of the store `name`.

        Raises:
            OutputError: it cannot be written.
        """
        ArrayWriter(self.folder / name, dataset=None).write(self.grid.box_of(index).slices, labels)

    def read(self, name: str, box: Box) -> NDArray[Any]:
        """Return a part of the store `name`.

        Raises:
            VolumeError: it cannot be read.
        """
        with open_volume(str(self.folder / name)) as volume:
            return volume.read(box)

    def save(self, name: str, **columns: NDArray[Any]) -> None:
        """Write the file `name` (`edges/12.npz`), whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        content = io.BytesIO()
        np.savez_compressed(content, **columns)  # type: ignore[arg-type]
        self._write(name, content)

    def load(self, name: str) -> Mapping[str, NDArray[Any]]:
        """Return the columns of the file `name`.

        Raises:
            OutputError: it cannot be read.
        """
        with self._reading(name):
            columns: Mapping[str, NDArray[Any]] = np.load(io.BytesIO(self._read(name)))
            return columns

    def save_column(self, name: str, values: NDArray[Any]) -> None:
        """Write the file `name` (`table/voxels.npy`), whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        content = io.BytesIO()
        np.save(content, values)
        self._write(name, content)

    def load_column(self, name: str) -> NDArray[Any]:
        """Return the values in the file `name`, of which on a disk only those are read that are used.

        Raises:
            OutputError: it cannot be read.
        """
        with self._reading(name):
            if isinstance(self.folder, Path):
                values: NDArray[Any] = np.load(self.folder / name, mmap_mode="r")
            else:
                values = np.load(io.BytesIO(self._read(name)))
            return values

    def is_empty(self) -> bool:
        """Whether there is no file.

        Raises:
            OutputError: nobody knows.
        """
        with store_errors(self.folder):
            return not open_store(self.folder).list().result()

    def clear(self, below: str = "") -> None:
        """Remove the files whose names begin with `below` (`fragments/`).

        Raises:
            OutputError: they cannot be removed.
        """
        with store_errors(self.folder):
            if isinstance(self.folder, Path):
                shutil.rmtree(self.folder / below, ignore_errors=True)
            else:
                keys = tensorstore.KvStore.KeyRange(below, below[:-1] + "0" if below else "")
                open_store(self.folder).delete_range(keys).result()

    def _write(self, name: str, content: io.BytesIO) -> None:
        with store_errors(self.folder):
            open_store(self.folder).write(name, content.getvalue()).result()

    def _read(self, name: str) -> bytes:
        answer = open_store(self.folder).read(name).result()
        if answer.state == "missing":
            raise FileNotFoundError("it is not there")
        return bytes(answer.value)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, EOFError) as error:
            raise OutputError(f"{self.folder}/{name}: cannot be read ({error}), begin anew with --overwrite.") from None


def files_place(out: Place) -> Place:
    """Return where what is of use later is kept beside an output."""
    return out.parent / f"{out.name}.objects"


def refuse_files(out: Place, *, overwrite: bool) -> None:
    """Refuse to lose the files beside an output on a disk, which may be all that is left of an earlier decoding.

    Raises:
        OutputError: there are some and must not be overwritten.
    """
    kept = files_place(out)
    if isinstance(kept, Path):
        check_place(kept, overwrite=overwrite)


def forget_files(out: Place) -> None:
    """Remove the files beside an output that is replaced by one that has none."""
    kept = files_place(out)
    if isinstance(kept, Path) and (kept / "table").is_dir():
        ObjectFiles(kept, BlockGrid(Box.of_shape((1, 1, 1)), (1, 1, 1))).clear()
