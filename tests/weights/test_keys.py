"""Where a network's tensors lie among the keys of a file."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from connectomics_zoo.network.build import build_meta
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights.keys import KeyMatch, match_keys
from zoo.builders.mednext import other_key

NETWORK = ["stem.weight", "stem.bias", "model.0.weight", "out.weight"]


def match(found: Iterable[str], network: Iterable[str] = NETWORK) -> list[KeyMatch]:
    return match_keys(list(network), list(found), builder="rsunet")


def under(prefix: str, keys: Iterable[str] = NETWORK) -> list[str]:
    return [prefix + key for key in keys]


@pytest.mark.parametrize("prefix", ["", "model.", "model.model.", "a.b-c.0."])
def test_the_prefix_of_a_whole_network_is_found_and_the_rest_is_outside(prefix: str) -> None:
    beside = [] if prefix == "" else ["loss.weight", "mean"]
    (found,) = match(under(prefix) + beside)
    assert found.complete
    assert (found.prefix, found.outside) == (prefix, tuple(beside))
    assert found.keys == dict(zip(NETWORK, under(prefix), strict=True))


def test_a_networks_own_prefix_is_not_removed() -> None:
    keys = under("model.", ["0.weight", "1.weight"])
    assert [item.prefix for item in match(keys, keys)] == [""]


def test_the_prefix_with_the_most_keys_comes_first_and_what_lacks_is_said() -> None:
    first = match([*under("net.", NETWORK[:3]), "net.extra", "other.out.weight"])[0]
    assert (first.prefix, first.missing, first.unknown) == ("net.", ("out.weight",), ("net.extra",))
    assert first.outside == ("other.out.weight",)
    assert not first.complete


def test_a_network_that_is_there_twice_is_found_twice_also_without_a_prefix() -> None:
    found = match(under("") + under("ema."))
    assert {item.prefix for item in found} == {"", "ema."}
    assert all(item.complete and len(item.outside) == len(NETWORK) for item in found)


def test_wrappers_within_names_go_and_stay_in_the_prefix_where_they_lead() -> None:
    (led,) = match(under("_orig_mod.net."))
    assert led.prefix == "_orig_mod.net."
    (within,) = match([f"net.{key.replace('stem.', 'stem._fsdp_wrapped_module.')}" for key in NETWORK])
    assert within.complete
    assert within.prefix == "net."


def test_nothing_in_common_is_one_match_with_everything_missing() -> None:
    (none,) = match(["a.b"])
    assert (none.keys, none.missing, none.unknown) == ({}, tuple(NETWORK), ("a.b",))


def test_other_names_and_absent_inert_tensors_are_matched() -> None:
    spec = resolve_model("mednext-S", arch={"base_channels": 2, "grn": True})
    keys = list(build_meta(spec, deep_supervision=True).state_dict())
    foreign = [f"net.{other_key(key)}" for key in keys if key != "dummy_tensor"]
    assert len(set(foreign)) == len(foreign)
    (found,) = match_keys(keys, foreign, builder="mednext")
    assert found.complete
    assert found.filled == ("dummy_tensor",)
    assert found.renamed > 200
    assert found.keys["up_3.conv1.weight"] == "net.up_blocks.0.conv1.weight"
    assert found.keys["out_4.conv_out.bias"] == "net.out_blocks.0.conv_out.bias"
