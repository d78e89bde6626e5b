"""A list of references is loaded as one network, whose activated logits are the mean of its members' values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.prediction import grey, make_run, read, write

import zoo
from connectomics_zoo.errors import SpecError
from connectomics_zoo.predict import predict
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.tasks.activations import activate, mean_logits


def mixed_task() -> TaskSpec:
    """A channel of each activation, two of them classes."""
    task = get_task("mito")
    activations = ["sigmoid", "scaled_sigmoid", "tanh", "none", "softmax", "softmax"]
    channels = [task.channels[0].model_copy(update={"activation": activation}) for activation in activations]
    return task.model_copy(update={"channels": tuple(channels)})


def test_the_activated_mean_of_logits_is_the_mean_of_activated_logits():
    task = mixed_task()
    logits = [10 * torch.randn(2, 6, 3, 4, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    wanted = torch.stack([activate(one, task=task) for one in logits]).mean(dim=0)
    torch.testing.assert_close(activate(mean_logits(logits, task=task), task=task), wanted, atol=1e-6, rtol=1e-5)
    # What is certain stays so: the logit is not the infinite one of a probability that is 1 in float32.
    certain = mean_logits([torch.full((1, 6, 1, 1, 1), 40.0)] * 2, task=task)
    torch.testing.assert_close(certain[:, :4], torch.full((1, 4, 1, 1, 1), 40.0))


def test_a_list_is_loaded_as_a_network_that_predicts_as_zoo_predict_does(tmp_path):
    runs = [make_run(tmp_path / name, arch={"base_channels": width}) for name, width in (("a", 2), ("b", 3))]
    voxels = grey((16, 32, 32))
    predict(runs, write(tmp_path / "image.h5", voxels), tmp_path / "out.h5", device="cpu", dtype="float32")
    network = zoo.load(runs)
    assert not network.training
    assert network.spec.input.channels == 1
    with torch.inference_mode():
        values = activate(network(torch.from_numpy(voxels / np.float32(255))[None, None]), task=network.task)
    np.testing.assert_allclose(values[0, 0].numpy(), read(tmp_path / "out.h5"), atol=1e-5)


def test_what_is_no_ensemble_is_refused(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", task=get_task("membrane"))]
    with pytest.raises(SpecError, match=r"a and \S+b do not predict the same \(channels mitochondria against \S+\)"):
        zoo.load(runs)
    with pytest.raises(SpecError, match="take other images: give networks of the same images"):
        zoo.load([runs[0], make_run(tmp_path / "c", in_channels=2)])
    with pytest.raises(SpecError, match="as they are: leave out all but device and frozen"):
        zoo.load(runs[:1], out_channels=2)
    with pytest.raises(SpecError, match="the list of references is empty"):
        zoo.load([])
