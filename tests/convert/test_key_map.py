"""The maps from another project's keys: complete, and of names that there are."""

from __future__ import annotations

import pytest

from connectomics_zoo.convert.key_map import KeyMap, get_key_map, is_under, key_maps
from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.validation import validate


def test_every_map_is_complete_and_names_are_closed():
    maps = key_maps()
    assert sorted(maps) == ["lightning", "mednext", "nnunet-v2", "plain", "pytc", "pytc-v1", "torch-export"]
    dangerous = ("os.system", "posix.system", "builtins.eval", "builtins.getattr", "subprocess.Popen", "torch.load")
    for key_map in maps.values():
        assert not [name for name in dangerous if key_map.allows(name)]
        own = [
            name for name in (*key_map.objects, *key_map.mappings) if name.startswith(("torch.", "connectomics_zoo"))
        ]
        assert not own
    assert is_under("connectomics.config.a.B", "connectomics.config.*")
    assert not is_under("connectomics.configuration.B", "connectomics.config.*")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rename": {}}, "rename: unknown key"),
        ({"objects": ["*"]}, "objects"),
        ({"objects": ["os"]}, "objects"),
        ({"tensors": []}, "tensors"),
    ],
)
def test_a_map_that_says_too_much_or_too_little_is_refused(changes, message):
    document = get_key_map("plain").model_dump(mode="json") | changes
    with pytest.raises(SpecError, match=message):
        validate(KeyMap, document, source="plain.yaml")
