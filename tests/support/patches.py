"""Data specs of small volumes."""

from __future__ import annotations


def data_of(path, *, part="train", region=None, **fields):
    return {part: [{"image": f"{path}:raw", "label": f"{path}:mito", "region": region or {}}], **fields}
