"""`zoo convert` of ONNX files: tensors by name or by order of use, proved by a run, and nothing else is touched."""

from __future__ import annotations

import importlib
import importlib.util
import re
import warnings

import pytest
import torch
from support.cellmap_original import CASES, original
from support.exporting import make_small_run
from support.valid_network import valid_network, valid_spec
from torch import nn

from connectomics_zoo.convert import onnx_file, onnx_network, onnx_proof
from connectomics_zoo.convert.run import convert
from connectomics_zoo.errors import LimitError, MissingPackageError, WeightsError
from connectomics_zoo.export.run import export_network
from connectomics_zoo.fastpath import plain_only
from connectomics_zoo.network.build import build, with_counts
from connectomics_zoo.network.seeding import seed_parameters
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights.load import load

onnx = pytest.importorskip("onnx", reason="onnx, an extra, is not installed")


def export(network, image, path, **options):
    """Write an ONNX file by the exporter that most published files are of, or with `dynamo`, by today's."""
    with plain_only(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        usual = {"dynamo": False, "opset_version": 17, "input_names": ["input"], "output_names": ["output"]}
        torch.onnx.export(network.eval(), (image,), str(path), **usual | options)
    return path


def image_of(spec, *, batch=1):
    generator = torch.Generator().manual_seed(3)
    return torch.randn((batch, spec.input.channels, *spec.input.size.minimum), generator=generator)


def seeded(spec):
    """The network with random weights and, where it has them, running statistics."""
    network = build(spec, deep_supervision=False)
    seed_parameters(network)
    generator = torch.Generator().manual_seed(1)
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return network.eval()


def same_numbers(folder, network, image):
    with torch.no_grad():
        torch.testing.assert_close(load(folder)(image), network(image), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """A spec, its network and the ONNX file of both."""
    spec = with_counts(valid_spec())
    network = valid_network(spec).eval()
    return spec, network, export(network, image_of(spec), tmp_path_factory.mktemp("onnx") / "model.onnx")


def changed(path, target, change):
    """Write the file at `path` with a change to `target`."""
    model = onnx.load_model(str(path))
    change(model)
    onnx.save_model(model, str(target))
    return target


def nameless(model):
    """Give every tensor a name that says nothing, as constant folding does."""
    names = {item.name: f"onnx::Any_{index}" for index, item in enumerate(model.graph.initializer)}
    for item in model.graph.initializer:
        item.name = names[item.name]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)


@pytest.mark.parametrize("case", ["another output voxel", "transposed"])
def test_cellmap_s_own_networks_come_in(case, tmp_path):
    theirs = original(CASES[case])
    seed_parameters(theirs)
    spec = with_counts(resolve_model("cellmap-cosem", arch=CASES[case]))
    pooling = CASES[case]["output_stride"]
    seen = torch.randn(1, 1, *(edge // factor for edge, factor in zip(spec.input.size.minimum, pooling, strict=True)))
    file = export(theirs, seen, tmp_path / "model.onnx")
    done = convert(file, tmp_path / "out", model=spec)
    assert (done.renamed, done.tensors) == (0, len(theirs.state_dict()))
    weights = load(tmp_path / "out").state_dict()
    assert all(torch.equal(weights[key], tensor) for key, tensor in theirs.state_dict().items())
    assert re.match(r"\d.*e-\d+ apart at most from what ONNX Runtime gives of an image of", done.proof)


def test_an_activation_that_zoo_export_wrote_is_one_operator_behind_the_logits(tmp_path):
    export_network(
        make_small_run(tmp_path / "run"), tmp_path / "model.onnx", format="onnx", activation="task", size=(4, 8, 8)
    )
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [node.op_type for node in graph.node if graph.output[0].name in node.output] == ["Sigmoid"]


@pytest.mark.parametrize(
    ("model", "arch", "options"),
    [
        ("mednext-S", {"base_channels": 2, "block_counts": [1] * 9}, {}),
        ("monai_unet", {"channels": [2, 4, 8], "strides": [[2, 2, 2]] * 2}, {}),
        ("monai_unet", {"channels": [2, 4], "strides": [[2, 2, 2]]}, {"dynamo": True, "opset_version": 18}),
    ],
)
def test_what_constants_were_folded_into_is_found_by_the_order_of_use(model, arch, options, tmp_path):
    spec = with_counts(resolve_model(model, arch=arch))
    network = seeded(spec)
    file = export(network, image_of(spec), tmp_path / "model.onnx", **options)
    done = convert(file, tmp_path / "out", model=spec)
    assert done.renamed > 0
    assert bool(done.folded) == (model == "monai_unet")  # whose batch norms became parts of convolutions
    same_numbers(tmp_path / "out", network, image_of(spec, batch=2))


def test_tensors_without_any_name_of_the_network_s_are_found_by_the_order_of_use(valid, tmp_path):
    spec, network, path = valid
    file = changed(path, tmp_path / "nameless.ONNX", nameless)
    done = convert(file, tmp_path / "out", model=spec)
    assert done.renamed == len(network.state_dict())
    same_numbers(tmp_path / "out", network, image_of(spec))


def test_the_model_is_the_one_that_gives_the_file_s_numbers(monkeypatch, tmp_path):
    """Two of these three have the same tensors, and what tells them apart is no tensor."""
    arch = {"channels": [2, 3], "strides": [[1, 2, 2]], "kernel_sizes": [[1, 3, 3], [3, 3, 3]], "norm": "none"}
    specs = {
        name: with_counts(resolve_model("rsunet", arch=arch | changes).model_copy(update={"name": name}))
        for name, changes in {"other": {"channels": [2, 4]}, "relu": {}, "elu": {"activation": "elu"}}.items()
    }
    monkeypatch.setattr(onnx_network, "every_model", lambda: specs)
    network = seeded(specs["elu"])
    file = export(nn.Sequential(network, nn.Sigmoid()), image_of(specs["elu"]), tmp_path / "model.onnx")
    done = convert(file, tmp_path / "out")
    assert done.model == "elu@1.0.0"
    assert "after the file's sigmoid" in done.proof
    same_numbers(tmp_path / "out", network, image_of(specs["elu"]))
    with pytest.raises(WeightsError, match="relu has tensors of these shapes, and gives other numbers of an image of"):
        convert(file, tmp_path / "wrong", model=specs["relu"])
    assert not (tmp_path / "wrong").exists()


def test_without_onnx_runtime_its_reference_runs_the_file(valid, monkeypatch, tmp_path):
    spec, _, path = valid
    find = importlib.util.find_spec
    hidden = {"onnxruntime"}
    monkeypatch.setattr(onnx_proof.importlib.util, "find_spec", lambda name: None if name in hidden else find(name))
    done = convert(path, tmp_path / "out", model=spec)
    assert "from what onnx's reference gives" in done.proof


def test_without_onnx_one_sentence_names_the_extra(valid, monkeypatch, tmp_path):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(onnx_file.importlib, "import_module", missing)
    with pytest.raises(MissingPackageError, match=r"not installed: run `pip install 'connectomics-zoo\[export\]'`"):
        convert(valid[2], tmp_path / "out", model=valid[0])


# What is refused ------------------------------------------------------------------------------------------------------


def renamed_tensor(model):
    item = model.graph.initializer[0]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = "onnx::lost" if name == item.name else name
    item.name = "onnx::lost"
    item.dims[0] += 1
    item.raw_data += item.raw_data[: len(item.raw_data) // (item.dims[0] - 1)]


def with_operator(op, domain=""):
    def change(model):
        model.graph.node.append(onnx.helper.make_node(op, ["output"], ["more"], domain=domain))

    return change


def second_output(model):
    model.graph.output.append(model.graph.output[0])


def one_byte_less(model):
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-1]


def unknown_channels(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "channels"


def external(proto, location):
    proto.data_location = onnx.TensorProto.EXTERNAL
    proto.external_data.add(key="location", value=location)


def numbers_elsewhere(model):
    model.graph.initializer.add(name="steps", data_type=onnx.TensorProto.INT64, dims=[1])
    external(model.graph.initializer[-1], "../secret.bin")


def constant_elsewhere(model):
    value = onnx.helper.make_tensor("value", onnx.TensorProto.INT64, [1], [1])
    external(value, "/etc/hostname")
    model.graph.node.append(onnx.helper.make_node("ConstantOfShape", ["output"], ["more"], value=value))


def with_graph(model):
    body = onnx.helper.make_graph([], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("SequenceMap", ["output"], ["more"], body=body))


def same_everywhere(model):
    for item in model.graph.initializer:
        if item.name == "prediction_head.weight":
            item.raw_data = bytes(len(item.raw_data))


def another_size(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed_tensor, r"has no tensor for backbone.0.l_conv.0.conv_pass.0.weight, a convolution of shape \[2, 1, 1"),
        (with_operator("Strange", "com.acme"), "has operators of 'com.acme' beside those of ONNX"),
        (with_operator("Loop"), "has the operator Loop, whose graph is not looked into"),
        (with_graph, "has the operator SequenceMap, whose graph is not looked into"),
        (numbers_elsewhere, "the bytes of 'steps' lie at '../secret.bin', and are read from its own folder alone"),
        (constant_elsewhere, "lie at '/etc/hostname', and are read from its own folder alone"),
        (same_everywhere, r"gives -?[\d.e-]+ wherever one looks in an image of .*, so that nothing tells"),
        (second_output, "has 1 inputs and 2 outputs, and a network here has one of each"),
        (one_byte_less, r"has \d+ bytes and not \d+, get it again"),
        (unknown_channels, "does not say the channels of 'input', export it with fixed ones"),
        (another_size, r"takes an image of \[4, 10, 10\] voxels alone, which cellmap-fly does not accept"),
    ],
)
def test_what_is_not_a_network_s_file_is_refused_in_one_sentence(valid, tmp_path, change, message):
    spec, _, path = valid
    file = changed(path, tmp_path / "model.onnx", change)
    with pytest.raises(WeightsError, match=message):
        convert(file, tmp_path / "out", model=spec)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_onnx_or_too_large_is_refused_before_tensors_are_made(valid, monkeypatch, tmp_path):
    spec, _, path = valid
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a readable ONNX file"):
        convert(damaged, tmp_path / "out", model=spec)
    with pytest.raises(WeightsError, match="there is no such file"):
        convert(tmp_path / "none.onnx", tmp_path / "out", model=spec)
    with pytest.raises(WeightsError, match="an ONNX file holds one network, for which --at means nothing"):
        convert(path, tmp_path / "out", model=spec, at="state_dict")
    monkeypatch.setattr(onnx_file, "_tensor", lambda *_: pytest.fail("a tensor is made"))
    monkeypatch.setattr(onnx_file, "MAX_WEIGHTS_BYTES", 100)
    with pytest.raises(LimitError, match=r"its tensors take \d+ bytes, at most 100 are read"):
        convert(path, tmp_path / "out", model=spec)
    monkeypatch.setattr(onnx_file, "MAX_FILE_BYTES", 100)
    with pytest.raises(LimitError, match="larger than the 100 bytes that an ONNX file may have"):
        convert(path, tmp_path / "out", model=spec)


def outside(path, target, location):
    """Write the file with all tensors in `weights.bin` beside it, which it says to lie at `location`."""
    model = onnx.load_model(str(path))
    onnx.save_model(model, str(target), save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load_model(str(target), load_external_data=False)
    for item in model.graph.initializer:
        for entry in item.external_data:
            if entry.key == "location":
                entry.value = location
    target.write_bytes(model.SerializeToString())
    return target


def test_tensors_beside_the_file_are_read_out_of_its_own_folder_alone(valid, tmp_path):
    spec, network, path = valid
    folder = tmp_path / "model"
    folder.mkdir()
    convert(outside(path, folder / "model.onnx", "weights.bin"), tmp_path / "out", model=spec)
    same_numbers(tmp_path / "out", network, image_of(spec))
    (tmp_path / "secret.bin").write_bytes((folder / "weights.bin").read_bytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "short.bin").write_bytes(b"short")
    for location, message in (
        ("../secret.bin", "lie at '../secret.bin', and are read from its own folder alone"),
        (str(tmp_path / "secret.bin"), "and are read from its own folder alone"),
        ("link.bin", "lie at 'link.bin', and are read from its own folder alone"),
        ("none.bin", "its file 'none.bin' is missing, put it into the same folder"),
        ("short.bin", "is not wholly in 'short.bin'"),
    ):
        with pytest.raises(WeightsError, match=re.escape(message)):
            convert(outside(path, folder / "model.onnx", location), tmp_path / "again", model=spec)
