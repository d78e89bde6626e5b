"""Finds a network's tensors by their names: under a prefix, as another implementation calls them, inert ones absent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from connectomics_zoo.schema.builder import inert_keys, other_key

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What compilers and checkpointing put into names, in front of whatever they wrap."""


@dataclass(frozen=True)
class KeyMatch:
    """How the keys of a file are those of a network; together the groups hold every key of both."""

    prefix: str
    """What stands before the network's keys in the file."""
    keys: Mapping[str, str]
    """By key of the network, the key in the file."""
    renamed: int
    """How many of them have another name in the file, the prefix aside."""
    missing: tuple[str, ...]
    """Keys of the network that the file does not have."""
    filled: tuple[str, ...]
    """The same, of tensors that no output depends on."""
    unknown: tuple[str, ...]
    """Keys of the file, under the prefix, that the network does not have."""
    outside: tuple[str, ...]
    """Keys of the file that are no part of the network: under no such prefix, or inert."""

    @property
    def complete(self) -> bool:
        """Whether the file has the whole network, and under the prefix nothing else."""
        return not self.missing and not self.unknown


def match_keys(network: Collection[str], found: Collection[str], *, builder: str) -> list[KeyMatch]:
    """Return how the keys `found` in a file can be those of a network, the best first; never nothing.

    There are several where the file holds the network more than once.

    Args:
        network: keys of the network.
        found: keys of the file.
        builder: the builder of the network, which knows of inert tensors and of other names.
    """
    bare = {_unwrapped(key): key for key in found}
    if len(bare) < len(found):
        bare = {key: key for key in found}
    spellings: list[Callable[[str], str]] = [str]
    other = other_key(builder)
    if other is not None:
        spellings.append(other)
    best: tuple[int, list[str], dict[str, str]] | None = None
    for spelling in spellings:
        names = {spelling(key): key for key in network}
        counts = _count_by_prefix(names, bare)
        most = max(counts.values(), default=0)
        if best is None or most > best[0]:
            likely = sorted((item for item in counts if 2 * counts[item] > most), key=lambda item: -counts[item])
            best = most, likely or [""], names
    assert best is not None
    _, prefixes, names = best
    inert = inert_keys(builder)
    matches = [_match(prefix, names, bare, inert=inert) for prefix in prefixes]
    return _apart(matches)


def _unwrapped(key: str) -> str:
    for wrapper in _WRAPPERS:
        key = key.replace(wrapper, "")
    return key


def _count_by_prefix(names: Collection[str], found: Iterable[str]) -> Counter[str]:
    """Return how many of `names` stand in `found` behind each prefix, which ends with a dot or is empty."""
    counts: Counter[str] = Counter()
    for key in found:
        begin = 0
        while True:
            if key[begin:] in names:
                counts[key[:begin]] += 1
            begin = key.find(".", begin) + 1
            if not begin:
                break
    return counts


def _match(prefix: str, names: Mapping[str, str], bare: Mapping[str, str], *, inert: Collection[str]) -> KeyMatch:
    """Match the network's keys, by their `names` in the file, behind `prefix` in its `bare` keys."""
    keys = {key: bare[prefix + name] for name, key in names.items() if prefix + name in bare}
    absent = [key for key in names.values() if key not in keys]
    taken = set(keys.values())
    rest = {key: name for name, key in bare.items() if key not in taken}
    unknown = {
        key: None
        for key, name in rest.items()
        if name.startswith(prefix) and not _is_inert(name.removeprefix(prefix), inert)
    }
    return KeyMatch(
        prefix=_literal(prefix, names, bare),
        keys=keys,
        renamed=sum(name != key for name, key in names.items() if key in keys),
        missing=tuple(key for key in absent if not _is_inert(key, inert)),
        filled=tuple(key for key in absent if _is_inert(key, inert)),
        unknown=tuple(unknown),
        outside=tuple(key for key in rest if key not in unknown),
    )


def _literal(prefix: str, names: Iterable[str], bare: Mapping[str, str]) -> str:
    """Return the prefix with the wrappers that stand in it, where all keys have the same ones."""
    written = [(name, bare[prefix + name]) for name in names if prefix + name in bare]
    literal = {key.removesuffix(name) if key.endswith(name) else prefix for name, key in written}
    return literal.pop() if len(literal) == 1 else prefix


def _is_inert(key: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _apart(matches: list[KeyMatch]) -> list[KeyMatch]:
    """Count what is another whole copy of the network as outside of each, also where that has no prefix."""
    whole = [match for match in matches if not match.missing]
    result = []
    for match in matches:
        others = {key for other in whole if other is not match for key in (*other.keys.values(), *other.unknown)}
        others -= set(match.keys.values())
        unknown = tuple(key for key in match.unknown if key not in others)
        extra = tuple(key for key in match.unknown if key in others)
        result.append(replace(match, unknown=unknown, outside=match.outside + extra))
    return result
