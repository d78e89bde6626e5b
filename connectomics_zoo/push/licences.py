"""Licences: what the Hub calls them, and what they ask of whoever uses the weights."""

from __future__ import annotations

import re

_KNOWN = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense
zlib pddl
"""
"""The identifiers of https://huggingface.co/docs/hub/repositories-licenses that a data set may have."""

_HUB = frozenset(_KNOWN.split())

_CREATIVE_COMMONS = re.compile(r"^cc-(by(?:-nc)?(?:-sa|-nd)?)-(\d\.\d)$")

_ASKS = {
    "by": "credit whoever made the data and these weights",
    "nc": "no commercial use",
    "sa": "what is made from them may only be shared under the same licence",
    "nd": "what is made from them (other weights, for example) may not be shared",
}


def hub_licence(text: str) -> tuple[str, str | None]:
    """Return the Hub's identifier of the licence `text`, or `other` with a name for it."""
    known = re.sub(r"[\s_]+", "-", text.strip().lower()).replace("creative-commons", "cc")
    if known in _HUB:
        return known, None
    name = re.sub(r"[^a-z0-9.]+", "-", known).strip("-.")
    return "other", name or "unnamed"


def licence_meaning(text: str) -> str:
    """Return what the licence `text` asks of whoever uses the weights, in a few words."""
    known, _ = hub_licence(text)
    match = _CREATIVE_COMMONS.match(known)
    if match is not None:
        asks = "; ".join(_ASKS[part] for part in match[1].split("-"))
        return f"In short: {asks}. The text: <https://creativecommons.org/licenses/{match[1]}/{match[2]}/>."
    if known == "cc0-1.0":
        return "In short: no conditions. The text: <https://creativecommons.org/publicdomain/zero/1.0/>."
    return "What it asks is in its text: read that before you use or share them."
