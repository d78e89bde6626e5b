"""What napari gets: arrays that read what an index asks for, and where they lie."""

from __future__ import annotations

import numpy as np
import pytest
from support.volume_files import h5, write

import zoo
from connectomics_zoo.view.napari_layers import LazyArray, layers_of, show
from connectomics_zoo.view.scene import open_scene
from connectomics_zoo.volumes.prediction import StoredPrediction


@pytest.fixture
def scene(tmp_path, ramp):
    image = write(tmp_path / "a.zarr", ramp(6, 40, 300), voxel_size_nm=(30.0, 8.0, 8.0), offset=(60.0, 0.0, 8.0))
    h5(tmp_path / "b.h5", objects=ramp(6, 40, 300, dtype="uint32"))
    organelles = StoredPrediction("probability", task=zoo.get_task("organelles"))
    made = write(tmp_path / "p.zarr", np.zeros((5, 6, 40, 300), "uint8"), stored=organelles)
    opened = open_scene([image, made], labels=[f"{tmp_path / 'b.h5'}:objects"])
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "index",
    [
        np.s_[3],
        np.s_[-1, 2:30:7],
        np.s_[..., 5],
        np.s_[:, ::-3, 299],
        np.s_[1:2, 5:5],
        np.s_[np.int64(2), :, slice(None, None, 50)],
        np.s_[2, 3, 4],
    ],
)
def test_an_index_gives_what_numpy_would_and_reads_no_more(scene, ramp, index, monkeypatch):
    array = LazyArray(scene.layers[0].source, 0, channel=0)
    boxes = []
    volume = scene.first.volume
    monkeypatch.setattr(volume, "read", lambda box, read=volume.read: boxes.append(box) or read(box))
    expected = ramp(6, 40, 300)[index]
    found = array[index]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    spans = [
        np.flatnonzero(np.isin(np.arange(size), np.arange(size)[part]))
        for size, part in zip((6, 40, 300), _full(index), strict=True)
    ]
    assert sum(box.voxels for box in boxes) == np.prod([span[-1] - span[0] + 1 if len(span) else 0 for span in spans])


def _full(index):
    """Return an index with a slice or number for each axis."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in parts:
        parts[parts.index(Ellipsis) : parts.index(Ellipsis) + 1] = [slice(None)] * (4 - len(parts))
    return parts + [slice(None)] * (3 - len(parts))


def test_layers_lie_in_nm_with_their_levels(scene):
    image, *channels, objects = layers_of(scene)
    assert [kind for _, _, kind in (image, *channels, objects)] == ["image"] * 6 + ["labels"]
    for levels, keywords, _ in (image, *channels, objects):
        assert keywords["scale"] == (30, 8, 8)
        assert keywords["translate"] == (75, 4, 12)  # of the centre of the first voxel
        assert [level.shape for level in levels] == [(6, 40, 300), (6, 20, 150)]
        assert keywords["multiscale"]
    assert [keywords["name"] for _, keywords, _ in channels] == [
        f"p.zarr: {name}" for name in ("mito", "er", "nuc", "ld", "ves")
    ]
    np.testing.assert_array_equal(np.asarray(objects[0][0]), np.arange(72000).reshape(6, 40, 300))


def test_napari_itself_makes_these_layers_and_shows_them(scene, monkeypatch):
    napari = pytest.importorskip("napari", reason="napari is not installed")
    viewer = napari.components.ViewerModel()
    monkeypatch.setattr(napari, "Viewer", lambda title: viewer)
    monkeypatch.setattr(napari, "run", lambda: None)
    show(scene)
    assert [layer.name for layer in viewer.layers][::6] == ["a.zarr", "objects"]
    image = viewer.layers[0]
    np.testing.assert_array_equal(
        np.asarray(image.data[0][2, 3, :5]), np.asarray(scene.first.read(0, scene.first.volume.whole))[0, 2, 3, :5]
    )
    assert viewer.dims.point[0] == pytest.approx(60 + 90)
