"""`zoo convert`: another project's checkpoint as safetensors with a spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from connectomics_zoo.cli._console import note, print_json
from connectomics_zoo.cli._references import complete_model
from connectomics_zoo.cli._table import print_facts

if TYPE_CHECKING:
    from connectomics_zoo.convert.run import Conversion

_SHOWN = 5

_EPILOG = """\b
Examples:
  zoo convert model_final_checkpoint.model my-mednext
  zoo convert last.ckpt my-rsunet --model ./my-rsunet.yaml --no-ema
  zoo convert fold_0/checkpoint_final.pth my-net
  zoo convert teacher-student.pt my-net --model mednext-S --at state_dict/teacher
  zoo convert organelles.onnx my-organelles --model cellmap-fly
  zoo convert program.pt2 my-net --model mednext-S
  zoo convert hf://org/repo@0123…cdef/model.safetensors my-net --model monai_unet --map map.yaml
\b
The spec of a network of PyTorch Connectomics, from its configuration, in Python:
  from pathlib import Path
  network = zoo.build_model(config)
  Path("my-rsunet.yaml").write_text(network.spec.model_dump_json())
"""


@click.command(epilog=_EPILOG)
@click.argument("file", type=click.Path())
@click.argument("output", type=click.Path(path_type=Path), metavar="OUT")
@click.option(
    "--model",
    metavar="REF",
    shell_complete=complete_model,
    help="Model that the weights are of [default: the one that has exactly these tensors, if they tell all of it].",
)
@click.option(
    "--from",
    "source_format",
    metavar="FORMAT",
    help="mednext, pytc, pytc-v1, nnunet-v2, lightning, torch-export or plain [default: recognised].",
)
@click.option(
    "--ema/--no-ema",
    "averaged",
    default=None,
    help="Take averaged weights, or the last ones [default: averaged ones where there are].",
)
@click.option(
    "--at",
    metavar="KEY",
    help="Where the tensors lie, as state_dict/teacher [default: where the format has them, or the one such place].",
)
@click.option(
    "--map",
    "tensor_map",
    type=click.Path(path_type=Path),
    metavar="YAML",
    help="How its tensors become the network's: drop, rename, regex and transpose.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    file: str,
    output: Path,
    model: str | None,
    source_format: str | None,
    averaged: bool | None,
    at: str | None,
    tensor_map: Path | None,
    as_json: bool,
) -> None:
    """Write the weights in a checkpoint of another project as the folder OUT: model.safetensors and spec.yaml.

    FILE is a checkpoint of the original MedNeXt, of PyTorch Connectomics, of nnU-Net v2, of a Lightning module, an
    exported program (.pt2), or a state dict, also as safetensors, and that also on the Hub, of a pinned commit. It is
    read without importing or running anything that it names. Or it is an ONNX file (extra `export`), whose tensors are
    proved by what it gives of a random image. OUT is then a reference for every verb.
    """
    from connectomics_zoo.convert.run import convert

    done = convert(
        file, output, model=model, source_format=source_format, averaged=averaged, at=at, tensor_map=tensor_map
    )
    if done.proof is not None:
        note(f"ran the file beside the network: {done.proof}.")
    else:
        kind = "averaged (EMA)" if done.averaged else "last"
        note(f"took the {kind} weights, which lie in {done.place or 'the top'}.")
    if done.left_aside:
        note(f"left aside what lies in {_few(done.left_aside)}.")
    if as_json:
        from dataclasses import asdict

        print_json(asdict(done))
    else:
        print_facts(_facts(done))


def _facts(done: Conversion) -> dict[str, str]:
    facts = {
        "folder": done.folder,
        "model": done.model + (f" (the same network as {', '.join(done.same)})" if done.same else ""),
        "channels": f"{done.input_channels} in, {done.output_channels} out",
        "tensors": f"{done.tensors}: " + ", ".join(f"{count} {dtype}" for dtype, count in done.dtypes.items()),
        "parameters": f"{done.parameters:,}",
        "format": done.format,
    }
    if done.proof is None:  # an ONNX file holds one network, and nothing else
        facts |= {
            "taken from": done.place or "the top",
            "prefix removed": done.prefix or "none",
            "dropped": _few(done.dropped),
            "left aside": _few(done.left_aside),
            "made inert": _few(done.inert),
        }
    if done.copies:
        facts["copies"] = f"{done.copies} tensors, which nnU-Net's networks have under several names"
    if done.recipe:
        facts["from the plans"] = ", ".join(done.recipe)
    if done.not_said:
        facts["not in the spec"] = "\n".join(done.not_said)
    if done.map is not None:
        facts["map"] = f"{done.map}, which renames or transposes {done.mapped} tensors"
    if done.assumed and done.proof is None:
        values = tuple(f"{field} {value}" for field, value in done.assumed.items())
        facts["as the model says"] = f"{_few(values)} (no tensor tells)"
    if done.renamed:
        found = "were found by the order of use" if done.proof else "another implementation calls otherwise"
        facts["renamed"] = f"{done.renamed} tensors, which {found}"
    if done.folded:
        facts["folded"] = f"{_few(done.folded)} (a part of the convolutions before them, here they change nothing)"
    if done.filled:
        facts["filled in"] = f"{_few(done.filled)} (no output depends on them)"
    if done.absent:
        facts["not in the file"] = f"{_few(done.absent)} (heads of deep supervision)"
    return facts


def _few(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown or "none"
