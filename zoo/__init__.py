"""The built-in catalogue and the public API; every name is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectomics_zoo.compare import compare
    from connectomics_zoo.compat import build_model, print_available_architectures
    from connectomics_zoo.decode import decode
    from connectomics_zoo.errors import ZooError
    from connectomics_zoo.evaluate import evaluate
    from connectomics_zoo.export.run import export
    from connectomics_zoo.fit import fit
    from connectomics_zoo.measure import measure
    from connectomics_zoo.predict import predict
    from connectomics_zoo.specs.listing import list_models
    from connectomics_zoo.specs.lookup import get_experiment, get_spec, get_task
    from connectomics_zoo.suggest import suggest
    from connectomics_zoo.tasks.activations import activate
    from connectomics_zoo.tasks.losses import supervised_losses, task_loss
    from connectomics_zoo.tasks.targets import make_targets
    from connectomics_zoo.train import train
    from connectomics_zoo.verify import verify
    from connectomics_zoo.view import view
    from connectomics_zoo.volumes import Box, open_volume
    from connectomics_zoo.volumes.intensity import scale_intensity
    from connectomics_zoo.weights.load import load

    __version__: str

__all__ = [  # noqa: RUF022 (in the order of use)
    "list_models",
    "get_spec",
    "get_task",
    "get_experiment",
    "load",
    "verify",
    "fit",
    "train",
    "predict",
    "decode",
    "evaluate",
    "measure",
    "suggest",
    "compare",
    "view",
    "export",
    "open_volume",
    "Box",
    "scale_intensity",
    "make_targets",
    "task_loss",
    "supervised_losses",
    "activate",
    "print_available_architectures",
    "build_model",
    "ZooError",
    "__version__",
]

# The same as the imports above, which only type checkers see (a test compares them).
_MODULES = {
    "compare": "connectomics_zoo.compare",
    "build_model": "connectomics_zoo.compat",
    "print_available_architectures": "connectomics_zoo.compat",
    "decode": "connectomics_zoo.decode",
    "ZooError": "connectomics_zoo.errors",
    "evaluate": "connectomics_zoo.evaluate",
    "export": "connectomics_zoo.export.run",
    "fit": "connectomics_zoo.fit",
    "measure": "connectomics_zoo.measure",
    "list_models": "connectomics_zoo.specs.listing",
    "activate": "connectomics_zoo.tasks.activations",
    "supervised_losses": "connectomics_zoo.tasks.losses",
    "task_loss": "connectomics_zoo.tasks.losses",
    "make_targets": "connectomics_zoo.tasks.targets",
    "Box": "connectomics_zoo.volumes",
    "open_volume": "connectomics_zoo.volumes",
    "scale_intensity": "connectomics_zoo.volumes.intensity",
    "load": "connectomics_zoo.weights.load",
    "predict": "connectomics_zoo.predict",
    "get_experiment": "connectomics_zoo.specs.lookup",
    "get_spec": "connectomics_zoo.specs.lookup",
    "get_task": "connectomics_zoo.specs.lookup",
    "suggest": "connectomics_zoo.suggest",
    "train": "connectomics_zoo.train",
    "verify": "connectomics_zoo.verify",
    "view": "connectomics_zoo.view",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        import importlib

        value = getattr(importlib.import_module(_MODULES[name]), name)
    elif name == "__version__":
        import importlib.metadata

        value = importlib.metadata.version("connectomics-zoo")
    else:
        from connectomics_zoo.errors import nearest

        raise AttributeError(f"module 'zoo' has no attribute {name!r}, {nearest(name, __all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
