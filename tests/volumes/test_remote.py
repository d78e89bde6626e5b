"""Stores behind URIs are read as those on disk, and what goes wrong with a server is said in one sentence."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
from support.stores import file_server, forget_credentials
from support.volume_files import ZARR_3, example, fails, make_array, write

from connectomics_zoo.errors import OutputError
from connectomics_zoo.volumes import Box, open_volume, store_files
from connectomics_zoo.volumes.uri import kvstore_of, parse_place
from connectomics_zoo.volumes.writing import refuse_own_input

ARRAY = example(5, 6, 7)
VOXEL_SIZE_NM = (40.0, 8.0, 4.0)


@pytest.fixture
def few_retries(monkeypatch):
    """Give a server up sooner."""
    monkeypatch.setattr(store_files, "FEW", 1)


def made_zarr(folder, *, zarr_format=2):
    options = {"zarr_format": zarr_format} if ZARR_3 else {}
    group = zarr.open_group(str(folder), mode="w", **options)
    make_array(group, "labels/mito", ARRAY, voxel_size_nm=VOXEL_SIZE_NM)
    return folder


def made_n5(folder):
    store = tensorstore.open(
        {"driver": "n5", "kvstore": {"driver": "file", "path": f"{folder}/raw/"}, "metadata": {"blockSize": [2, 3, 4]}},
        create=True, dtype=tensorstore.uint8, shape=ARRAY.shape[::-1],
    ).result()  # fmt: skip
    store[...] = ARRAY.transpose()
    edit(folder / "raw" / "attributes.json", lambda document: document.update(resolution=VOXEL_SIZE_NM[::-1]))
    return folder


def made_precomputed(folder):
    tensorstore.open(
        {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{folder}/"},
         "scale_metadata": {"resolution": VOXEL_SIZE_NM[::-1], "encoding": "raw"},
         "multiscale_metadata": {"type": "image"}},
        create=True, dtype=tensorstore.uint8, shape=(*ARRAY.shape[::-1], 1),
    ).result()[...] = ARRAY.transpose()[..., None]  # fmt: skip
    return folder


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


STORES = {
    "a.zarr:labels/mito": made_zarr,
    "plain/labels/mito": made_zarr,
    "b.zarr/labels/mito": lambda folder: made_zarr(folder, zarr_format=3 if ZARR_3 else 2),
    "c.n5:raw": made_n5,
    "c.n5/raw": made_n5,
    "seg": made_precomputed,
}


def check(location):
    with open_volume(location) as volume:
        assert volume.location == location.replace("zarr/", "zarr:").replace("n5/", "n5:")
        assert volume.voxel_size_nm == pytest.approx(VOXEL_SIZE_NM)
        np.testing.assert_array_equal(volume.read(volume.whole), ARRAY)
        box = Box((1, 2, 3), (4, 6, 5))
        np.testing.assert_array_equal(volume.read(box), ARRAY[box.slices])
        assert volume.location == open_volume(volume.location).location


def folder_of(location):
    return location.partition(":")[0].partition("/")[0]


@pytest.mark.parametrize("location", STORES)
def test_a_store_in_a_bucket_is_a_volume(tmp_path, s3_server, bucket, location):
    STORES[location](tmp_path / "made")
    s3_server.upload(tmp_path / "made", bucket=bucket, to=f"data/{folder_of(location)}")
    check(f"s3://{bucket}/data/{location}")


@pytest.mark.parametrize("location", STORES)
def test_a_store_on_a_web_server_is_a_volume(tmp_path, location):
    STORES[location](tmp_path / "data" / folder_of(location))
    with file_server(tmp_path) as address:
        check(f"{address}/data/{location}")


@pytest.mark.parametrize("location", STORES)
def test_a_bucket_that_denies_what_is_not_there_is_read(tmp_path, monkeypatch, location):
    forget_credentials(monkeypatch, tmp_path)
    folder = tmp_path / "lab" / folder_of(location)
    STORES[location](folder)
    for name in (".zgroup", "zarr.json", "labels/.zgroup", "labels/zarr.json"):
        (folder / name).unlink(missing_ok=True)
    with file_server(tmp_path, missing=403) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        check(f"s3://lab/{location}")
        with fails("may not be read without credentials"):
            open_volume(f"s3://lab/{location}x")


def test_stores_in_a_bucket_of_google_are_volumes(tmp_path, monkeypatch):
    # tensorstore asks for the address once in a process.
    with file_server(tmp_path) as address:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        for number, (location, make) in enumerate(STORES.items()):
            make(tmp_path / "lab" / f"data{number}" / folder_of(location))
            check(f"gs://lab/data{number}/{location}")
        with fails(
            "gs://no-lab/a.zarr: there is no Zarr, N5 or precomputed store (none of zarr.json, .zarray, .zgroup, "
        ):
            open_volume("gs://no-lab/a.zarr")


def test_the_arrays_of_a_group_in_a_bucket_are_named_where_one_file_has_them_all(tmp_path, s3_server, bucket):
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", **({"zarr_format": 2} if ZARR_3 else {}))
    for name in ("raw", "labels"):
        make_array(group, name, ARRAY)
    s3_server.upload(tmp_path / "a.zarr", bucket=bucket, to="a.zarr")
    with fails(f"s3://{bucket}/a.zarr: is a group, say which array in it, as in a.zarr:ARRAY."):
        open_volume(f"s3://{bucket}/a.zarr")
    zarr.consolidate_metadata(str(tmp_path / "a.zarr"))
    s3_server.upload(tmp_path / "a.zarr", bucket=bucket, to="a.zarr")
    with fails("a.zarr: holds 2 arrays (labels, raw), say which one, as in a.zarr:raw."):
        open_volume(f"s3://{bucket}/a.zarr")
    with fails(f"s3://{bucket}/a.zarr: there is no array 'row', did you mean 'raw'?"):
        open_volume(f"s3://{bucket}/a.zarr:row")


# Bad input


def test_what_is_not_in_a_bucket_is_said(s3_server, bucket):
    with fails(f"s3://{bucket}/no: there is no Zarr, N5 or precomputed store (none of zarr.json, .zarray, .zgroup, "):
        open_volume(f"s3://{bucket}/no")
    with fails(f"s3://{bucket}/no.zarr: there is no Zarr, N5 or precomputed store"):
        open_volume(f"s3://{bucket}/no.zarr")
    with fails(f"s3://{bucket}/no.zarr: there is no array 'raw', check its name."):
        open_volume(f"s3://{bucket}/no.zarr:raw")


# Wheels for Python 3.10 are of this version, which takes the answer for a list that it does not understand.
tells_buckets = pytest.mark.skipif(
    importlib.metadata.version("tensorstore") == "0.1.78", reason="tensorstore does not tell a bucket that is not there"
)


@tells_buckets
@pytest.mark.parametrize("location", ["a.zarr", "a.zarr:raw", "a.n5:raw", "folder"])
def test_a_bucket_that_is_not_there_is_said(bucket, location):
    with fails("s3://no-lab: there is no bucket 'no-lab', check its name."):
        open_volume(f"s3://no-lab/{location}")


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            {},
            "may not be read without credentials, and none are used: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE (",
        ),
        (
            {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"},
            "may not be read with your credentials, check the bucket and what its owner allows you (",
        ),
    ],
)
def test_a_bucket_that_may_not_be_read_says_by_whom(tmp_path, monkeypatch, variables, sentence):
    forget_credentials(monkeypatch, tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with file_server(tmp_path) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"{address}/403")
        for location in ("a.zarr", "a.zarr:raw", "folder"):
            with fails(f"s3://lab/{location.replace(':', '/')}: {sentence}"):
                open_volume(f"s3://lab/{location}")


def test_credentials_that_are_named_and_not_there_are_said(tmp_path, monkeypatch, bucket):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with fails(f"s3://{bucket}/a: the credentials that the environment names are not found ("):
        open_volume(f"s3://{bucket}/a")


@pytest.mark.parametrize("profile", [None, "lab"])
def test_credentials_may_be_in_a_file(tmp_path, monkeypatch, bucket, s3_server, profile):
    s3_server.upload(made_precomputed(tmp_path / "seg"), bucket=bucket, to="seg")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    path = tmp_path / "credentials"
    path.write_text(f"[{profile or 'default'}]\naws_access_key_id = testing\naws_secret_access_key = testing\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    if profile is not None:
        monkeypatch.setenv("AWS_PROFILE", profile)
    assert kvstore_of(parse_place(f"s3://{bucket}"))["aws_credentials"]["type"] == "profile"
    check(f"s3://{bucket}/seg")


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.usefixtures("few_retries")
def test_a_server_that_is_away_is_given_up(tmp_path, monkeypatch):
    forget_credentials(monkeypatch, tmp_path)
    address = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    with fails("s3://lab/a.zarr: the server does not answer (CURL error Could not connect to server: Failed to con"):
        open_volume("s3://lab/a.zarr")
    with fails("check the network, and try again."):
        open_volume(f"{address}/a.zarr")
    with file_server(tmp_path) as address, fails("the server does not answer (Internal Server Error"):
        open_volume(f"{address}/500/a.zarr")


def test_a_server_that_says_nothing_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(store_files, "METADATA_SECONDS", 0.5)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with fails("a.zarr: the server takes too long to answer, try again later."):
            open_volume(f"http://127.0.0.1:{listener.getsockname()[1]}/a.zarr")


@pytest.mark.parametrize(
    ("location", "endpoint", "said"),
    [("s3://lab/a", "localhost:9000", "localhost:9000"), ("s3://no_LAB!/a", None, "Invalid S3 bucket name")],
)
def test_a_bucket_or_an_endpoint_that_cannot_be_is_said(tmp_path, monkeypatch, location, endpoint, said):
    forget_credentials(monkeypatch, tmp_path)
    if endpoint is not None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with fails(f"{location}: cannot be read as a store, so it is damaged") as caught:
        open_volume(location)
    assert said in str(caught.value)


def test_spaces_and_other_signs_may_be_in_a_path(tmp_path, s3_server, bucket):
    made_precomputed(tmp_path / "a lab+" / "seg 1%")
    s3_server.upload(tmp_path / "a lab+", bucket=bucket, to="a lab+")
    check(f"s3://{bucket}/a lab+/seg 1%")
    with file_server(tmp_path) as address:
        check(f"{address}/a%20lab%2B/seg%201%25")


def test_a_bucket_may_be_a_store_and_a_root(tmp_path, s3_server, bucket):
    for path in sorted(made_precomputed(tmp_path / "seg").rglob("*")):
        if path.is_file():
            key = path.relative_to(tmp_path / "seg").as_posix()
            s3_server.client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    check(f"s3://{bucket}")
    s3_server.upload(made_zarr(tmp_path / "a.zarr"), bucket=bucket, to="data/a.zarr")
    with open_volume("a.zarr/labels/mito", root=Path(f"s3://{bucket}/data")) as volume:
        assert volume.location == f"s3://{bucket}/data/a.zarr:labels/mito"
    with open_volume(tmp_path / "seg", root=Path(f"s3://{bucket}/data")) as volume:
        assert volume.location == str(tmp_path / "seg")


def test_an_output_is_never_a_source_behind_a_uri(tmp_path):
    refuse_own_input("s3://lab/a.zarr:raw", tmp_path / "a.zarr")
    with pytest.raises(OutputError, match="is the input itself"):
        refuse_own_input(f"{write(tmp_path / 'a.h5', ARRAY)}:main", tmp_path / "a.h5")
    with pytest.raises(OutputError, match="is the input itself"):
        refuse_own_input("s3://lab/a.zarr:raw", "s3://lab/a.zarr")
    refuse_own_input("s3://lab/a.zarr:raw", "s3://lab/b.zarr")


def test_a_web_server_may_not_have_or_not_give_a_store(tmp_path):
    with file_server(tmp_path) as address:
        with fails(f"{address}/a.zarr: there is no Zarr, N5 or precomputed store"):
            open_volume(f"{address}/a.zarr")
        with fails(f"{address}/403/a.zarr: the server does not give it to everybody, ask its owner for a link that"):
            open_volume(f"{address}/403/a.zarr")


def test_a_scheme_that_is_not_read_is_a_usage_error_of_the_command_line(run_zoo, tmp_path):
    code, _, error = run_zoo("evaluate", "ftp://lab/a.zarr", tmp_path / "b.h5")
    assert code == 2
    assert "ftp://lab/a.zarr: URIs of ftp:// are not read, give one of s3://, gs://, http://, https://" in error


def test_the_command_line_scores_what_is_in_a_bucket(tmp_path, s3_server, bucket, run_zoo):
    labels = np.zeros((8, 16, 16), np.uint16)
    labels[:, 2:7, 2:7], labels[:, 9:14, 9:14] = 1, 2
    make_array(zarr.open_group(str(tmp_path / "a.zarr"), mode="w"), "main", labels, content="instances")
    s3_server.upload(tmp_path / "a.zarr", bucket=bucket, to="a.zarr")
    code, output, error = run_zoo("evaluate", f"s3://{bucket}/a.zarr:main", f"s3://{bucket}/a.zarr/main", "--json")
    assert (code, error) == (0, "")
    assert json.loads(output)["scores"]["adapted_rand_error"] == 0
    code, _, error = run_zoo("evaluate", f"s3://{bucket}/a.zarr:main", f"s3://{bucket}/a.zarr:man")
    assert code == 2
    assert error == f"zoo: s3://{bucket}/a.zarr: there is no array 'man', check its name.\n"


# A store that changes


@pytest.mark.parametrize("location", STORES)
def test_a_store_whose_metadata_is_another_one_is_not_read_on(tmp_path, location):
    folder = tmp_path / folder_of(location)
    STORES[location](folder)
    volume = open_volume(f"{tmp_path}/{location}")
    volume.read(Box.of_shape((1, 1, 1)))
    shutil.rmtree(folder)
    with fails("was changed while it was read, wait until whatever writes it is done and begin again."):
        volume.read(volume.whole)


def test_chunks_of_another_shape_are_no_voxels(tmp_path, s3_server, bucket):
    make_array(zarr.open_group(str(tmp_path / "a.zarr"), mode="w"), "raw", ARRAY)
    s3_server.upload(tmp_path / "a.zarr", bucket=bucket, to="a.zarr")
    volume = open_volume(f"s3://{bucket}/a.zarr:raw")
    make_array(zarr.open_group(str(tmp_path / "b.zarr"), mode="w"), "raw", example(9, 9, 9))
    chunks = [path for path in (tmp_path / "b.zarr" / "raw").rglob("*0*") if path.is_file()]
    assert len(chunks) == 1
    key = f"a.zarr/{chunks[0].relative_to(tmp_path / 'b.zarr').as_posix()}"
    s3_server.client.put_object(Bucket=bucket, Key=key, Body=chunks[0].read_bytes())
    with fails(f"s3://{bucket}/a.zarr: cannot be read as Zarr, so it is damaged"):
        volume.read(volume.whole)
    s3_server.upload(tmp_path / "b.zarr", bucket=bucket, to="a.zarr")
    with fails(f"s3://{bucket}/a.zarr/raw: was changed while it was read, wait until whatever writes it is done"):
        volume.read(volume.whole)


@pytest.mark.parametrize("name", ["a.h5", "a.zarr", "a.tif"])
def test_a_volume_that_is_another_one_when_it_is_opened_again_is_refused(tmp_path, name):
    volume = open_volume(write(tmp_path / name, ARRAY))
    volume.close()
    write(tmp_path / name, example(9, 9, 9, dtype="uint16"), overwrite=True)
    with fails("was changed while it was read (it is uint16 of shape (9, 9, 9) now), wait until whatever writes it"):
        volume.read(Box.of_shape((1, 1, 1)))


def test_an_answer_that_is_not_understood_is_one_sentence(tmp_path):
    with file_server(tmp_path) as address, fails("302/a.zarr: cannot be read as a store, so it is damaged"):
        open_volume(f"{address}/302/a.zarr")
