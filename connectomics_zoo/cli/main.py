"""The command `zoo`: one file a verb, imported when it is asked for; turns errors into sentences and exit codes."""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import logging
import os
import signal
import sys
import warnings
from typing import Any, cast

import click
from click.shell_completion import CompletionItem

from connectomics_zoo.cli._console import note, print_line
from connectomics_zoo.cli._threads import settle_threads
from connectomics_zoo.errors import ZooError, nearest

VERBS = {
    "list": "List the models, tasks or experiments, with filters",
    "show": "Show what is declared about a model, task, experiment or run",
    "verify": "Prove what the specs declare",
    "fit": "Say which patch and batch a memory holds",
    "train": "Train a model on your volumes",
    "plan": "Say what a prediction takes, and write its script for a cluster",
    "predict": "Predict a volume with a trained network",
    "status": "Show how far a prediction is",
    "decode": "Make objects of a prediction",
    "evaluate": "Score a prediction against the truth",
    "suggest": "Suggest which boxes of a volume to annotate next",
    "view": "Look at volumes, labels and probabilities in Neuroglancer or napari",
    "measure": "Measure objects: size, surface, place, intensity, contacts",
    "compare": "Train networks under one budget and score them: one table, one plot",
    "push": "Give a trained run away, on the Hugging Face Hub or beside a spec",
    "pull": "Download trained weights, checked",
    "lock": "Write down exactly which weights a project uses",
    "convert": "Bring weights along from another project's checkpoint",
    "export": "Write a network, or labels, in the format of another program",
    "bench": "Measure speed and memory of models on this machine",
    "new": "Write a new spec from an existing one",
    "diff": "Compare two specs field by field",
    "record": "Write measured values, the lock and the schemas into the catalogues",
    "schema": "Print a JSON Schema",
    "phantom": "Make a small EM-like volume with ground truth",
    "completion": "Print the shell completion script",
}
"""Each verb is the command of the same name in `connectomics_zoo.cli.<verb>`, and its help line."""


class _Verbs(click.Group):
    """A group that imports a verb's module only when that verb runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"connectomics_zoo.cli.{cmd_name}")
        return cast("click.Command", module.command)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f"unknown verb {args[0]!r}: {nearest(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of a pipe (`zoo list | head`) has gone; Python must not complain at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        verbs = [CompletionItem(verb, help=text) for verb, text in VERBS.items() if verb.startswith(incomplete)]
        return verbs or click.Command.shell_complete(self, ctx, incomplete)  # a Group's would import every verb

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        import importlib.metadata

        print_line(f"zoo {importlib.metadata.version('connectomics-zoo')}")
        ctx.exit()


@click.group(cls=_Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Models for 3-D electron-microscopy segmentation: declared, proved, trained.

    Data goes to stdout, notes to stderr. Exit codes: 0 good, 1 a check failed, 2 wrong usage.
    """
    if ctx.invoked_subcommand is None:
        print_line(ctx.get_help())


def main() -> None:
    """Run the command line; every user error becomes one sentence on stderr (a traceback under ZOO_DEBUG=1)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # × and … where the terminal or pipe has no Unicode
    settle_threads()
    _end_on_sigterm_as_on_ctrl_c()
    # At the end Python would look for garbage in all that torch and MONAI have made, for a second, before it exits.
    atexit.register(gc.freeze)
    _note_what_libraries_say()
    try:
        # Click returns the code of a `ctx.exit` here, and otherwise what the verb returned, which is nothing.
        code: int | None = cli.main(prog_name="zoo", standalone_mode=False)
    except (click.Abort, click.ClickException) as error:
        note(_sentence(error))
        sys.exit(130 if isinstance(error, click.Abort) else 2)
    except (ZooError, OSError, MemoryError) as error:
        if os.environ.get("ZOO_DEBUG") == "1":
            raise
        note(_sentence(error))
        sys.exit(error.exit_code if isinstance(error, ZooError) else 2)
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error) or os.environ.get("ZOO_DEBUG") == "1":
            raise
        note(_sentence(MemoryError()))  # which torch does not raise
        sys.exit(2)
    if code:
        sys.exit(code)


def _end_on_sigterm_as_on_ctrl_c() -> None:
    """Let SIGTERM, by which job schedulers end a program, leave nothing half done either."""
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _sentence(error: Exception) -> str:
    """Return what the user is told of an error."""
    if isinstance(error, click.Abort):  # what click makes of ctrl-C, which may say how to go on
        return str(error.__cause__ or "") or "stopped."
    if isinstance(error, click.MissingParameter) and error.param is not None:
        kind = error.param.type
        if isinstance(kind, click.Choice):  # click's own sentence has several lines
            return f"Missing argument {error.param.human_readable_name}: give {', '.join(kind.choices)}."
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, MemoryError):
        said = str(error).strip().rstrip(".")
        return f"not enough memory{f' ({said})' if said else ''}, do a smaller part at a time or free some."
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror or error}, mend that and try again."
    return str(error)


class _Notes(logging.Handler):
    """Prints what is logged as notes, wherever stderr leads by then."""

    def emit(self, record: logging.LogRecord) -> None:
        note(self.format(record))


def _note_what_libraries_say() -> None:
    """Print what is logged from level WARNING on, by us or others, and Python's warnings as notes."""
    logging.basicConfig(handlers=[_Notes()], format="%(message)s", level=logging.WARNING)
    # It reports damaged files at level ERROR, which we say in our own sentence.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    warnings.showwarning = _log_warning


def _log_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    logging.getLogger("py.warnings").warning("%s (%s)", " ".join(str(message).split()), category.__name__)
