"""When the channels of two tasks mean the same."""

from __future__ import annotations

from connectomics_zoo.schema.task import ChannelSpec, TaskSpec


def channels_meaning(task: TaskSpec) -> object:
    """Return what the numbers of a prediction mean: another decoding, loss or summary does not change it."""
    return [_meaning(channel) for channel in task.channels], task.affinities


def channels_difference(one: TaskSpec, other: TaskSpec) -> str | None:
    """Return in a few words in what the channels of two tasks differ; None where they mean the same."""
    names, others = ([channel.name for channel in task.channels] for task in (one, other))
    if names != others:
        return f"channels {', '.join(names)} against {', '.join(others)}"
    for first, second in zip(one.channels, other.channels, strict=True):
        if _meaning(first) != _meaning(second):
            field = "activation" if first.activation != second.activation else "target"
            return f"another {field} of the channel {first.name}"
    return None if one.affinities == other.affinities else "another convention of affinities"


def _meaning(channel: ChannelSpec) -> object:
    return channel.name, channel.activation, channel.target
