"""No place of this machine is given away, and volumes keep names that tell them apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectomics_zoo.errors import SpecError
from connectomics_zoo.push.portable import portable_run, refuse_leaks
from connectomics_zoo.schema.experiment import DataSpec


def made_portable(**data):
    run = get_run_like(data)
    return portable_run(run).data


def get_run_like(data):
    from support.tiny_training import make_run

    return make_run(DataSpec.model_validate(data).model_dump())


def pair(image):
    return {"image": image, "label": image.replace("raw", "mito")}


@pytest.mark.parametrize(
    ("place", "portable"),
    [
        ("volume.h5:raw", "volume.h5:raw"),
        ("stack/volume.zarr:0/raw", "stack/volume.zarr:0/raw"),
        ("/home/me/data/volume.h5:raw", "volume.h5:raw"),
        ("../data/volume.tif", "volume.tif"),
        ("~/volume.zarr/0/raw", "volume.zarr:0/raw"),
        ("data/../../volume.h5:raw", "volume.h5:raw"),
        (r"C:\Users\me\volume.h5:raw", "volume.h5:raw"),
        ("/home/me/sections/", "sections"),
        ("s3://lab/data/volume.zarr/0/raw", "volume.zarr:0/raw"),
        ("https://lab.org/volume.n5:raw?signature=secret", "volume.n5:raw"),
    ],
)
def test_places_outside_of_the_root_keep_their_last_part(place, portable):
    data = made_portable(root="/home/me", train=[pair(place)])
    assert data.root == "???"
    assert data.train[0].image == portable


def test_volumes_of_one_name_in_two_places_stay_two():
    data = made_portable(
        train=[pair("/a/volume.h5:raw"), pair("/b/volume.h5:raw")],
        validation=[pair("volume.h5:raw"), pair("/a/volume.h5:raw")],
    )
    names = [item.image for item in (*data.train, *data.validation)]
    assert names == ["2/volume.h5:raw", "3/volume.h5:raw", "volume.h5:raw", "2/volume.h5:raw"]
    assert [item.label for item in data.train] == ["2/volume.h5:mito", "3/volume.h5:mito"]


@pytest.mark.parametrize("text", ["/home/me/x", "root: /home/me", "'/home/me/y'", "in /home/me, it is"])
def test_a_place_is_found_wherever_it_stands(text):
    with pytest.raises(SpecError, match="would tell the place"):
        refuse_leaks({"a": text.encode()}, [Path("/home/me")])


@pytest.mark.parametrize("text", ["https://site/home/me/x", "/home/meadow", "a/home/me", "home/me"])
def test_what_only_looks_like_a_place_is_none(text):
    refuse_leaks({"a": text.encode()}, [Path("/home/me"), Path("/"), None])
