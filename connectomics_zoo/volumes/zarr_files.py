"""The files of a Zarr store: each is a regular one or is not there, so that no read waits for a pipe for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zarr
import zarr.storage

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.checks import is_regular

if int(zarr.__version__.split(".")[0]) >= 3:

    class RegularFiles(zarr.storage.LocalStore):
        """A folder on disk, as zarr reads it."""

        def __init__(self, folder: Path) -> None:
            super().__init__(folder, read_only=True)
            self.refused: VolumeError | None = None
            """Why a file was taken for one that is not there; raised here, it would leave tasks of zarr behind."""

        async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
            try:
                is_regular(self.root / key)
            except VolumeError as error:
                self.refused = error
                return None
            return await super().get(key, *arguments, **options)

else:

    class RegularFiles(zarr.storage.DirectoryStore):  # type: ignore[no-redef,name-defined,misc]
        """A folder on disk, as zarr reads it."""

        def __init__(self, folder: Path) -> None:
            super().__init__(str(folder))
            self.refused: VolumeError | None = None

        def __contains__(self, key: str) -> bool:
            try:
                return is_regular(Path(self.path) / self._normalize_key(key))
            except VolumeError as error:
                self.refused = error
                return False
