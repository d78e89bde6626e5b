"""An exported volume in Neuroglancer, in a real browser without a screen: its meshes are seen where they should be."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from support.browser import CHROMIUM, SWITCHES
from support.stores import file_server
from support.volume_files import write

from connectomics_zoo.export.labels.run import export_labels

RED, BLUE = "#ff0000", "#0000ff"

PANEL, TOP = 400, 46
"""Rows of the page, and those above the picture."""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_neuroglancer_shows_meshes_and_skeletons_of_the_size_that_they_have(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    neuroglancer = pytest.importorskip("neuroglancer", reason="neuroglancer is not installed")
    labels = np.zeros((16, 64, 64), np.uint64)
    labels[4:12, 8:56, 4:28] = 2**33 + 1
    labels[4:12, 8:56, 40:60] = 8
    place = write(str(tmp_path / "labels.zarr"), labels, voxel_size_nm=(40, 10, 10))
    export_labels(place, tmp_path / "seen", meshes=True, skeletons=True)
    found, errors = {}, []
    with file_server(tmp_path) as address, playwright.sync_playwright() as driver:
        neuroglancer.set_server_bind_address("127.0.0.1")
        viewer = neuroglancer.Viewer()
        with viewer.txn() as state:
            layer = neuroglancer.SegmentationLayer(source=f"precomputed://{address}/seen", segments=[8, 2**33 + 1])
            layer.segment_colors = {2**33 + 1: RED, 8: BLUE}
            state.layers["objects"] = layer
            state.layout = neuroglancer.DataPanelLayout(type="3d", orthographic_projection=True)
            state.dimensions = neuroglancer.CoordinateSpace(names=["x", "y", "z"], units="nm", scales=[1, 1, 1])
            state.position = [320, 320, 320]
            state.projection_scale = 800  # nm along the height of the panel
            state.show_axis_lines = state.show_slices = state.show_scale_bar = False
            state.show_default_annotations = False
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        page = browser.new_page(viewport={"width": 600, "height": PANEL})
        page.on("response", lambda answer: found.update({answer.url.rpartition("/seen/")[2]: answer.status}))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(viewer.get_viewer_url())
        page.wait_for_function("window.viewer && viewer.layerManager.managedLayers.length == 1 && viewer.isReady()")
        picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
        browser.close()
        neuroglancer.stop()
    assert errors == []
    one = 2**33 + 1
    for name in ("info", "properties/info", f"mesh/{one}:0", f"mesh/{one}.0", "skeletons/info", f"skeletons/{one}"):
        assert found[name] == 200, name
    picture[:60] = picture[:, :140] = 0  # buttons and names
    red = (picture[..., 0] > 90) & (picture[..., 2] < 60)
    blue = (picture[..., 2] > 90) & (picture[..., 0] < 60)
    for seen, width in ((red, 24), (blue, 20)):
        down, across = (np.ptp(np.flatnonzero(seen.any(axis=axis))) + 1 for axis in (1, 0))
        assert down / across == pytest.approx(48 / width, rel=0.1)
        assert seen.sum() > 0.9 * down * across
        assert down == pytest.approx((PANEL - TOP) * 480 / 800, rel=0.05)
    assert np.flatnonzero(red.any(axis=0)).mean() < np.flatnonzero(blue.any(axis=0)).mean()
