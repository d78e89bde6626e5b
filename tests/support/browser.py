"""Chromium without a screen and without a GPU, for tests of what is seen."""

from __future__ import annotations

import shutil

CHROMIUM = shutil.which("chromium")

SWITCHES = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # WebGL 2 without a GPU:
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
