"""Pictures: a PNG with every panel, from arrays or from volumes, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import h5py
import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes

from connectomics_zoo.errors import OutputError, VolumeError
from connectomics_zoo.pictures import comparison
from connectomics_zoo.pictures.comparison import draw_comparison, draw_volumes
from connectomics_zoo.pictures.palette import BLUE, VERMILLION, YELLOW

SHAPE = (2, 48, 64)
RAW = np.random.default_rng(0).integers(80, 120, SHAPE).astype(np.uint8)
TRUTH = np.zeros(SHAPE, dtype=np.uint8)
TRUTH[:, 10:30, 10:40] = 1
FOUND = np.roll(TRUTH, 10, axis=2)


@pytest.fixture(autouse=True)
def low_resolution(monkeypatch):
    monkeypatch.setattr(comparison, "PANEL_INCHES", 2.0)
    monkeypatch.setattr(comparison, "DOTS_PER_INCH", 60)


def near(path: Path, colour: tuple[int, int, int], *, column: int) -> int:
    """Count the pixels in a quarter of the picture that are nearly `colour` on mid grey."""
    pixels = matplotlib.image.imread(path)[..., :3] * 255
    quarter = pixels.shape[1] // 4
    part = pixels[: int(0.85 * len(pixels)), column * quarter : (column + 1) * quarter]
    hue = np.array(colour, dtype=float) - np.mean(colour)
    offset = part - part.mean(axis=2, keepdims=True)
    cosine = (offset @ hue) / (np.linalg.norm(hue) * np.maximum(np.linalg.norm(offset, axis=2), 30))
    return int((cosine > 0.97).sum())


def test_errors_have_three_colours_and_a_right_prediction_has_one(tmp_path):
    draw_comparison(tmp_path / "a.png", raw=RAW, truth=TRUTH, prediction=FOUND)
    assert min(near(tmp_path / "a.png", colour, column=3) for colour in (BLUE, VERMILLION, YELLOW)) > 50
    draw_comparison(tmp_path / "b.png", raw=RAW, truth=TRUTH, prediction=TRUTH)
    assert near(tmp_path / "b.png", BLUE, column=3) > 50
    assert near(tmp_path / "b.png", VERMILLION, column=3) == near(tmp_path / "b.png", YELLOW, column=3) == 0


def dice_of(monkeypatch, **given) -> list[str]:
    """Draw, and return what is written over the errors of each section."""
    texts: list[str] = []
    write_text = Axes.text

    def text(self, x, y, string, **options):
        texts.append(string)
        return write_text(self, x, y, string, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Axes, "text", text)
        draw_comparison(**given)
    return texts


def test_where_the_truth_is_not_known_there_is_neither_error_nor_dice(tmp_path, monkeypatch):
    known = TRUTH == FOUND
    known[1] = False
    given = {"raw": RAW, "truth": TRUTH, "prediction": FOUND}
    assert dice_of(monkeypatch, path=tmp_path / "a.png", **given) == ["Dice 0.667", "Dice 0.667"]
    texts = dice_of(monkeypatch, path=tmp_path / "b.png", known=known, **given)
    assert texts == ["Dice 1.000", "nothing is known"]
    assert near(tmp_path / "b.png", VERMILLION, column=3) == near(tmp_path / "b.png", YELLOW, column=3) == 0
    assert near(tmp_path / "b.png", BLUE, column=3) > 50


def test_what_is_not_known_is_grey_in_truth_and_errors_alone(tmp_path, monkeypatch):
    known = np.ones(SHAPE, dtype=bool)
    known[:, :, 32:] = False
    shown: list[np.ndarray] = []
    monkeypatch.setattr(Axes, "imshow", lambda self, picture, **options: shown.append(picture))
    draw_comparison(tmp_path / "a.png", raw=RAW, truth=TRUTH * 0, prediction=TRUTH * 0, known=known)
    # The grains of the image do not show through the grey.
    assert [bool(panel[:, 32:].std() < 0.1) for panel in shown] == [False, True, False, True] * 2
    assert not any(panel[:, :32].std() < 0.1 for panel in shown)
    assert shown[3][:, 32:].mean() == pytest.approx(0.5, abs=0.03)


def test_boundaries_of_objects_count_where_the_truth_is_known(tmp_path):
    objects = np.ones(SHAPE, dtype=np.uint32)
    objects[:, :, 32:] = 2
    objects[:, 30:] = 0
    split = objects.copy()
    split[:, 30:] = split[:, 29:30]  # it goes on where the truth ends
    split[:, 36:, 20:40] = 3
    known = objects > 0
    draw_comparison(tmp_path / "a.png", raw=RAW, truth=objects, prediction=split)
    assert near(tmp_path / "a.png", VERMILLION, column=3) > 10
    draw_comparison(tmp_path / "b.png", raw=RAW, truth=objects, prediction=split, known=known)
    assert near(tmp_path / "b.png", VERMILLION, column=3) == near(tmp_path / "b.png", YELLOW, column=3) == 0
    assert near(tmp_path / "b.png", BLUE, column=3) > 10


def test_probabilities_are_cut_at_the_threshold(tmp_path):
    half = (TRUTH * 0.6 + 0.3).astype(np.float32)
    draw_comparison(tmp_path / "b.png", raw=RAW, truth=TRUTH, prediction=half, threshold=0.95)
    assert near(tmp_path / "b.png", YELLOW, column=3) > 50
    draw_comparison(tmp_path / "a.png", raw=RAW, truth=TRUTH, prediction=(TRUTH * 0.6 + 0.3).astype(np.float32))
    assert near(tmp_path / "a.png", VERMILLION, column=3) == near(tmp_path / "a.png", YELLOW, column=3) == 0


def test_objects_show_the_boundaries_that_only_one_has(tmp_path):
    objects = np.zeros(SHAPE, dtype=np.uint32)
    objects[:, :, 20:] = 1
    objects[:, :, 40:] = 2
    split = objects.copy()
    split[:, 24:] += 10
    draw_comparison(tmp_path / "a.png", raw=RAW, truth=objects, prediction=split)
    assert near(tmp_path / "a.png", VERMILLION, column=3) > 10
    assert near(tmp_path / "a.png", YELLOW, column=3) == 0
    draw_comparison(tmp_path / "b.png", raw=RAW, truth=split, prediction=objects)
    assert near(tmp_path / "b.png", YELLOW, column=3) > 10
    assert near(tmp_path / "b.png", VERMILLION, column=3) == 0


def test_the_largest_part_of_a_true_object_has_its_colour():
    truth = np.array([[[0, 5, 5, 5, 5, 7, 7, 9]]])
    found = np.array([[[0, 1, 1, 1, 2, 3, 3, 3]]])
    true, predicted = comparison._numbered_alike(truth, found)
    assert true.tolist() == [[[0, 2, 2, 2, 2, 3, 3, 4]]]
    assert predicted.tolist() == [[[0, 2, 2, 2, 7, 3, 3, 3]]]
    huge = np.array([[[0, 2**64 - 1]]], dtype=np.uint64)
    assert comparison._numbered_alike(huge, huge)[1].tolist() == [[[0, 2]]]


def test_the_scale_bar_has_a_round_length_of_at_most_a_quarter_of_the_width():
    assert comparison._round_length(1024 * 4.6 / 4) == 1000
    assert comparison._round_length(2000) == 2000
    assert comparison._round_length(199) == 100


def test_empty_and_full_masks_and_single_rows_can_be_drawn(tmp_path):
    for number, (truth, found) in enumerate([(TRUTH * 0, TRUTH * 0), (TRUTH * 0 + 1, TRUTH * 0)]):
        path = tmp_path / f"{number}.png"
        draw_comparison(path, raw=RAW * 0, truth=truth, prediction=found, voxel_size_nm=(50.0, 4.6, 9.2), title="t")
        assert path.stat().st_size > 1000


def test_drawing_leaves_pyplot_alone(tmp_path):
    import sys

    sys.modules.pop("matplotlib.pyplot", None)
    draw_comparison(tmp_path / "a.png", raw=RAW, truth=TRUTH, prediction=FOUND)
    assert "matplotlib.pyplot" not in sys.modules


def write(path: Path, array: np.ndarray) -> str:
    with h5py.File(path, "w") as file:
        file["main"] = array
        file["main"].attrs["voxel_size_nm"] = (50.0, 4.6, 4.6)
    return f"{path}:main"


def test_volumes_are_drawn_at_evenly_spaced_sections_of_the_region(tmp_path, monkeypatch):
    z, y, _ = np.indices((20, 30, 40), dtype=np.uint8)
    numbers = 5 * z + y
    image, truth = write(tmp_path / "i.h5", numbers), write(tmp_path / "t.h5", z % 2)
    whole, part = write(tmp_path / "p.h5", numbers * 2), write(tmp_path / "q.h5", numbers[12:18, 5:] * 2)
    calls = []
    monkeypatch.setattr(comparison, "draw_comparison", lambda path, **given: calls.append(given))
    monkeypatch.setattr(comparison, "MAX_EDGE", 16)
    for prediction in (whole, part):
        draw_volumes(tmp_path / "x.png", image=image, truth=truth, prediction=prediction, region="z=12:18,y=5:30")
    for given in calls:
        assert given["section_names"] == ["z = 13", "z = 15", "z = 17"]
        assert given["raw"].shape == given["truth"].shape == given["prediction"].shape == (3, 16, 16)
        np.testing.assert_array_equal(given["raw"][:, 0, 0], [13 * 5 + 9, 15 * 5 + 9, 17 * 5 + 9])
        np.testing.assert_allclose(given["prediction"], given["raw"] * 2 / 255, rtol=1e-6)
        assert given["voxel_size_nm"] == pytest.approx((50, 4.6, 4.6))


def test_a_picture_reads_a_prediction_as_the_file_says(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(comparison, "draw_comparison", lambda path, **given: calls.append(given["prediction"]))
    objects = np.arange(RAW.size).reshape(SHAPE) % 50
    for content, truth in (("probability", objects), ("label", TRUTH)):
        folder = tmp_path / content
        folder.mkdir()
        found = write(folder / "found.h5", RAW)
        with h5py.File(found.split(":")[0], "a") as file:
            file["main"].attrs["content"] = content
        image, true = write(folder / "image.h5", RAW), write(folder / "truth.h5", truth)
        draw_volumes(folder / "x.png", image=image, truth=true, prediction=found)
    assert [array.dtype.kind for array in calls] == ["f", "u"]


def test_a_picture_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"old")

    def fail(self, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", fail)
        with pytest.raises(OutputError, match=r"a\.png: cannot be written \(No space left on device\)"):
            draw_comparison(tmp_path / "a.png", raw=RAW, truth=TRUTH, prediction=FOUND)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"
    draw_comparison(tmp_path / "a.png", raw=RAW, truth=TRUTH, prediction=FOUND)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"pictures are PNG files, give a name that ends in \.png"):
        draw_comparison(tmp_path / "a.jpg", raw=RAW, truth=TRUTH, prediction=FOUND)
    with pytest.raises(VolumeError, match="a picture needs three equal ones"):
        draw_comparison(tmp_path / "a.png", raw=RAW, truth=TRUTH[:1], prediction=FOUND)
    many = np.zeros((9, 4, 4), dtype=np.uint8)
    with pytest.raises(VolumeError, match="a picture has 1 to 8 sections, not 9"):
        draw_comparison(tmp_path / "a.png", raw=many, truth=many, prediction=many)
    with pytest.raises(OutputError, match="there is no folder"):
        draw_comparison(tmp_path / "no" / "a.png", raw=RAW, truth=TRUTH, prediction=FOUND)
    image, other = write(tmp_path / "i.h5", RAW), write(tmp_path / "o.h5", RAW[:, :9])
    with pytest.raises(VolumeError, match="have the shapes"):
        draw_volumes(tmp_path / "a.png", image=other, truth=image, prediction=image)
    with pytest.raises(VolumeError, match="give the volumes that belong together"):
        draw_volumes(tmp_path / "a.png", image=image, truth=image, prediction=other)
    assert not (tmp_path / "a.png").exists()
