"""The page, in a real browser without a screen: what is in the volumes is on it, and nothing is asked elsewhere."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from support.browser import CHROMIUM, SWITCHES
from support.volume_files import h5

from connectomics_zoo.pictures.palette import BLUE
from connectomics_zoo.view.state import PROBABILITY_OPACITY

EDGE = 128


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_the_browser_shows_raw_values_probabilities_and_labels_in_their_places(tmp_path, shown):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    raw = np.kron(np.random.default_rng(0).integers(0, 200, (16, 16)), np.ones((8, 8))).astype("uint8")
    labels, probability = np.zeros((2, EDGE, EDGE), "uint8")
    labels[16:48, 16:48] = 9
    probability[80:112, 80:112] = 255
    h5(tmp_path / "a.h5", raw=raw[None], labels=labels[None], p=probability[None])
    place = f"{tmp_path / 'a.h5'}:"
    view = shown(f"{place}raw", labels=f"{place}labels", probability=f"{place}p", voxel_size_nm=(30.0, 8.0, 8.0))
    errors, asked = [], set()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        page = browser.new_page(viewport={"width": 480, "height": 480})
        page.on("request", lambda request: asked.add(request.url.partition("/v/")[0].partition("/events/")[0]))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(view.url)
        page.wait_for_function("window.viewer && viewer.layerManager.managedLayers.length == 3 && viewer.isReady()")
        box = page.evaluate(
            "(() => { const panel = document.querySelector('.neuroglancer-rendered-data-panel');"
            "const box = panel.getBoundingClientRect(); return [box.left, box.top, box.width, box.height]; })()"
        )
        picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(float)
        browser.close()
    assert errors == []
    assert {url for url in asked if not url.startswith(("blob:", "data:"))} <= {view.url.partition("/v/")[0], ""}
    pixels = 1 / view.state()["crossSectionScale"]  # of the screen for a voxel
    left, top, width, height = box
    centres = 8 * np.arange(16) + 4  # of the squares that have one grey each
    rows = np.rint(top + height / 2 + (centres - EDGE / 2) * pixels).astype(int)
    columns = np.rint(left + width / 2 + (centres - EDGE / 2) * pixels).astype(int)
    seen = picture[np.ix_(rows, columns)]
    colourful = np.ptp(seen, axis=2)
    grid = np.ix_(centres, centres)
    is_label, is_probable = labels[grid] > 0, probability[grid] > 0
    plain = ~is_label & ~is_probable
    assert np.corrcoef(seen[plain].mean(axis=1), raw[grid][plain])[0, 1] > 0.95
    assert np.median(colourful[plain]) <= 2
    assert np.median(colourful[is_label]) > 30
    # Over the grey of the image lies the colour, by its opacity.
    below = seen[is_probable] - PROBABILITY_OPACITY * np.array(BLUE)
    assert np.median(np.ptp(below, axis=1)) <= 4
