"""What is on disk, in a viewer: served to Neuroglancer on this machine, as a link, or as layers of napari."""

from connectomics_zoo.view.run import View, link, open_napari, view

__all__ = ["View", "link", "open_napari", "view"]
