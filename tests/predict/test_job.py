"""What workers are told of a prediction."""

from __future__ import annotations

import hashlib
import json

import pytest
from support.prediction import grey, make_run, write

from connectomics_zoo.errors import SpecError
from connectomics_zoo.predict.job import prepared
from connectomics_zoo.predict.request import Request


@pytest.fixture
def request_for(tmp_path):
    run = make_run(tmp_path / "tiny", data={"voxel_size_nm": (30.0, 8.0, 8.0)})
    image = write(tmp_path / "image.h5", grey((16, 40, 40)))

    def make(precision: str) -> Request:
        return Request(
            run=str(run),
            volume=str(image),
            out=str(tmp_path / "out.zarr"),
            window=None,
            overlap=None,
            views=None,
            merge=None,
            intensity_range=None,
            device="cpu",
            engine="torch",
            precision=precision,
            batch_size=1,
            output="probability",
            dtype="uint8",
            region=None,
            mask=None,
            frozen=False,
        )

    return make


def test_workers_compute_in_the_precision_that_was_chosen_where_the_job_began(request_for):
    with prepared(request_for("auto")) as prediction:
        description = prediction.describe(prediction.cut(workers=1))
    assert description.request["precision"] == description.identity["precision"] == "float32"
    assert Request.of(description.request).precision == "float32"


def test_a_job_that_was_begun_before_there_were_classes_is_the_same_job(request_for):
    with prepared(request_for("auto")) as prediction:
        task = prediction.spec.task
        identity = prediction.describe(prediction.cut(workers=1)).identity
    document = task.model_dump(mode="json")
    for channel in document["channels"]:  # the fields of a target as they were then
        names = ("kind", "offset", "attractive", "component", "sigma_nm")
        channel["target"] = {name: channel["target"][name] for name in names}
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]
    assert identity["task"] == f"{task.name} ({digest})"


def test_a_precision_that_the_login_node_lacks_may_be_asked_for_elsewhere(request_for):
    with pytest.raises(SpecError, match="precision float16 is not possible on cpu"), prepared(request_for("float16")):
        pass
    with prepared(request_for("float16"), elsewhere=True) as prediction:
        assert prediction.precision == "float16"
