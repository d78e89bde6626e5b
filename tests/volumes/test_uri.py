"""URIs of volumes: their parts, what reaches them, and what the environment says of object stores."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorstore
from support.volume_files import fails

from connectomics_zoo.errors import OutputError
from connectomics_zoo.volumes import uri
from connectomics_zoo.volumes.store_files import reachable
from connectomics_zoo.volumes.uri import Uri, kvstore_of, parse_place, store_context
from connectomics_zoo.volumes.zarr_writing import store_errors


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch, tmp_path):
    for name in ("NO_SIGN_REQUEST", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "PROFILE", "REGION", "DEFAULT_REGION",
                 "ENDPOINT_URL", "ENDPOINT_URL_S3", "WEB_IDENTITY_TOKEN_FILE"):  # fmt: skip
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(uri, "_INSTANCE", tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://bucket/a/b.zarr/", Uri("s3", "bucket", "a/b.zarr")),
        ("S3://bucket", Uri("s3", "bucket", "")),
        ("gs://bucket//a/./b", Uri("gs", "bucket", "a/b")),
        ("https://host:8080/a%20b?x=1&y=2", Uri("https", "host:8080", "a%20b", "x=1&y=2")),
        ("https://host/a.zarr?x=1#2", Uri("https", "host", "a.zarr#2", "x=1")),
        ("precomputed://gs://bucket/raw", Uri("gs", "bucket", "raw")),
        ("zarr2://s3://bucket/raw", Uri("s3", "bucket", "raw")),
        ("file:///data/a.zarr", Path("/data/a.zarr")),
        ("data/a.zarr", Path("data/a.zarr")),
        ("C:/data/a.zarr", Path("C:/data/a.zarr")),
    ],
)
def test_a_place_is_a_uri_or_a_path(text, place):
    assert parse_place(text) == place


def test_a_uri_is_walked_as_a_path_is():
    place = Uri("s3", "bucket", "a/b.zarr")
    assert (place.name, place.suffix, str(place / "0/x/"), str(place)) == (
        "b.zarr", ".zarr", "s3://bucket/a/b.zarr/0/x", "s3://bucket/a/b.zarr",
    )  # fmt: skip
    assert [str(folder) for folder in place.parents] == ["s3://bucket/a", "s3://bucket"]
    assert Uri("s3", "bucket", "").parents == ()
    assert str(Uri("https", "host", "a", "signature=secret")) == "https://host/a"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ftp://host/a.zarr", "URIs of ftp:// are not read, give one of s3://, gs://, http://, https://, or a local"),
        ("s3:///a.zarr", "s3:///a.zarr: names no bucket, write s3://BUCKET/path."),
        ("http://", "http://: names no host, write http://HOST/path."),
        ("s3://bucket/a/../b", "has '..' in its path"),
        ("https://me:secret@host/a", "https://…@host: has a name or a password in it, which is not read, leave it out"),
    ],
)
def test_what_is_no_place_is_refused(text, sentence):
    with fails(sentence):
        parse_place(text)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("/data/a.zarr", {"driver": "file", "path": "/data/a.zarr/"}),
        ("gs://bucket/a", {"driver": "gcs", "bucket": "bucket", "path": "a/"}),
        ("gs://bucket", {"driver": "gcs", "bucket": "bucket", "path": ""}),
        ("https://h:1/a?x=1", {"driver": "http", "base_url": "https://h:1?x=1", "path": "/a/"}),
    ],
)
def test_a_place_is_reached_by_the_driver_of_its_scheme(text, spec):
    assert kvstore_of(parse_place(text)) == spec
    tensorstore.KvStore.open(spec, context=store_context()).result()


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({}, {"aws_credentials": {"type": "anonymous"}}),
        ({"AWS_ACCESS_KEY_ID": "x"}, {"aws_credentials": {"type": "environment"}}),
        ({"AWS_ACCESS_KEY_ID": "x", "AWS_NO_SIGN_REQUEST": "YES"}, {"aws_credentials": {"type": "anonymous"}}),
        (
            {"AWS_PROFILE": "lab", "AWS_SHARED_CREDENTIALS_FILE": "/a", "AWS_CONFIG_FILE": "/b"},
            {"aws_credentials": {"type": "profile", "profile": "lab", "credentials_file": "/a", "config_file": "/b"}},
        ),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "x"}, {"aws_credentials": {"type": "ecs"}}),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "x"}, {"aws_credentials": {"type": "default"}}),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, {"aws_region": "eu-west-1", "aws_credentials": {"type": "anonymous"}}),
        (
            {"AWS_ENDPOINT_URL": "http://other", "AWS_ENDPOINT_URL_S3": "http://localhost:9000/"},
            {"endpoint": "http://localhost:9000", "aws_region": "us-east-1", "aws_credentials": {"type": "anonymous"}},
        ),
        (
            {"AWS_ENDPOINT_URL": "http://localhost:9000", "AWS_REGION": "x"},
            {"endpoint": "http://localhost:9000", "aws_region": "x", "aws_credentials": {"type": "anonymous"}},
        ),
    ],
)
def test_the_environment_says_who_asks_which_server_for_a_bucket(monkeypatch, variables, options):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    spec = kvstore_of(parse_place("s3://bucket/a"))
    assert spec == {"driver": "s3", "bucket": "bucket", "path": "a/", **options}
    tensorstore.KvStore.Spec(spec)


def test_a_file_of_credentials_or_a_machine_of_amazon_has_a_role(monkeypatch, tmp_path):
    (tmp_path / "vendor").write_text("Amazon EC2\n")
    monkeypatch.setattr(uri, "_INSTANCE", tmp_path / "vendor")
    assert kvstore_of(parse_place("s3://bucket"))["aws_credentials"] == {"type": "imds"}
    (tmp_path / "none").write_text("[default]\n")
    found = kvstore_of(parse_place("s3://bucket"))["aws_credentials"]
    assert (found["type"], found["profile"], found["credentials_file"]) == (
        "profile", "default", str(tmp_path / "none"),
    )  # fmt: skip


@pytest.mark.parametrize("error", [KeyError("attributes"), TypeError("None"), IndexError("3"), AssertionError()])
@pytest.mark.parametrize("turned", [reachable, store_errors])
@pytest.mark.parametrize("place", [Path("a.zarr"), Uri("s3", "bucket", "a.zarr")])
def test_a_bug_is_no_trouble_of_a_store(error, turned, place):
    with pytest.raises(type(error)) as caught, turned(place):
        raise error
    assert caught.value is error


def test_what_tensorstore_raises_is_trouble_of_a_store(tmp_path):
    (tmp_path / "file").touch()
    store = tensorstore.KvStore.open({"driver": "file", "path": f"{tmp_path}/file/"}).result()
    with pytest.raises(RuntimeError, match="Not a directory"), reachable(tmp_path):
        store.write("a", b"").result()
    with pytest.raises(OutputError, match=r"cannot be written .*Not a directory"), store_errors(tmp_path):
        store.write("a", b"").result()
    web = tensorstore.KvStore.open({"driver": "http", "base_url": "http://127.0.0.1:9"}).result()
    with pytest.raises(OutputError, match="does not support writing"), store_errors(Uri("http", "127.0.0.1:9", "")):
        web.write("a", b"").result()
