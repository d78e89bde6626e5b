"""The sliding window: equal to the naive one whatever the blocks, each voxel once, in memory that does not grow."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import pytest
from support.naive_window import fake_forward, naive

from connectomics_zoo.blocks.grid import BlockGrid
from connectomics_zoo.predict import plan
from connectomics_zoo.predict.grid import AxisGrid
from connectomics_zoo.predict.plan import make_geometry
from connectomics_zoo.predict.slide import predict_block
from connectomics_zoo.volumes.box import Box, region_box


@dataclass
class FakeSource:
    """A volume in memory that remembers how much was read at a time."""

    array: np.ndarray
    reads: list[int] = field(default_factory=list)

    def read(self, box):
        assert Box.of_shape(self.array.shape[-3:]).contains(box)
        block = self.array[(..., *box.slices)]
        self.reads.append(block.size)
        return block.copy()


def slide(source, geometry, *, edges=None, chunk=8, batch_size=3, channels_in=1, forward=fake_forward, mask=None):
    """Predict into an array; every voxel must be written exactly once."""
    shape = geometry.box.shape
    out = np.full((2, *shape), np.nan, dtype=np.float32)
    times = np.zeros(shape, dtype=int)
    blocks = BlockGrid(geometry.box, edges or shape)
    done = []
    for index in range(len(blocks)):
        for box, values in predict_block(
            source,
            forward,
            geometry=replace(geometry, box=blocks.box_of(index)),
            chunk=chunk,
            scale=lambda block: block.astype(np.float32),
            channels_in=channels_in,
            channels_out=2,
            batch_size=batch_size,
            advance=done.append,
            mask=mask,
        ):
            here = box.relative_to(geometry.box.start).slices
            out[(slice(None), *here)] = values
            times[here] += 1
    assert (times == 1).all()
    return out, len(blocks), sum(done)


ANY = [(Fraction(4, 5), Fraction(23, 15), Fraction(10, 11))]
"""Ratios that are no whole numbers, above and below 1."""

CASES = {
    "several windows on every axis": ((21, 30, 26), (1, 1, 1), (8, 12, 10), 0.5),
    "no overlap": ((20, 25, 21), (1, 1, 1), (8, 12, 10), 0.0),
    "much overlap": ((12, 13, 11), (1, 1, 1), (6, 6, 6), 0.8),
    "exactly one window": ((8, 12, 10), (1, 1, 1), (8, 12, 10), 0.5),
    "smaller than the window": ((5, 30, 7), (1, 1, 1), (8, 12, 10), 0.5),
    "much smaller than the window": ((1, 3, 2), (1, 1, 1), (16, 16, 16), 0.5),
    "downsampled, sizes that divide": ((8, 32, 30), (1, 2, 3), (4, 6, 6), 0.5),
    "downsampled, sizes that do not": ((19, 31, 35), (2, 3, 4), (4, 6, 6), 0.5),
    "downsampled to less than a window": ((3, 5, 7), (2, 4, 8), (4, 4, 4), 0.5),
    "any ratios above 1": ((9, 31, 35), (1, Fraction(23, 5), Fraction(7, 3)), (4, 5, 6), 0.5),
    "any ratios below 1": ((7, 16, 13), (1, Fraction(23, 25), Fraction(4, 7)), (4, 8, 8), 0.5),
    "any ratios": ((9, 14, 41), (Fraction(5, 4), Fraction(2, 3), 3), (4, 8, 8), 0.5),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_naive_sliding_window_over_the_whole_volume(case):
    shape, factors, window, overlap = CASES[case]
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    box = Box.of_shape(shape)
    geometry = make_geometry(shape=shape, factors=factors, window=window, overlap=overlap, box=box)
    found, _, _ = slide(FakeSource(array), geometry)
    np.testing.assert_allclose(found, naive(array, factors=factors, window=window, overlap=overlap), atol=1e-6)


def test_random_geometries_equal_the_naive_sliding_window():
    generator = np.random.default_rng(7)
    for _ in range(25):
        shape = tuple(int(size) for size in generator.integers(1, 22, 3))
        factors = tuple(int(factor) for factor in generator.integers(1, 4, 3))
        window = tuple(int(edge) for edge in generator.integers(2, 8, 3))
        overlap = float(generator.choice([0, 0.25, 0.5, 0.7]))
        array = generator.random(shape, dtype=np.float32)
        geometry = make_geometry(shape=shape, factors=factors, window=window, overlap=overlap, box=Box.of_shape(shape))
        found, _, _ = slide(
            FakeSource(array), geometry, edges=tuple(int(edge) for edge in generator.integers(3, 12, 3))
        )
        expected = naive(array, factors=factors, window=window, overlap=overlap)
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=f"{shape} {factors} {window} {overlap}")


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 3, 2), *ANY])
def test_blocks_do_not_change_a_single_bit(factors):
    shape = (17, 50, 40)
    array = np.random.default_rng(1).random(shape, dtype=np.float32)
    geometry = make_geometry(shape=shape, factors=factors, window=(4, 6, 6), overlap=0.5, box=Box.of_shape(shape))
    whole, one, _ = slide(FakeSource(array), geometry, batch_size=1)
    parts, many, _ = slide(FakeSource(array), geometry, edges=(5, 8, 8), chunk=4, batch_size=1)
    assert one == 1
    assert many > 20
    assert np.array_equal(whole, parts)


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 2, 3), *ANY])
def test_strips_of_reading_and_writing_do_not_change_a_single_bit(factors, monkeypatch):
    shape = (17, 30, 20)
    array = np.random.default_rng(1).random(shape, dtype=np.float32)
    geometry = make_geometry(shape=shape, factors=factors, window=(4, 6, 6), overlap=0.5, box=Box.of_shape(shape))
    whole, _, _ = slide(FakeSource(array), geometry)
    monkeypatch.setattr("connectomics_zoo.predict.slide.STRIP_VOXELS", 500)
    source = FakeSource(array)
    strips, _, _ = slide(source, geometry)
    # A strip, or one network row; and of ratios that are no whole numbers, the two rows that are cut by its ends.
    whole_ratios = all(isinstance(factor, int) for factor in factors)
    row = 20 * (4 * factors[0] if whole_ratios else 4 * math.ceil(factors[0]) + 2)
    assert max(source.reads) <= max(500, row * math.ceil(factors[1])) + (0 if whole_ratios else 2 * row)
    assert np.array_equal(whole, strips)


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 3, 2), *ANY])
@pytest.mark.parametrize("region", ["z=5:9", "z=0:3,y=7:30", "y=11:12,x=3:37", "z=16:17,y=49:50,x=39:40"])
def test_a_region_equals_the_same_part_of_the_whole(factors, region):
    shape = (17, 50, 40)
    array = np.random.default_rng(2).random(shape, dtype=np.float32)

    def run(box):
        geometry = make_geometry(shape=shape, factors=factors, window=(4, 6, 6), overlap=0.5, box=box)
        return slide(FakeSource(array), geometry, batch_size=1)[0]

    part = region_box(region, shape=shape, location="a volume")
    np.testing.assert_array_equal(run(part), run(Box.of_shape(shape))[(slice(None), *part.slices)])


def test_a_region_reads_and_predicts_only_what_it_needs():
    shape = (200, 64, 64)
    source = FakeSource(np.zeros(shape, dtype=np.float32))
    geometry = make_geometry(
        shape=shape, factors=(1, 1, 1), window=(8, 16, 16), overlap=0.5, box=Box((100, 0, 0), (104, 8, 64))
    )
    _, _, windows = slide(source, geometry)
    assert windows == 2 * 1 * 7
    assert sum(source.reads) == 12 * 16 * 64


def test_memory_does_not_grow_with_the_number_of_sections():
    def measure(sections):
        source = FakeSource(np.zeros((sections, 48, 48), dtype=np.uint8))
        geometry = make_geometry(
            shape=source.array.shape,
            factors=(1, 1, 1),
            window=(8, 16, 16),
            overlap=0.5,
            box=Box.of_shape(source.array.shape),
        )
        tracemalloc.start()
        for _ in predict_block(
            source,
            fake_forward,
            geometry=geometry,
            chunk=8,
            scale=lambda block: block.astype(np.float32),
            channels_in=1,
            channels_out=2,
            batch_size=1,
            advance=lambda count: None,
        ):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        stated = plan.block_bytes(
            geometry, block=source.array.shape, shard_depth=0, channels_in=1, channels_out=2, value_bytes=1
        )
        return peak, max(source.reads), stated

    short, long = measure(64), measure(640)
    assert long[1] == short[1] == 8 * 48 * 48
    assert long[2] == short[2]
    assert long[0] < short[0] + 60_000  # the weights' sum along z, and the list of planes
    assert short[2] * 0.7 < short[0] < short[2] + 400_000  # a strip and a window on top of what is stated


CUTS = {
    "a crop": ((64, 300, 300), (1, 1, 1), (16, 128, 128), 1, 1),
    "thick sections": ((1000, 20_000, 30_000), (1, 1, 1), (16, 128, 128), 3, 1),
    "isotropic, many channels": ((5000, 5000, 5000), (1, 1, 1), (96, 96, 96), 12, 1),
    "downsampled": ((300, 20_000, 20_000), (1, 4, 4), (16, 192, 192), 2, 4),
    "a large window": ((2000, 2000, 2000), (1, 1, 1), (256, 256, 256), 24, 4),
}


@pytest.mark.parametrize("case", CUTS)
@pytest.mark.parametrize("workers", [1, 7])
def test_outputs_are_cut_into_whole_chunks_whole_shards_and_blocks_inside_the_budget(case, workers):
    shape, factors, window, channels, value_bytes = CUTS[case]
    geometry = make_geometry(shape=shape, factors=factors, window=window, overlap=0.5, box=Box.of_shape(shape))
    options = {"channels_in": 1, "channels_out": channels, "value_bytes": value_bytes}
    cutting = plan.cut(geometry, workers=workers, budget=2**32, **options)
    for chunk, shard, block in zip(cutting.chunks, cutting.shards, cutting.block, strict=True):
        assert shard % chunk == 0
        assert block % shard == 0
    assert plan.block_bytes(geometry, block=cutting.block, shard_depth=cutting.shards[0], **options) <= 2**32
    blocks = BlockGrid(geometry.box, cutting.block)
    needed = plan.windows_of_blocks(geometry, blocks)
    assert (
        needed == sum(plan.count_windows(geometry, blocks.box_of(index)) for index in range(min(len(blocks), 3)))
        or len(blocks) > 3
    )
    once = plan.count_windows(geometry, geometry.box)
    if case != "a large window" and workers == 1:
        assert needed <= 1.4 * once
    # Of several workers none is the slower for the others.
    assert -(-len(blocks) // workers) * needed / len(blocks) <= once * (1 if workers > 1 else 2.5)


def test_a_mask_leaves_out_windows_and_changes_no_voxel_in_front_of_it_whatever_the_blocks():
    shape = (16, 40, 40)
    array = np.random.default_rng(3).random(shape, dtype=np.float32)
    shown = np.zeros(shape, dtype=np.uint8)
    shown[3:9, 5:20, 22:30] = 1
    for factors in ((1, 1, 1), (2, 2, 2), (1, Fraction(3, 2), Fraction(6, 5))):
        geometry = make_geometry(shape=shape, factors=factors, window=(4, 6, 6), overlap=0.5, box=Box.of_shape(shape))
        whole, _, all_windows = slide(FakeSource(array), geometry, batch_size=1)
        counted = []

        def forward(windows, counted=counted):
            counted.append(len(windows))
            return fake_forward(windows)

        for edges in (None, (5, 16, 16)):
            counted.clear()
            masked, _, told = slide(
                FakeSource(array), geometry, batch_size=1, edges=edges, forward=forward, mask=FakeSource(shown)
            )
            assert np.array_equal(masked[:, shown != 0], whole[:, shown != 0])
            assert sum(counted) < told / 2
            assert edges is not None or told == all_windows


@pytest.mark.parametrize(
    ("depth", "window", "factor", "chunk"),
    [(100, 4, 1, 8), (100, 32, 1, 16), (100, 32, 2, 32), (900, 200, 1, 64), (5, 4, 1, 5)],
)
def test_chunks_have_the_sections_of_a_plane_of_windows_within_8_and_64(depth, window, factor, chunk):
    shape = (depth, 300, 40)
    geometry = make_geometry(
        shape=shape, factors=(factor, 1, 1), window=(window, 32, 32), overlap=0.5, box=Box.of_shape(shape)
    )
    assert plan.chunk_shape(geometry) == (chunk, 128, 40)


@pytest.mark.parametrize("factors", [(1, 1, 1), (1, 2, 3), (Fraction(5, 4), Fraction(8, 9), Fraction(23, 10))])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_a_block_holds_no_more_than_is_stated(factors, overlap):
    shape = (40, 700, 1100)
    geometry = make_geometry(
        shape=shape, factors=factors, window=(16, 96, 80), overlap=overlap, box=Box.of_shape(shape)
    )
    options = {"channels_in": 2, "channels_out": 3, "value_bytes": 1}
    cutting = plan.cut(geometry, budget=2**23, **options)
    blocks = BlockGrid(geometry.box, cutting.block)
    assert len(blocks) > 4
    for index in range(len(blocks)):
        here = replace(geometry, box=blocks.box_of(index))
        rows = plan.rows_in_memory(here, plan.plan_planes(here, chunk=cutting.chunks[0]))
        needed = geometry.network_box(here.box)
        height, width = (
            min(grid.size, starts[-1] + grid.window) - starts[0]
            for grid, starts in (
                (geometry.grids[axis], geometry.grids[axis].touching(*needed.ranges[axis])) for axis in (1, 2)
            )
        )
        # The image and the rows that come next, the sums, and two rows of shards.
        held = 4 * (2 * 2 * 16 * height * width + 3 * rows * needed.shape[1] * needed.shape[2])
        held += 2 * 3 * cutting.shards[0] * here.box.shape[1] * here.box.shape[2]
        assert held <= plan.block_bytes(geometry, block=here.box.shape, shard_depth=cutting.shards[0], **options)


def test_complete_sections_are_handed_out_in_whole_chunks():
    shape = (100, 32, 32)
    geometry = make_geometry(
        shape=shape, factors=(2, 1, 1), window=(8, 16, 16), overlap=0.5, box=Box((3, 0, 0), (90, 32, 32))
    )
    rows = [plane.rows for plane in plan.plan_planes(geometry, chunk=8)]
    assert rows[0][0] == 3
    assert rows[-1][1] == 90
    assert all((stop - 3) % 8 == 0 for _, stop in rows[:-1])


def test_weights_of_a_window_are_a_gaussian_of_an_eighth_and_add_up_to_one():
    grid = AxisGrid(size=100, window=32, overlap=0.5)
    total = np.zeros(100)
    for start in grid.starts:
        total[start : start + 32] += grid.weights(start, first=start, stop=start + 32)
    np.testing.assert_allclose(total, 1, atol=1e-6)
    shares = grid.weights(16, first=32, stop=48), grid.weights(32, first=32, stop=48)
    log_ratio = np.log(shares[0] / shares[1])
    centres = 16 + 15.5, 32 + 15.5
    voxels = np.arange(32, 48)
    expected = ((voxels - centres[1]) ** 2 - (voxels - centres[0]) ** 2) / (2 * 4.0**2)
    expected_between = log_ratio - expected
    assert np.ptp(expected_between) < 1e-3


@pytest.mark.parametrize("overlap", ["0", "0.1", "0.25", "0.3", "0.5", "0.7", "0.9"])
def test_windows_share_as_much_as_was_asked_for_and_not_a_voxel_more_by_rounding(overlap):
    for window in range(1, 257):
        step = AxisGrid(size=1000, window=window, overlap=float(overlap)).step
        assert step == max(1, math.floor(window * (1 - Fraction(overlap)))), window


def test_the_last_window_ends_at_the_border():
    assert AxisGrid(size=70, window=32, overlap=0.5).starts == (0, 16, 32, 38)
    assert AxisGrid(size=64, window=32, overlap=0.5).starts == (0, 16, 32)
    assert AxisGrid(size=20, window=32, overlap=0.5).starts == (0,)
