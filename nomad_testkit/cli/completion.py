"""Completion of commands, runs, hosts and checks in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from nomad_testkit.cli.group import main

PROGRAM = "nomad-testkit"


@main.command(short_help="Print what a shell needs to complete words.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what lets SHELL complete commands, options, and names of runs, hosts, checks and examples.

    \b
    bash, 4.4 or newer:  eval "$(nomad-testkit completion bash)"    in ~/.bashrc
    zsh:                 eval "$(nomad-testkit completion zsh)"     in ~/.zshrc
    fish:                nomad-testkit completion fish | source     in ~/.config/fish/config.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"this version of click completes nothing in {shell}")
    click.echo(found(main, {}, PROGRAM, "_NOMAD_TESTKIT_COMPLETE").source())
