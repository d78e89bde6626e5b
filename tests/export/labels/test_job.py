"""Exports of labels that are stopped, refused or chosen from, and labels as OME-Zarr."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from support.volume_files import fails, read_all, refuses, write

import zoo
from connectomics_zoo.blocks.status import status_of
from connectomics_zoo.cli.main import cli
from connectomics_zoo.errors import SpecError
from connectomics_zoo.export.labels.run import export_labels
from connectomics_zoo.export.labels.surfaces import SurfaceStage
from connectomics_zoo.schema.provenance import Provenance, UsedWeights
from connectomics_zoo.volumes import Box, Placement, StoredPrediction, open_volume

BLOCK = (16, 32, 32)
VOXEL_SIZE_NM = (30.0, 8.0, 8.0)


@pytest.fixture
def labels():
    array = np.zeros((20, 40, 40), np.uint32)
    array[2:18, 4:36, 4:12] = 4
    array[3:9, 20:30, 20:38] = 90
    array[12:14, 30:32, 30:32] = 6
    return array


@pytest.fixture
def volume(labels, tmp_path):
    return write(str(tmp_path / "labels.h5"), labels, voxel_size_nm=VOXEL_SIZE_NM)


def _files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_stopped_export_says_so_and_goes_on_to_what_one_that_was_not_stopped_makes(volume, tmp_path, monkeypatch):
    options = {"meshes": True, "skeletons": True, "block": BLOCK}
    out = tmp_path / "out"
    work = SurfaceStage.__call__

    def stop(self, index, advance):
        if index == 2:
            raise KeyboardInterrupt
        work(self, index, advance)

    monkeypatch.setattr(SurfaceStage, "__call__", stop)
    with pytest.raises(KeyboardInterrupt, match="8 of 8 voxels, 2 of 8 surfaces: repeat the command to go on"):
        export_labels(volume, out, **options)
    assert not out.exists()
    assert [stage.done for stage in status_of(out).stages] == [8, 2, 0]
    monkeypatch.setattr(
        SurfaceStage, "__call__", lambda self, index, advance: (index > 1 or 1 / 0) and work(self, index, advance)
    )
    with refuses("is the unfinished output of another job (skeletons true there, false here)"):
        export_labels(volume, out, meshes=True, block=BLOCK)
    report = export_labels(volume, out, **options)
    monkeypatch.setattr(SurfaceStage, "__call__", work)
    whole = export_labels(volume, tmp_path / "whole", **options)
    assert _files(out) == _files(tmp_path / "whole")
    assert (report.triangles, report.skeleton_length_nm) == (whole.triangles, whole.skeleton_length_nm)
    assert not list(tmp_path.glob("*.job"))


def test_objects_are_chosen_by_id_and_size_and_the_others_are_in_no_file(volume, labels, tmp_path):
    report = export_labels(volume, tmp_path / "out", ids=[90, 6], min_voxels=10, meshes=True, block=BLOCK)
    np.testing.assert_array_equal(read_all(tmp_path / "out"), np.where(labels == 90, labels, 0))
    assert report.objects == 1
    assert sorted(path.name for path in (tmp_path / "out" / "mesh").iterdir()) == ["90.0", "90:0", "info"]


def test_a_label_that_is_the_same_in_32_bits_is_another_object(tmp_path):
    labels = np.zeros((8, 20, 20), np.uint64)
    labels[2:4, 2:6, 2:6], labels[2:4, 10:18, 10:18] = 5, 2**32 + 5
    place = write(tmp_path / "wide.h5", labels, voxel_size_nm=VOXEL_SIZE_NM)
    assert export_labels(place, tmp_path / "out", ids=[5]).dtype == "uint32"
    np.testing.assert_array_equal(read_all(tmp_path / "out"), np.where(labels == 5, 5, 0))


def test_what_cannot_be_exported_is_refused_in_one_sentence(volume, labels, tmp_path):
    out = tmp_path / "out"
    bare = write(tmp_path / "bare.h5", labels)
    with fails("does not say how large its voxels are, and viewers place labels in nm: give the voxel size"):
        export_labels(bare, out)
    with fails("has no object 5, 7, but 3 with ids from 4 to 90: give ids that it has."):
        export_labels(volume, out, ids=[5, 4, 7])
    with fails("has no object of 5000 voxels or more, the largest has 4096: lower --min-voxels"):
        export_labels(volume, out, min_voxels=5000)
    with fails("holds only background, and no object to export"):
        export_labels(write(tmp_path / "none.h5", labels * 0, voxel_size_nm=VOXEL_SIZE_NM), out)
    (tmp_path / "mine").mkdir()
    with refuses("mine: is no precomputed volume, and would be lost: choose another name."):
        export_labels(volume, tmp_path / "mine", overwrite=True)
    with refuses("s3://bucket/out: is a URI, and labels are exported to disks"):
        export_labels(volume, "s3://bucket/out")
    with refuses("is no name of an OME-Zarr on a disk, let it end in .zarr."):
        export_labels(volume, out, format="ome-zarr")
    for options, text in [
        ({"block": (8, 16, 16)}, "the block (8, 16, 16) is not possible, give three multiples of 16"),
        ({"mesh_error_nm": 4.0}, "mesh_error_nm has no effect without meshes"),
        ({"meshes": True, "mesh_error_nm": -1.0}, "mesh_error_nm -1.0 is not possible"),
        ({"ids": [0]}, "ids [0] are not possible, give whole numbers from 1 up."),
        ({"min_voxels": -1}, "min_voxels -1 is not possible"),
        ({"format": "ome-zarr", "meshes": True}, "meshes and skeletons are written in precomputed volumes"),
    ]:
        with pytest.raises(SpecError, match=re.escape(text)):
            export_labels(volume, out, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare.h5", "labels.h5", "mine", "none.h5"]


def test_ome_zarr_labels_have_levels_and_say_what_they_are(volume, labels, tmp_path, monkeypatch):
    monkeypatch.setattr("connectomics_zoo.volumes.multiscale.SMALLEST", 20)
    out = tmp_path / "labels.zarr"
    report = export_labels(volume, f"{out}:labels/cells", format="ome-zarr", block=BLOCK)
    group = zarr.open_group(str(out / "labels" / "cells"), mode="r")
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    assert [entry["path"] for entry in ome["multiscales"][0]["datasets"]] == ["0", "1"]
    np.testing.assert_array_equal(group["0"][:], labels)
    assert group["1"].shape == (20, 20, 20) == report.levels[1]
    said = ome["image-label"]
    sizes = {entry["label-value"]: entry["voxels"] for entry in said["properties"]}
    assert sizes == {one: int((labels == one).sum()) for one in (4, 6, 90)}
    colors = {entry["label-value"]: tuple(entry["rgba"]) for entry in said["colors"]}
    assert len(set(colors.values())) == 3
    assert zarr.open_group(str(out / "labels"), mode="r").attrs["ome"]["labels"] == ["cells"]


def test_the_command_line_exports_labels_and_refuses_options_of_networks(volume, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, ["export", volume, str(out), "--format", "precomputed", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["objects"] == 3
    again = CliRunner().invoke(cli, ["export", volume, str(out), "--format", "precomputed"])
    assert "exists already, choose another name or overwrite it (--overwrite" in str(again.exception)
    replaced = CliRunner().invoke(
        cli, ["export", volume, str(out), "--format", "precomputed", "--overwrite", "--ids", "4,90"]
    )
    assert "2 objects, 20 x 40 x 40 uint32 of 30 x 8 x 8 nm at 1 scales" in replaced.stdout
    wrong = CliRunner().invoke(cli, ["export", "a", "b", "--format", "ome-zarr", "--size", "8,8,8"])
    assert "--size: of networks alone, and the format ome-zarr is one of labels, leave it out." in wrong.output


def test_meshes_are_refused_where_files_cannot_be_called_as_they_must(volume, tmp_path, monkeypatch):
    monkeypatch.setattr("connectomics_zoo.export.labels.request.IS_WINDOWS", True)
    with pytest.raises(SpecError, match="which Windows does not have: leave --meshes out"):
        export_labels(volume, tmp_path / "out", meshes=True)


@pytest.mark.parametrize("form", ["precomputed", "ome-zarr"])
def test_an_export_says_of_itself_what_its_labels_do(form, labels, tmp_path):
    weights = UsedWeights(reference="runs/a", model="tiny@1.0.0", sha256="a" * 64)
    provenance = Provenance(weights=weights)
    placement = Placement(Box((1, 2, 3), (21, 42, 43)), (40, 50, 50))
    stored = StoredPrediction("instances", zoo.get_task("affinities-3"), placement, provenance=provenance)
    place = write(str(tmp_path / "objects.zarr"), labels, voxel_size_nm=VOXEL_SIZE_NM, stored=stored)
    out = tmp_path / ("out.zarr" if form == "ome-zarr" else "out")
    export_labels(place, out, format=form)
    with open_volume(out) as volume:
        assert volume.stored() == stored
    assert status_of(out).state == "finished"
