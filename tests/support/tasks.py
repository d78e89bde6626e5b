"""Tasks that several tests are about."""

from __future__ import annotations

from connectomics_zoo.schema.task import TaskSpec


def make_task(*channels, method="threshold"):
    return TaskSpec.model_validate(
        {
            "schema_version": 1,
            "name": "made",
            "summary": "Made here.",
            "channels": [
                {
                    "name": f"c{index}",
                    "activation": activation,
                    "target": {"kind": target},
                    "losses": [{"kind": kind, "weight": weight} for kind, weight in losses.items()],
                }
                for index, (activation, target, losses) in enumerate(channels)
            ],
            "decode": {"method": method} | ({"threshold": 0.5} if method == "threshold" else {}),
            "metrics": ["dice"],
        }
    )
