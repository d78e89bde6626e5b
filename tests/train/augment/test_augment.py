"""Augmentation: each transform does its own thing and nothing else, and labels go where the image goes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from connectomics_zoo.schema.augmentation import PRESETS, AugmentationSpec, augmentation_of
from connectomics_zoo.schema.training import TrainingSpec
from connectomics_zoo.train.augment import augment, rotation_planes

CUBIC, FLAT = (8.0, 8.0, 8.0), (50.0, 10.0, 10.0)

GEOMETRY = ("flip", "turn", "affine", "elastic", "misalignment")
DEFECTS = ("shift", "missing", "blur", "cutout", "intensity", "section_intensity")

PROBABILITIES = (*GEOMETRY, *DEFECTS)


def blobs(shape, *, seed=0):
    """Smooth grey values in 0..1."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), ([0] * 9 + [2.5, 3, 3])[-len(shape) :])
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


def run(spec, *, image, labels=None, annotated=None, voxel_size_nm=FLAT, seed=0):
    labels = (image[0] > 0.5).astype(np.uint16) if labels is None else labels
    annotated = np.ones(labels.shape, bool) if annotated is None else annotated
    generator = np.random.default_rng(seed)
    return augment(image, labels, annotated, spec=spec, voxel_size_nm=voxel_size_nm, generator=generator)


def only(**values):
    return AugmentationSpec.model_validate(values)


def test_every_probability_is_tested_here():
    names = {name for name, field in AugmentationSpec.model_fields.items() if field.default == 0.0}
    assert names - {"gamma", "rescale"} == set(PROBABILITIES)  # a patch is read at another scale: test_rescaling.py


def test_only_isotropic_planes_of_equal_edges_are_rotated():
    assert rotation_planes((16, 32, 32), (50.0, 4.0, 4.0)) == ((1, 2),)
    assert rotation_planes((32, 32, 32), (50.0, 4.0, 4.0)) == ((1, 2),)
    assert rotation_planes((32, 32, 32), (8.0, 8.0, 8.0)) == ((1, 2), (0, 1), (0, 2))
    assert rotation_planes((16, 32, 32), (8.0, 8.0, 8.0)) == ((1, 2),)
    assert rotation_planes((32, 32, 32), None) == ((1, 2),)
    assert rotation_planes((32, 48, 32), None) == ()


# What holds of everything -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("voxel_size_nm", [CUBIC, FLAT, None])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, bool])
def test_every_preset_keeps_shapes_types_and_what_it_is_given(preset, voxel_size_nm, dtype):
    image = np.stack([blobs((16, 16, 16)), blobs((16, 16, 16), seed=1)])
    labels, annotated = (image[0] > 0.5).astype(dtype), image[1] > 0.3
    before = [array.copy() for array in (image, labels, annotated)]
    for seed in range(6):
        result = run(
            augmentation_of(preset),
            image=image,
            labels=labels,
            annotated=annotated,
            voxel_size_nm=voxel_size_nm,
            seed=seed,
        )
        for made, given, copy in zip(result, (image, labels, annotated), before, strict=True):
            assert (made.shape, made.dtype) == (given.shape, given.dtype)
            assert made.flags.c_contiguous
            assert np.array_equal(given, copy)
            assert not np.shares_memory(made, given)
        assert np.isfinite(result[0]).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_seed_gives_the_same_patch_and_another_seed_another(preset):
    image = blobs((1, 8, 24, 24))
    first, again, other = (run(augmentation_of(preset), image=image, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert np.array_equal(first[0], other[0]) == (preset == "none")


@pytest.mark.parametrize("shape", [(1, 1, 9, 9), (1, 5, 1, 7), (1, 2, 6, 1)])
@pytest.mark.parametrize("voxel_size_nm", [CUBIC, FLAT])
def test_edges_of_one_voxel_are_no_trouble(shape, voxel_size_nm):
    everything = only(**dict.fromkeys(PROBABILITIES, 1.0), gamma=0.5)
    for seed in range(4):
        assert np.isfinite(run(everything, image=blobs(shape), voxel_size_nm=voxel_size_nm, seed=seed)[0]).all()


def test_what_has_no_probability_changes_nothing_however_much_it_would_do():
    image = blobs((1, 8, 24, 24))
    idle = only(rotation_degrees=90.0, scale=0.5, elastic_amplitude=9.0, misalignment_pixels=9, gain=0.9, gamma=2.0)
    result = run(idle, image=image)
    assert np.array_equal(result.image, image)
    assert np.array_equal(result.labels, image[0] > 0.5)


@pytest.mark.parametrize("name", PROBABILITIES)
def test_a_probability_is_how_often_it_happens(name):
    image, labels = blobs((1, 1, 16, 16)), np.arange(256, dtype=np.uint16).reshape(1, 16, 16)
    if name == "misalignment":  # needs a second section, the first one stays
        image, labels = np.repeat(image, 2, axis=1), np.repeat(labels, 2, axis=0)
    counts = []
    for probability in (0.25, 1.0):
        results = (run(only(**{name: probability}), image=image, labels=labels, seed=seed) for seed in range(200))
        counts.append(sum(not np.array_equal(result.image, image) for result in results))
    if name == "flip":  # along y or x, each by itself
        assert 60 < counts[0] < 115
    elif name == "turn":  # and one of four turns is none
        assert 20 < counts[0] < 60
    else:
        assert 30 < counts[0] < 70
    assert counts[1] >= (130 if name == "turn" else 185)


# Geometry: image and labels go together ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize(("shape", "voxel_size_nm"), [((8, 48, 48), FLAT), ((32, 32, 32), CUBIC), ((8, 40, 40), CUBIC)])
def test_labels_and_annotated_parts_move_with_the_image(name, shape, voxel_size_nm):
    image = blobs((1, *shape))
    labels = (image[0] > 0.5).astype(np.uint8)
    spec, moved = only(**{name: 1.0}), 0
    for seed in range(5):
        result = run(spec, image=image, labels=labels, annotated=image[0] > 0.6, voxel_size_nm=voxel_size_nm, seed=seed)
        assert np.mean((result.image[0] > 0.5) == result.labels) > 0.95  # the rest is cut through by the threshold
        assert np.mean((result.image[0] > 0.6) == result.annotated) > 0.95
        moved += np.mean(result.labels != labels) > 0.03
    assert moved >= 4


@pytest.mark.parametrize("name", GEOMETRY)
def test_labels_are_never_mixed(name):
    labels = np.random.default_rng(0).choice(np.array([2, 2**40 + 1, 2**63 + 3], np.uint64), (8, 24, 24))
    result = run(only(**{name: 1.0}), image=blobs((1, 8, 24, 24)), labels=labels)
    assert set(np.unique(result.labels).tolist()) <= {2, 2**40 + 1, 2**63 + 3}


@pytest.mark.parametrize("name", ["affine", "elastic", "misalignment", "turn"])
def test_thick_sections_stay_where_they_are(name):
    sections = np.broadcast_to(np.arange(8, dtype=np.float32)[:, np.newaxis, np.newaxis] / 8, (8, 24, 24))
    for voxel_size_nm in (FLAT, None):
        result = run(only(**{name: 1.0}), image=sections[np.newaxis], voxel_size_nm=voxel_size_nm)
        assert np.allclose(result.image[0], sections, atol=1e-6)


@pytest.mark.parametrize("name", ["affine", "elastic"])
def test_isotropic_voxels_move_along_z_too(name):
    sections = np.broadcast_to(np.arange(24, dtype=np.float32)[:, np.newaxis, np.newaxis] / 24, (24, 24, 24))
    result = run(only(**{name: 1.0}), image=sections[np.newaxis], voxel_size_nm=CUBIC)
    assert np.abs(result.image[0] - sections).mean() > 0.01


def test_image_and_labels_are_flipped_alike_and_all_positions_are_reached():
    image = np.arange(4 * 4 * 4, dtype=np.float32).reshape(1, 4, 4, 4)
    seen = set()
    for seed in range(400):
        result = run(augmentation_of("flips"), image=image, labels=image[0].astype(int) * 2, seed=seed)
        assert np.array_equal(result.image[0] * 2, result.labels)
        seen.add(result.image.tobytes())
    assert len(seen) == 16  # the symmetries of a square, and two sides


@pytest.mark.parametrize(("shape", "voxel_size_nm"), [((2, 20, 33, 33), FLAT), ((1, 36, 36, 36), CUBIC)])
def test_a_moved_patch_is_what_flips_and_rotations_make_of_it(shape, voxel_size_nm):
    image = np.random.default_rng(1).random(shape, dtype=np.float32)
    for seed in range(8):
        moved = run(augmentation_of("flips"), image=image, voxel_size_nm=voxel_size_nm, seed=seed).image
        generator, expected = np.random.default_rng(seed), image
        for axis in (1, 2, 3):
            expected = np.flip(expected, axis) if generator.random() < 0.5 else expected
        for first, second in rotation_planes(shape[1:], voxel_size_nm):
            expected = np.rot90(expected, int(generator.integers(4)), (first + 1, second + 1))
        assert np.array_equal(moved, expected)


def test_a_rotation_stays_in_its_range_and_a_scale_too():
    rows, columns = np.mgrid[-20:21, -20:21]
    disc = (rows**2 + columns**2 < 144).astype(np.float32)[np.newaxis, np.newaxis]
    image = (disc * (1 + columns) / 13).clip(0, 1).astype(np.float32)
    angles, sizes = [], []
    for seed in range(40):
        turned = run(only(affine=1.0, rotation_degrees=30.0, scale=0.0), image=image, seed=seed).image[0, 0]
        angles.append(np.degrees(np.arctan2((turned * rows).sum(), (turned * columns).sum())))
        scaled = run(only(affine=1.0, rotation_degrees=0.0, scale=0.3), image=disc, seed=seed).image
        sizes.append(np.sqrt(scaled.sum() / disc.sum()))
    assert -31 < min(angles) < -20 < 20 < max(angles) < 31
    assert 0.65 < min(sizes) < 0.8 < 1.2 < max(sizes) < 1.35


def test_an_elastic_displacement_has_its_amplitude_and_is_smooth():
    columns = np.broadcast_to(np.arange(200, dtype=np.float32) / 200, (1, 1, 200, 200)).copy()
    for amplitude in (1.0, 4.0):
        spec = only(elastic=1.0, elastic_amplitude=amplitude, elastic_spacing=20.0)
        steps = [(run(spec, image=columns, seed=seed).image - columns)[0, 0, 40:-40, 40:-40] * 200 for seed in range(8)]
        assert np.std(steps) == pytest.approx(amplitude, rel=0.2)
        assert np.abs(np.diff(steps, axis=-1)).max() < 0.4 * amplitude


def test_a_misalignment_displaces_all_sections_from_one_on():
    image = np.broadcast_to(blobs((24, 24)), (1, 8, 24, 24)).copy()
    starts = set()
    for seed in range(60):
        result = run(only(misalignment=1.0, misalignment_pixels=4), image=image, seed=seed)
        same = [np.array_equal(section, image[0, 0]) for section in result.image[0]]
        assert same == sorted(same, reverse=True)
        starts.add(sum(same))
        assert all(np.array_equal(section, result.image[0, -1]) for section in result.image[0, sum(same) :])
    assert starts >= set(range(1, 8))
    assert 0 not in starts


def test_a_misaligned_section_is_moved_by_whole_pixels_in_range():
    image = np.broadcast_to(blobs((40, 40)), (1, 2, 40, 40)).copy()
    farthest = 0
    for seed in range(40):
        moved = run(only(misalignment=1.0, misalignment_pixels=3), image=image, seed=seed).image[0, 1]
        steps = [
            (dy, dx)
            for dy in range(-3, 4)
            for dx in range(-3, 4)
            if np.array_equal(moved[5:-5, 5:-5], np.roll(image[0, 0], (dy, dx), (0, 1))[5:-5, 5:-5])
        ]
        assert len(steps) == 1
        farthest = max(farthest, *map(abs, steps[0]))
    assert farthest == 3


# Defects: the image alone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFECTS)
@pytest.mark.parametrize("voxel_size_nm", [CUBIC, FLAT])
def test_a_defect_changes_the_image_and_leaves_the_labels(name, voxel_size_nm):
    image = blobs((1, 12, 24, 24))
    result = run(only(**{name: 1.0}), image=image, voxel_size_nm=voxel_size_nm)
    assert not np.array_equal(result.image, image)
    assert np.array_equal(result.labels, image[0] > 0.5)
    assert result.annotated.all()


def changed_sections(before, after, axis):
    other = tuple(index for index in range(3) if index != axis)
    return (before[0] != after[0]).any(axis=other)


@pytest.mark.parametrize("name", ["shift", "missing", "blur"])
def test_a_fraction_of_the_sections_is_hit_and_the_others_stay(name):
    image = blobs((1, 200, 16, 16))
    for fraction in (0.05, 0.3):
        hit = changed_sections(image, run(only(**{name: fraction}), image=image).image, 0).mean()
        assert hit == pytest.approx(fraction, abs=0.08)


@pytest.mark.parametrize("name", ["shift", "missing", "blur", "misalignment"])
def test_sections_lie_along_z_or_along_any_axis_of_isotropic_voxels(name):
    image = blobs((1, 20, 20, 20))
    fraction = 1.0 if name == "misalignment" else 0.1
    for voxel_size_nm, expected in ((FLAT, {0}), (None, {0}), (CUBIC, {0, 1, 2})):
        axes = set()
        for seed in range(40):
            after = run(only(**{name: fraction}), image=image, voxel_size_nm=voxel_size_nm, seed=seed).image
            counts = [changed_sections(image, after, axis).sum() for axis in range(3)]
            if 0 < min(counts) < sorted(counts)[1]:
                axes.add(int(np.argmin(counts)))
        assert axes == expected


def test_a_moved_section_is_reflected_where_nothing_comes_from():
    image = blobs((1, 40, 24, 24))
    moved = run(only(shift=1.0, shift_pixels=3), image=image).image[0]
    steps = []
    for section, before in zip(moved, image[0], strict=True):
        padded = np.pad(before, 3, mode="reflect")
        steps.append(
            [
                (y, x)
                for y in range(-3, 4)
                for x in range(-3, 4)
                if np.array_equal(section, padded[3 - y : 27 - y, 3 - x : 27 - x])
            ]
        )
    assert all(len(found) == 1 for found in steps)
    assert {axis for ((y, x),) in steps for axis in (y, x)} == set(range(-3, 4))


def test_a_missing_section_is_of_one_value_whole_or_in_a_corner():
    image = blobs((1, 60, 16, 16)) * 0.5 + 0.25
    whole = corner = black = 0
    corners = set()
    for section, before in zip(run(only(missing=1.0), image=image).image[0], image[0], strict=True):
        lost = section != before
        assert len(np.unique(section[lost])) == 1
        rows, columns = lost.any(axis=1), lost.any(axis=0)
        assert lost.sum() == rows.sum() * columns.sum()
        assert rows[0] or rows[-1]
        assert columns[0] or columns[-1]
        whole, corner, black = whole + lost.all(), corner + (not lost.all()), black + (section[lost].max() == 0)
        if not (rows.all() or columns.all()):
            corners.add((bool(rows[0]), bool(columns[0])))
    assert min(whole, corner, black, 60 - black) > 10
    assert len(corners) == 4


def test_a_blur_takes_fine_structure_only():
    image = np.random.default_rng(0).random((1, 4, 64, 64), dtype=np.float32)
    weak, strong = (run(only(blur=1.0, blur_sigma=sigma), image=image).image for sigma in (0.6, 4.0))
    assert strong.std() < 0.5 * weak.std() < 0.5 * image.std()
    assert np.allclose(strong.mean(axis=(2, 3)), image.mean(axis=(2, 3)), atol=0.02)


def test_a_cut_out_is_up_to_three_boxes_of_one_value_each():
    image = blobs((1, 16, 32, 32))
    values = set()
    for seed in range(30):
        after = run(only(cutout=1.0, cutout_edge=0.25), image=image, seed=seed).image
        hit = after != image
        assert 0 < hit.sum() <= 3 * 4 * 8 * 8
        values.add(len(np.unique(after[hit])))
    assert values == {1, 2, 3}


def test_gamma_bends_grey_values_and_keeps_black_and_white():
    image = np.linspace(0, 1, 4096, dtype=np.float32).reshape(1, 4, 32, 32)
    plain = {"intensity": 1.0, "gain": 0.0, "offset": 0.0, "noise": 0.0}
    exponents = []
    for seed in range(30):
        after = run(only(**plain, gamma=1.0), image=image, seed=seed).image
        assert after.min() == pytest.approx(0, abs=1e-6)
        assert after.max() == pytest.approx(1, abs=1e-6)
        exponents.append(np.log(after[0, 2, 0, 0]) / np.log(image[0, 2, 0, 0]))
    assert 0.5 <= min(exponents) < 0.7
    assert 1.4 < max(exponents) <= 2.0


def test_noise_is_normal_and_gain_and_offset_stay_in_their_ranges():
    full = augmentation_of("full")
    image = np.tile(np.array([0.25, 0.75], np.float32), (1, 16, 16, 16))
    sigmas = []
    for seed in range(20):
        varied = run(only(intensity=1.0), image=image, seed=seed).image
        dark, bright = np.sort(varied.reshape(-1, 2).mean(axis=0))
        assert (1 - full.gain) * 0.5 - 0.01 < bright - dark < (1 + full.gain) * 0.5 + 0.01
        assert abs((bright + dark) / 2 - 0.5) < full.offset + 0.01
        noise = varied[..., ::2] - varied[..., ::2].mean()
        sigmas.append(noise.std())
        assert (noise**4).mean() / noise.std() ** 4 == pytest.approx(3, abs=0.5)  # of a normal distribution
        assert abs((noise**3).mean() / noise.std() ** 3) < 0.2
    assert max(sigmas) < full.noise + 0.005
    assert max(sigmas) > 2 * min(sigmas)


def test_sections_differ_in_brightness_when_each_has_its_own():
    image = np.full((1, 30, 8, 8), 0.5, np.float32)
    means = run(only(section_intensity=1.0, offset=0.2), image=image).image.mean(axis=(0, 2, 3))
    assert np.ptp(run(only(intensity=1.0, noise=0.0), image=image).image) < 1e-6
    assert 0.1 < np.ptp(means) < 0.2
    assert np.abs(means - 0.5).max() <= 0.1 + 1e-6


def test_sections_have_half_the_gain_of_a_patch_each():
    image = np.tile(np.array([0.25, 0.75], np.float32), (1, 60, 8, 8))
    sections = run(only(section_intensity=1.0, gain=0.4, offset=0.0), image=image).image[0]
    contrasts = np.ptp(sections, axis=(1, 2)) / 0.5
    assert 0.8 - 1e-5 <= contrasts.min() < 0.85
    assert 1.15 < contrasts.max() <= 1.2 + 1e-5
    np.testing.assert_allclose(sections.mean(axis=(1, 2)), 0.5, atol=1e-6)


# Presets -----------------------------------------------------------------------------------------------------------


def test_full_is_the_same_patch_as_ever():
    """Its random numbers are drawn in the order of earlier versions, so that a run can be made again."""
    image = np.linspace(0, 1, 2 * 4 * 4, dtype=np.float32).reshape(1, 2, 4, 4)
    after = run(augmentation_of("full"), image=image, seed=5).image
    generator, expected = np.random.default_rng(5), image
    for axis in (1, 2, 3):
        expected = np.flip(expected, axis) if generator.random() < 0.5 else expected
    expected = np.rot90(expected, int(generator.integers(4)), (2, 3))
    gain, offset = generator.uniform(0.8, 1.2), generator.uniform(-0.1, 0.1)
    assert np.abs(after - ((expected - expected.mean()) * gain + expected.mean() + offset)).max() < 4 * 0.05


def test_a_change_of_a_preset_leaves_the_rest_of_it():
    recipe = {"patch_size": [16, 32, 32], "augmentation": {"preset": "anisotropic", "elastic": 0.1}}
    changed = augmentation_of(TrainingSpec.model_validate(recipe).augmentation)
    assert changed == augmentation_of("anisotropic").model_copy(update={"elastic": 0.1})
    assert augmentation_of("anisotropic").elastic != 0.1
