"""Maps of a user: names and axes of another project's tensors become the network's, or it is said what does not fit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

import zoo
from connectomics_zoo.convert.run import convert
from connectomics_zoo.errors import HubError, SpecError, UnknownNameError, WeightsError
from connectomics_zoo.specs.spec_file import spec_text
from connectomics_zoo.weights.storage import read_weights

THEIR_MAP = r"""
name: theirs
drop: [epoch, "*.seen"]
rename: {head.w: out_1.conv_out.weight}
regex:
  - {pattern: '^net\.', to: ''}
  - {pattern: '^level(\d)\.', to: 'enc_block_\1.'}
transpose:
  - {keys: stem.weight, axes: [1, 0, 2, 3, 4]}
"""


def _theirs(state):
    """The tensors as another project has them: other names, and the axes of the stem exchanged."""
    theirs = {}
    for key, value in state.items():
        name = key.replace("enc_block_", "level") if key.startswith("enc_block_") else key
        theirs["head.w" if key == "out_1.conv_out.weight" else f"net.{name}"] = value
    theirs["net.stem.weight"] = theirs["net.stem.weight"].permute(1, 0, 2, 3, 4).contiguous()
    return {**theirs, "epoch": torch.tensor(3), "net.stem.seen": torch.ones(1)}


@pytest.fixture
def theirs(state, tmp_path):
    """A safetensors file of theirs, and the map for it."""
    save_file(_theirs(state), tmp_path / "theirs.safetensors")
    (tmp_path / "map.yaml").write_text(THEIR_MAP)
    return tmp_path / "theirs.safetensors"


def test_a_map_makes_the_tensors_of_another_project_those_of_the_network(theirs, spec, state, tmp_path):
    done = convert(theirs, tmp_path / "out", model=spec, tensor_map=tmp_path / "map.yaml")
    written = read_weights(tmp_path / "out" / "model.safetensors")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key]) for key in state)
    assert (done.map, done.mapped, done.dropped) == ("theirs", len(state), ("epoch", "net.stem.seen"))
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as stream:
        assert json.loads(stream.metadata()["map"])["regex"][0] == {"pattern": r"^net\.", "to": ""}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("head.w:", "head.v:", r"the map theirs renames 'head.v', which \S+ does not have: did you mean 'head.w'"),
        ("[epoch,", "[epochs,", r"the map theirs drops 'epochs', and \S+ has no such tensor: did you mean 'epoch'"),
        (r"'^level(\d)", r"'^layer(\d)", r"no name in \S+ matches '\^layer.*', they are as 'bottleneck.0"),
        (r"_\1.", r"_\2.", r"'enc_block_\\\\2.' cannot take the place of .* \(invalid group reference 2"),
        ("'^net", "'^(net", r"regex\[0\]\.pattern: is no regular expression \(missing \), unterminated"),
        ("[1, 0, 2, 3, 4]", "[1, 0]", r"transposes 'stem.weight' by \[1, 0\], and it has the axes \[0, 1, 2, 3, 4\]"),
        ("keys: stem.weight", "keys: stern.weight", r"no such tensor after renaming: did you mean 'stem.weight'"),
        ("out_1.conv_out.weight", "net.stem.bias", "calls both '.*' and '.*' 'net.stem.bias': give each a name"),
        ("transpose:", "transposed:", "transposed: unknown key, did you mean 'transpose'"),
    ],
)
def test_a_map_that_does_not_fit_is_refused_with_what_does_not(theirs, spec, old, new, message, tmp_path):
    assert old in THEIR_MAP
    text = THEIR_MAP.replace(old, new)
    if new == "net.stem.bias":
        text = text.replace(r"  - {pattern: '^net\.', to: ''}" + "\n", "").replace(r"'^level", r"'^net\.level")
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises((WeightsError, SpecError), match=message):
        convert(theirs, tmp_path / "out", model=spec, tensor_map=tmp_path / "map.yaml")
    assert not (tmp_path / "out").exists()


def test_a_map_is_for_one_place_and_at_says_which(spec, state, tmp_path):
    (tmp_path / "map.yaml").write_text("name: theirs\nregex: [{pattern: '^net.', to: ''}]\n")
    other = {f"net.{key}": value * 0.5 for key, value in state.items()}
    torch.save({"one": {f"net.{key}": value for key, value in state.items()}, "two": other}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="has tensors at one, two, say by --at which of them --map is for"):
        convert(tmp_path / "a.pt", tmp_path / "out", model=spec, tensor_map=tmp_path / "map.yaml")
    convert(tmp_path / "a.pt", tmp_path / "out", model=spec, tensor_map=tmp_path / "map.yaml", at="two")
    written = read_weights(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[key], state[key] * 0.5) for key in state)


def test_a_pinned_file_of_any_repository_is_converted(theirs, spec, state, hub_server, hub_env, run_zoo, tmp_path):
    revision = hub_server.add_repo("acme/unets", {"3d/net.safetensors": save(_theirs(state))})
    (tmp_path / "tiny.yaml").write_text(spec_text(spec, path=tmp_path / "tiny.yaml"))
    options = ("--model", tmp_path / "tiny.yaml", "--map", tmp_path / "map.yaml")
    file = f"hf://acme/unets@{revision}/3d/net.safetensors"
    code, out, err = run_zoo("convert", file, tmp_path / "out", *options)
    assert (code, err) == (0, "zoo: took the last weights, which lie in the top.\n")
    assert f"theirs, which renames or transposes {len(state)} tensors" in out
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as stream:
        assert stream.metadata()["source"] == file
    x = torch.rand(1, 1, 16, 32, 32)
    network = zoo.load(spec)
    network.load_state_dict(state, strict=False)
    with torch.no_grad():
        assert torch.equal(zoo.load(tmp_path / "out")(x), network(x))
    before = len(hub_server.requests)
    convert(file.replace("/3d", ":3d"), tmp_path / "again", model=spec, tensor_map=tmp_path / "map.yaml")
    assert len(hub_server.requests) == before, "what is in the cache is not asked for again"


def test_what_moves_or_is_no_safetensors_is_refused(spec, hub_server, hub_env, tmp_path):
    revision = hub_server.add_repo("acme/unets", {"net.safetensors": b"x" * 20, "net.pt": b"y" * 20})
    for moving, what in (("", "the main branch"), ("@main", "a branch or tag")):
        with pytest.raises(
            WeightsError,
            match=f"^hf://acme/unets{moving}/net.safetensors: {what} moves, and what is converted is pinned: "
            f"write hf://acme/unets@{revision}/net.safetensors, which it is now.$",
        ):
            convert(f"hf://acme/unets{moving}/net.safetensors", tmp_path / "out", model=spec)
    with pytest.raises(
        WeightsError, match=r"write hf://acme/none@COMMIT/a.safetensors, with the 40 digits of a commit"
    ):
        convert("hf://acme/none/a.safetensors", tmp_path / "out", model=spec)
    with pytest.raises(WeightsError, match=r"only .safetensors is loaded, a pickle can run code when it is read"):
        convert(f"hf://acme/unets@{revision}/net.pt", tmp_path / "out", model=spec)
    with pytest.raises(HubError, match="there is no such file at that revision"):
        convert(f"hf://acme/unets@{revision}/other.safetensors", tmp_path / "out", model=spec)
    for wrong in ("hf://acme", f"hf://acme/unets@{revision}/../x.safetensors", f"hf://acme/unets@{revision}/"):
        with pytest.raises(UnknownNameError, match=r"is no (file on|reference to) the Hub, write hf://org/repo@"):
            convert(wrong, tmp_path / "out", model=spec)
    assert not (tmp_path / "out").exists()
