"""OpenVINO, for the tests that predict with it."""

from __future__ import annotations

import importlib.util

import pytest

from connectomics_zoo.predict import openvino_engine


@pytest.fixture(scope="session")
def openvino():
    """OpenVINO as the engine imports it: it would leave files in the home directory otherwise, and report its use."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO, an extra, is not installed")
    return openvino_engine.import_openvino()
