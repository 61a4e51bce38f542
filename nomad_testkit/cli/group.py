"""The group that every command is registered on, and what they have in common."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from nomad_testkit.deployment.interrupts import termination_raises
from nomad_testkit.errors import TestkitError, UsageError, near_miss

if TYPE_CHECKING:
    from nomad_testkit.deployment.progress import LiveProgress

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130
EXIT_CODES = """\b
Exit codes:
  0    it is done, and every check holds
  1    something failed: a deployment, a check, a job, or a thing that is missing
  2    wrong usage: an option, a name, a setting or an example that cannot be used
  130  interrupted, by Ctrl-C, SIGTERM or a closed terminal; what was being deployed is destroyed
ssh passes on the status of its command; 255 is ssh's own."""


class _WrongUsage(click.ClickException):
    exit_code = WRONG_USAGE


def with_own_options(text: str) -> str:
    """Name the target's settings as these commands do: pytest's --nomad-aws-account is --aws-account here."""
    return re.sub(r"--nomad-(?=(?:aws-|ami\b|region\b|target\b))", "--", text)


class Group(click.Group):
    """Shows errors that are raised on purpose as one message, and suggests the nearest command for an unknown one."""

    group_class = type  # a group within it is of the same kind

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with termination_raises():
                return super().invoke(ctx)
        except TestkitError as error:
            kind = _WrongUsage if isinstance(error, UsageError) else click.ClickException
            raise kind(with_own_options("\n".join([str(error), *getattr(error, "__notes__", ())]))) from error
        except KeyboardInterrupt as error:
            say("\n".join(["interrupted", *getattr(error, "__notes__", ())]))
            raise click.exceptions.Exit(INTERRUPTED) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not ctx.resilient_parsing and self.get_command(ctx, name) is None and name[:1].isalnum():
            hint = near_miss(name, self.list_commands(ctx))
            ctx.fail(f"there is no command {name!r} in {ctx.command_path}; {hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}, epilog=EXIT_CODES
)
@click.version_option(package_name="nomad-testkit")
def main() -> None:
    """Clusters of Nomad and Consul: deploy one and leave it up, look at it, use it, destroy it.

    \b
    nomad-testkit doctor                                 is everything there that it takes?
    nomad-testkit up nomad-consul-colocated-cluster      deploy an example, and leave it up
    eval "$(nomad-testkit env)"                          let nomad, consul and aws talk to it
    pytest --nomad-attach NAME                           run tests on it
    nomad-testkit down                                   destroy it
    """


def say(line: str) -> None:
    """Tell how things go, beside what a script reads."""
    click.echo(line, err=True)


@contextmanager
def progress() -> Iterator[LiveProgress]:
    """Lend what shows how things go: a live area on a terminal, lines elsewhere."""
    from nomad_testkit.deployment.progress import live_progress

    with live_progress(sys.stderr) as shown:
        yield shown


def say_json(value: object) -> None:
    """Print what a script reads."""
    click.echo(json.dumps(value, indent=2))


def columns(rows: Sequence[Sequence[str]], *, indent: str = "") -> str:
    """Set texts in columns, each as wide as its widest.

    >>> print(columns([["HOST", "STATE"], ["servers-0", "running"]]))
    HOST       STATE
    servers-0  running
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(indent + line for line in lines)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a script to read.")
