"""`zoo completion`: the script that makes a shell complete verbs, options and references."""

from __future__ import annotations

import click

from connectomics_zoo.cli._console import print_line

_EPILOG = """\b
Set it up once:
  bash:  zoo completion bash >> ~/.bashrc
  zsh:   zoo completion zsh >> ~/.zshrc
  fish:  zoo completion fish > ~/.config/fish/completions/zoo.fish
"""


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL: bash, zsh or fish."""
    from click.shell_completion import get_completion_class

    completion = get_completion_class(shell)
    assert completion is not None
    print_line(completion(ctx.find_root().command, {}, "zoo", "_ZOO_COMPLETE").source())
