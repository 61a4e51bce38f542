"""The group that every command is registered on, and what they have in common."""

from __future__ import annotations

from typing import Any

import click

from nomad_testkit.errors import TestkitError


class _Group(click.Group):
    """Shows the errors that are raised on purpose as one message, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TestkitError as error:
            text = "\n".join([str(error), *getattr(error, "__notes__", ())])
            raise click.ClickException(text) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nomad-testkit")
def main() -> None:
    """Clusters of Nomad and Consul: destroy them, measure them, allow them. pytest deploys them."""


def say(line: str) -> None:
    """Tell how things go, beside what a script reads."""
    click.echo(line, err=True)
