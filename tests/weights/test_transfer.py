"""Weights: read and written safely, transferred strictly, and reported tensor by tensor."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mounts import mount
from torch import Tensor, nn
from torch.nn import functional as F

from connectomics_zoo.errors import OutputError, WeightsError
from connectomics_zoo.files.digests import file_sha256
from connectomics_zoo.network.build import build
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights import storage
from connectomics_zoo.weights import transfer as transfer_module
from connectomics_zoo.weights.storage import read_weights, write_weights
from connectomics_zoo.weights.transfer import LoadReport, build_with_weights, find_roles, transfer

TINY = {"base_channels": 2, "kernel_size": 3, "expansion_ratios": 1, "block_counts": [1] * 9}
SCALE_KEYS = {f"out_{level}.conv_out.{kind}" for level in range(1, 5) for kind in ("weight", "bias")}
HEAD_KEYS = SCALE_KEYS | {"out_0.conv_out.weight", "out_0.conv_out.bias"}


def tiny(arch: dict[str, Any] | None = None, *, in_channels: int = 1, out_channels: int = 2) -> ModelSpec:
    return resolve_model("mednext-S", arch=TINY | (arch or {}), in_channels=in_channels, out_channels=out_channels)


def state_of(spec: ModelSpec, *, deep_supervision: bool = True) -> dict[str, Tensor]:
    return dict(build(spec, deep_supervision=deep_supervision).state_dict())


def copy_of(network: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in network.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(first[key].dtype == second[key].dtype and torch.equal(first[key], second[key]) for key in first)


def groups(report: LoadReport) -> tuple[set[str], ...]:
    adapted = [key for key, _ in report.adapted]
    for names in (report.exact, adapted, report.reinitialised, report.dropped):
        assert len(set(names)) == len(names)
    return set(report.exact), set(adapted), set(report.reinitialised), set(report.dropped)


# Reading and writing


def test_written_weights_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    network = build(tiny(), deep_supervision=True)
    path = tmp_path / "model.safetensors"
    write_weights(network, path, metadata={"model": "tiny"})
    assert_same(read_weights(path), dict(network.state_dict()))
    assert [item.name for item in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_failed_write_leaves_the_old_weights_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the old weights")

    def full_disk(tensors: object, target: Path, metadata: object) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "save_file", full_disk)
    with pytest.raises(OutputError, match=r"model\.safetensors: cannot be written \(No space left on device\)"):
        write_weights(build(tiny(), deep_supervision=True), path)
    assert path.read_bytes() == b"the old weights"
    assert [item.name for item in tmp_path.iterdir()] == ["model.safetensors"]


def test_writing_into_a_folder_that_does_not_exist_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gone/model\.safetensors: cannot be written .*give a writable place"):
        write_weights(build(tiny(), deep_supervision=True), tmp_path / "gone" / "model.safetensors")


class _Payload:
    """Its unpickling creates the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".pkl", ".PT", ".safetensors", ".weights", ""])
def test_a_pickle_is_refused_before_it_is_unpickled(tmp_path: Path, suffix: str) -> None:
    trap, path = tmp_path / "sprung", tmp_path / f"model{suffix}"
    with path.open("wb") as stream:
        pickle.dump(_Payload(trap), stream)
    with pytest.raises(WeightsError, match="safetensors"):
        read_weights(path)
    assert not trap.exists()
    with path.open("rb") as stream:
        pickle.load(stream)
    assert trap.exists(), "the trap would not have worked"


def test_a_pickle_is_refused_with_the_reason(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "model.pt")
    with pytest.raises(
        WeightsError, match=r"\.pt files are pickles, which can run code .* only \.safetensors is loaded"
    ):
        read_weights(tmp_path / "model.pt")


@pytest.mark.parametrize("kind", ["ext4", "nfs4"])
def test_damaged_weights_are_refused_at_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mount(monkeypatch, tmp_path, kind)
    path = tmp_path / "model.safetensors"
    write_weights(build(tiny(), deep_supervision=True), path)
    content = path.read_bytes()
    for length in (0, 7, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError, match=r"model\.safetensors: not a readable safetensors file .*, get it again"):
            read_weights(path)


def test_the_file_may_be_read_by_whom_other_files_may(tmp_path):
    (tmp_path / "other").touch()
    write_weights(torch.nn.Linear(2, 2), tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_missing_weights_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "model.safetensors", tmp_path):
        with pytest.raises(WeightsError, match="there is no such weights file, check the path"):
            read_weights(path)


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="this system does not list what is mapped")
@pytest.mark.parametrize(
    ("kind", "mapped"), [("ext4", True), ("overlay", True), ("nfs4", False), ("fuse.sshfs", False), (None, False)]
)
def test_weights_are_mapped_where_the_file_system_is_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | None, mapped: bool
) -> None:
    folder = tmp_path / "my disk"
    folder.mkdir()
    network = build(tiny(), deep_supervision=True)
    write_weights(network, folder / "model.safetensors")
    mount(monkeypatch, folder, kind)
    weights = read_weights(folder / "model.safetensors")
    assert (str(folder / "model.safetensors") in Path("/proc/self/maps").read_text()) == mapped
    assert_same(weights, dict(network.state_dict()))


@pytest.mark.parametrize("kind", ["ext4", "nfs4"])
def test_what_was_read_may_be_changed_and_its_file_deleted_or_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mount(monkeypatch, tmp_path, kind)
    path = tmp_path / "model.safetensors"
    first, second = build(tiny(), deep_supervision=True), build(tiny(), deep_supervision=True)
    write_weights(first, path)
    before = file_sha256(path)
    weights = read_weights(path)
    weights["stem.weight"].add_(1)
    assert file_sha256(path) == before
    write_weights(second, path)
    assert torch.equal(weights["stem.weight"], first.state_dict()["stem.weight"] + 1)
    path.unlink()
    assert torch.equal(weights["stem.bias"], first.state_dict()["stem.bias"])


# Roles


def test_roles_are_the_stem_the_heads_and_the_heads_of_the_lower_resolutions() -> None:
    roles = find_roles(tiny())
    assert roles.stem == {"stem.weight"}
    assert roles.head == HEAD_KEYS
    assert roles.scales == SCALE_KEYS


def test_roles_do_not_depend_on_coinciding_channels() -> None:
    assert find_roles(tiny(in_channels=2, out_channels=2)) == find_roles(tiny(in_channels=1, out_channels=4))


# Transfer


def test_equal_shapes_are_copied_and_reported_exact() -> None:
    spec = tiny()
    source, network = state_of(spec), build(spec, deep_supervision=True)
    report = transfer(network, source, spec=spec, source="somewhere")
    assert_same(dict(network.state_dict()), source)
    assert report == LoadReport("somewhere", exact=tuple(source))
    assert report.summary() == f"somewhere: {len(source)} exact"


@pytest.mark.parametrize(("dims", "mode"), [(3, "trilinear"), (2, "bilinear")])
def test_larger_kernels_are_interpolated_from_smaller_ones(dims: int, mode: str) -> None:
    small, large = tiny({"spatial_dims": dims}), tiny({"spatial_dims": dims, "kernel_size": 5})
    source, network = state_of(small), build(large, deep_supervision=True)
    report = transfer(network, source, spec=large, source="k3", resample_kernels=True)
    state = network.state_dict()
    depthwise = {key for key in state if key.endswith("conv1.weight")}
    exact, adapted, *others = groups(report)
    assert (exact, adapted, others) == (state.keys() - depthwise, depthwise, [set(), set()])
    for key, tensor in state.items():
        expected = source[key]
        if key in depthwise:
            expected = torch.stack(
                [  # one kernel at a time
                    F.interpolate(kernel[None], size=(5,) * dims, mode=mode)[0] for kernel in expected
                ]
            )
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-7)
    edges = ("x".join(["3"] * dims), "x".join(["5"] * dims))
    assert {rule for _, rule in report.adapted} == {f"kernel {edges[0]} to {edges[1]} by interpolation (UpKern)"}


def test_only_the_enlarged_half_is_interpolated() -> None:
    large = tiny({"decoder_kernel_size": 5})
    network = build(large, deep_supervision=True)
    report = transfer(network, state_of(tiny()), spec=large, source="k3", resample_kernels=True)
    stages = {key.split(".")[0] for key, _ in report.adapted}
    decoder = {f"{name}_{level}" for name in ("up", "dec_block") for level in range(4)}
    assert stages == decoder | {"bottleneck"}


def test_interpolating_to_the_same_kernel_is_the_identity() -> None:
    spec = tiny()
    source, network = state_of(spec), build(spec, deep_supervision=True)
    report = transfer(network, source, spec=spec, source="k3", resample_kernels=True)
    assert report.adapted == ()
    assert_same(dict(network.state_dict()), source)


def test_kernels_are_not_interpolated_unasked_nor_shrunk() -> None:
    for kernels, resample in (((3, 5), False), ((5, 3), True)):
        source = state_of(tiny({"kernel_size": kernels[0]}))
        spec = tiny({"kernel_size": kernels[1]})
        network = build(spec, deep_supervision=True)
        before = copy_of(network)
        with pytest.raises(WeightsError, match=r"17 of another shape or type \(bottleneck\.0\.conv1\.weight \[32, 1, "):
            transfer(network, source, spec=spec, source="other", resample_kernels=resample)
        assert_same(copy_of(network), before)


@pytest.mark.parametrize(("given_channels", "channels"), [(1, 3), (3, 1), (3, 4)])
def test_stem_adapts_so_that_equal_input_channels_give_the_same_features(given_channels: int, channels: int) -> None:
    source = state_of(tiny(in_channels=given_channels))
    spec = tiny(in_channels=channels)
    network = build(spec, deep_supervision=True).eval()
    report = transfer(network, source, spec=spec, source="other")
    assert report.adapted == (
        ("stem.weight", f"{given_channels} to {channels} input channels by their mean, sum kept"),
    )
    assert report.reinitialised == ()
    original = build(tiny(in_channels=given_channels), deep_supervision=True).eval()
    original.load_state_dict(source)
    x = torch.randn(1, 1, 16, 32, 32)
    with torch.no_grad():
        first = original.stem(x.expand(-1, given_channels, -1, -1, -1))
        second = network.stem(x.expand(-1, channels, -1, -1, -1))
        torch.testing.assert_close(second, first)
        torch.testing.assert_close(
            network(x.expand(-1, channels, -1, -1, -1)),
            original(x.expand(-1, given_channels, -1, -1, -1)),
            rtol=1e-3,
            atol=1e-3,
        )


def test_heads_for_other_channels_are_reinitialised_and_reported() -> None:
    spec = tiny(out_channels=5)
    network = build(spec, deep_supervision=True)
    before = copy_of(network)
    report = transfer(network, state_of(tiny(out_channels=2)), spec=spec, source="other")
    assert set(report.reinitialised) == HEAD_KEYS
    assert set(report.exact) == before.keys() - HEAD_KEYS
    assert_same({key: network.state_dict()[key] for key in HEAD_KEYS}, {key: before[key] for key in HEAD_KEYS})
    assert "10 re-initialised: out_0.conv_out.weight, out_0.conv_out.bias, out_1.conv_out.weight, …" in report.summary()


def test_a_checkpoint_without_scales_loads_with_fresh_heads_that_are_reported() -> None:
    spec = tiny()
    source, network = state_of(spec, deep_supervision=False), build(spec, deep_supervision=True)
    report = transfer(network, source, spec=spec, source="single")
    assert set(report.reinitialised) == SCALE_KEYS
    assert_same({key: network.state_dict()[key] for key in source}, source)


def test_a_checkpoint_with_scales_loads_without_them_and_reports_what_was_dropped() -> None:
    spec = tiny()
    source, network = state_of(spec), build(spec, deep_supervision=False)
    report = transfer(network, source, spec=spec, source="full")
    assert set(report.dropped) == SCALE_KEYS
    assert set(report.exact) == source.keys() - SCALE_KEYS
    assert_same({**source, **network.state_dict()}, source)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_smaller_precision_is_exact_since_no_value_changes(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.delattr(transfer_module, "find_roles")  # which builds four networks: only other shapes need it
    spec = tiny()
    source = {key: tensor.to(dtype) for key, tensor in state_of(spec).items()}
    network = build(spec, deep_supervision=True)
    report = transfer(network, source, spec=spec, source="half")
    assert set(report.exact) == source.keys()
    assert report.adapted == ()
    assert_same(dict(network.state_dict()), {key: tensor.float() for key, tensor in source.items()})


def test_a_larger_precision_is_converted_and_reported() -> None:
    spec = tiny()
    source = {key: tensor.double() + 1e-9 for key, tensor in state_of(spec).items()}
    report = transfer(build(spec, deep_supervision=True), source, spec=spec, source="double")
    assert dict(report.adapted) == dict.fromkeys(source, "float64 to float32")
    assert report.exact == ()


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_tensors_that_are_no_real_numbers_are_refused(dtype: torch.dtype) -> None:
    spec = tiny()
    source = state_of(spec)
    source["stem.bias"] = source["stem.bias"].to(dtype)
    network = build(spec, deep_supervision=True)
    before = copy_of(network)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(WeightsError, match=rf"1 of another shape or type \(stem\.bias {name} for float32\)"):
        transfer(network, source, spec=spec, source="other")
    assert_same(copy_of(network), before)


@settings(max_examples=25, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    outputs=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    supervised=st.tuples(st.booleans(), st.booleans()),
    kernel_size=st.sampled_from([3, 5]),
)
def test_every_key_is_in_exactly_one_group_of_the_report(
    channels: tuple[int, int], outputs: tuple[int, int], supervised: tuple[bool, bool], kernel_size: int
) -> None:
    source = state_of(tiny(in_channels=channels[0], out_channels=outputs[0]), deep_supervision=supervised[0])
    spec = tiny({"kernel_size": kernel_size}, in_channels=channels[1], out_channels=outputs[1])
    network = build(spec, deep_supervision=supervised[1])
    before = copy_of(network)
    report = transfer(network, source, spec=spec, source="other", resample_kernels=True)
    exact, adapted, reinitialised, dropped = groups(report)
    after = network.state_dict()
    assert sum(map(len, (exact, adapted, reinitialised))) == len(after)
    assert exact | adapted | reinitialised == after.keys()
    assert exact | adapted | dropped | (reinitialised & source.keys()) == source.keys()
    assert not dropped & after.keys()
    for key in exact:
        assert torch.equal(after[key], source[key])
    for key in reinitialised:
        assert torch.equal(after[key], before[key])


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_missing_or_renamed_tensors_are_refused_and_the_network_is_unchanged(data: st.DataObject) -> None:
    spec = tiny()
    source, network = state_of(spec), build(spec, deep_supervision=True)
    before = copy_of(network)
    needed = sorted(source.keys() - SCALE_KEYS - {"dummy_tensor"})
    lost = data.draw(st.lists(st.sampled_from(needed), unique=True, max_size=5), label="lost")
    renamed = data.draw(st.lists(st.sampled_from(needed), unique=True, max_size=5), label="renamed")
    if not lost and not renamed:
        lost = needed[:1]
    for key in renamed:
        source[f"module.{key}"] = source.pop(key)
    for key in lost:
        source.pop(key, None)
    missing = {*lost, *renamed}
    with pytest.raises(WeightsError, match=rf"other: .*{len(missing)} missing \({re.escape(min(missing))}") as caught:
        transfer(network, source, spec=spec, source="other", resample_kernels=True)
    unknown = sum(key.startswith("module.") for key in source)
    assert (f"{unknown} unknown (module." in str(caught.value)) == (unknown > 0)
    assert str(caught.value).endswith("load the model that they were trained as.")
    assert_same(copy_of(network), before)


def test_another_width_is_refused_and_the_network_is_unchanged() -> None:
    spec = tiny()
    network = build(spec, deep_supervision=True)
    before = copy_of(network)
    with pytest.raises(
        WeightsError, match=r"of another shape or type \(bottleneck\.0\.conv1\.bias \[64\] for \[32\], "
    ):
        transfer(network, state_of(tiny({"base_channels": 4})), spec=spec, source="other", resample_kernels=True)
    assert_same(copy_of(network), before)


def test_fixed_upsampling_weights_are_never_interpolated():
    kernels = {"channels": [2, 4], "kernel_sizes": [[3, 3, 3]] * 2}
    flat = resolve_model("rsunet", arch={**kernels, "strides": [[1, 2, 2]]})
    cubic = resolve_model("rsunet", arch={**kernels, "strides": [[2, 2, 2]]})
    source = build(flat, deep_supervision=True).state_dict()
    with pytest.raises(WeightsError, match=r"1 of another shape or type \(up_blocks\.0\.up\.weight"):
        transfer(build(cubic, deep_supervision=True), source, spec=cubic, source="flat", resample_kernels=True)


# Building around weights


class Shared(nn.Module):
    """Tied parameters, a buffer that is a view of another, frozen and reordered parameters, an unsaved buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.last = nn.Linear(3, 3)
        self.last.weight = self.first.weight
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.reordered = nn.Conv3d(2, 2, 3).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.register_buffer("whole", torch.zeros(4))
        self.register_buffer("part", self.get_buffer("whole")[:2])
        self.register_buffer("unsaved", torch.arange(3), persistent=False)


class Unsaved(nn.Linear):
    """Its bias is a parameter that the state dict does not hold."""

    def __init__(self) -> None:
        super().__init__(3, 3)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}bias"]


def let_build(monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module]) -> None:
    """Let every spec build a `kind`, without initialisation one whose parameters are NaN."""

    def made(spec: ModelSpec, *, deep_supervision: bool, initialise: bool = True) -> nn.Module:
        network = kind()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(parameter if initialise else torch.full_like(parameter, math.nan))
        return network

    monkeypatch.setattr(transfer_module, "build", made)


def test_a_network_around_weights_is_as_if_they_were_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    let_build(monkeypatch, Shared)
    copied, source = Shared(), {key: tensor.contiguous() for key, tensor in copy_of(Shared()).items()}
    source["whole"] = torch.arange(4.0)
    source["part"] = source["whole"][:2].clone()
    source["last.weight"] = source["first.weight"].clone()
    copied.load_state_dict(source)
    network: Any
    network, report = build_with_weights(tiny(), source, deep_supervision=True, source="somewhere")
    assert_same(dict(network.state_dict()), dict(copied.state_dict()))
    assert report == LoadReport("somewhere", exact=tuple(source))
    assert network.last.weight is network.first.weight
    assert network.part.data_ptr() == network.whole.data_ptr()
    assert network.reordered.weight.stride() == copied.reordered.weight.stride()
    assert [name for name, parameter in network.named_parameters() if not parameter.requires_grad] == ["frozen"]
    assert network.unsaved.tolist() == [0, 1, 2]
    assert network.first.weight.data_ptr() in {source[key].data_ptr() for key in ("first.weight", "last.weight")}


def test_a_parameter_that_no_checkpoint_holds_is_initialised(monkeypatch: pytest.MonkeyPatch) -> None:
    let_build(monkeypatch, Unsaved)
    source = {"weight": torch.ones(3, 3)}
    network, report = build_with_weights(tiny(), source, deep_supervision=True, source="somewhere")
    assert report.exact == ("weight",)
    assert network.get_parameter("weight").tolist() == [[1.0] * 3] * 3
    assert network.get_parameter("bias").isfinite().all()


def test_tensors_at_odd_addresses_of_a_file_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount(monkeypatch, tmp_path, "ext4")
    let_build(monkeypatch, lambda: nn.Linear(2, 1, bias=False))  # type: ignore[arg-type]
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (1 - len(header) % 4)
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.0, 2.0))
    weights = read_weights(path)
    assert weights["weight"].data_ptr() % 4
    network, _ = build_with_weights(tiny(), weights, deep_supervision=True, source="odd")
    assert network.get_parameter("weight").tolist() == [[1.0, 2.0]]
    assert network.get_parameter("weight").data_ptr() % 4 == 0


def test_what_the_weights_do_not_hold_is_initialised_as_in_a_fresh_network() -> None:
    spec = tiny(out_channels=5)
    source = state_of(tiny(out_channels=2), deep_supervision=False)
    torch.manual_seed(3)
    fresh = build(spec, deep_supervision=True).state_dict()
    torch.manual_seed(3)
    network, report = build_with_weights(spec, source, deep_supervision=True, source="other")
    assert set(report.reinitialised) == HEAD_KEYS
    assert_same({**network.state_dict(), **{key: fresh[key] for key in HEAD_KEYS}}, dict(network.state_dict()))


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_nothing_is_initialised_where_the_weights_hold_all(precision: torch.dtype) -> None:
    source = {key: tensor.to(precision) for key, tensor in state_of(tiny()).items()}
    given = {key: tensor.clone() for key, tensor in source.items()}
    before = torch.get_rng_state()
    network, _ = build_with_weights(tiny(), source, deep_supervision=True, source="whole")
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(dict(network.state_dict()), {key: tensor.float() for key, tensor in given.items()})


def test_a_prefix_goes_and_what_lies_beside_it_is_dropped_by_name() -> None:
    spec = tiny()
    source = state_of(spec)
    network = build(spec, deep_supervision=True)
    given = {f"model.{key}": value for key, value in source.items()} | {"bce.pos_weight": torch.ones(1)}
    report = transfer(network, given, spec=spec, source="other")
    assert (report.prefix, report.dropped, len(report.exact)) == ("model.", ("bce.pos_weight",), len(source))
    assert report.summary() == f"other: {len(source)} exact; prefix 'model.' removed; 1 dropped: bce.pos_weight"
    assert all(torch.equal(value, source[key]) for key, value in network.state_dict().items())


def test_two_networks_in_one_file_are_not_chosen_between() -> None:
    spec = tiny()
    given = {f"{name}.{key}": value for name in ("student", "teacher") for key, value in state_of(spec).items()}
    with pytest.raises(WeightsError, match=r"holds the network 2 times, under the prefixes 'student\.', 'teacher\.'"):
        transfer(build(spec, deep_supervision=True), given, spec=spec, source="other")


def test_what_a_prefixed_network_lacks_is_said_with_the_prefix() -> None:
    spec = tiny()
    given = {f"net.{key}": value for key, value in state_of(spec).items() if key != "stem.bias"}
    with pytest.raises(WeightsError, match=r"^other \(under the prefix 'net\.'\): .* 1 missing \(stem.bias"):
        transfer(build(spec, deep_supervision=True), given, spec=spec, source="other")


def test_the_inert_tensor_of_mednext_may_be_absent() -> None:
    spec = tiny()
    given = {key: value for key, value in state_of(spec).items() if key != "dummy_tensor"}
    report = transfer(build(spec, deep_supervision=True), given, spec=spec, source="other")
    assert report.reinitialised == ("dummy_tensor",)
