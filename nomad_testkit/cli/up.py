"""Deploy an example and leave it up."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import click
from click.shell_completion import CompletionItem

from nomad_testkit.cli.group import json_option, main, progress, say, say_json
from nomad_testkit.errors import TestkitError
from nomad_testkit.runs.run import Run
from nomad_testkit.settings import ENV_PREFIX, Setting, Settings, table

NEW_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")
DEPLOYING = ("target", "region", "ami", "users", "servers", "clients", "var", "timeout", "artifacts", "terraform")
AGENTS = ("consul_version", "nomad_version", "consul_binary", "nomad_binary")
_NOT_HERE = ("ATTACH", "KEEP", "PAUSE", "EXAMPLE")
"""Settings whose environment variables are for pytest: a command has a word of its own for it."""


class _Value(click.ParamType):  # type: ignore[type-arg]
    """A value of a setting, refused here with the name of the option; it stays the text that it is."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.name = setting, setting.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            self.setting.parse(str(value))
        except ValueError as right:
            self.fail(f"found {value!r}, expected {right}", param, ctx)
        return str(value)


def settings_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of some settings, named as pytest's without the prefix, and of the target aws'."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        rows = [one for one in table() if one.name in names or one.name.startswith("aws_")]
        for setting in reversed(rows):
            how: dict[str, Any] = {"multiple": True} if setting.repeatable else {}
            if setting.metavar is None:
                how |= {"is_flag": True}
            else:
                how |= {"metavar": setting.metavar, "type": _Value(setting)}
            help = f"{setting.help[0].upper()}{setting.help[1:]}. Environment: {setting.variable}."
            function = click.option(_option(setting), setting.name, help=help, **how)(function)
        return function

    return decorate


def _option(setting: Setting) -> str:
    return "--" + setting.name.replace("_", "-")


def settings_of(given: dict[str, Any], *, example: str | None = None) -> Settings:
    """Make settings of a command's options and of the environment; every source is named as a user wrote it.

    Raises SettingsError.
    """
    options: dict[str, Any] = {"nomad_example": example}
    for name, value in given.items():
        texts = list(value) if isinstance(value, tuple) else value
        options[f"nomad_{name}"] = "true" if texts is True else texts or None
    environ = {name: value for name, value in os.environ.items() if name.removeprefix(ENV_PREFIX) not in _NOT_HERE}
    settings = Settings.load(options=options, environ=environ)
    sources = {name: source.replace("option --nomad-", "option --") for name, source in settings.sources.items()}
    return replace(settings, sources=sources | ({"example": "EXAMPLE"} if example else {}))


def complete_examples(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of the bundled examples, and folders."""
    from nomad_testkit.modules.bundle import examples_dir

    bundled = sorted(path.parent.name for path in examples_dir().glob("*/example.toml"))
    found = [CompletionItem(name) for name in bundled if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="dir")]


def checked_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse a name for a new run that another has, or that could be taken for something else."""
    if value is None:
        return None
    if not NEW_NAME.fullmatch(value) or value.startswith("nt-"):
        right = "a letter, then at most 39 letters, digits, _ . or -, and not nt- in the beginning, as ids have"
        raise click.BadParameter(f"found {value!r}, expected {right}", ctx, param)
    if other := next((run for run in Run.every() if run.name == value), None):
        raise click.BadParameter(f"found {value!r}, which is the name of {other.run_id}; choose another", ctx, param)
    return value


@main.command(short_help="Deploy an example and leave it up.")
@click.argument("example", shell_complete=complete_examples)
@click.option("--name", metavar="NAME", callback=checked_name, help="What to call the run in other commands.")
@settings_options(*DEPLOYING, *AGENTS)
@json_option
def up(example: str, name: str | None, as_json: bool, **given: Any) -> None:
    """Deploy EXAMPLE, a bundled one's name or a folder with an example.toml, and leave it up.

    When that fails, or is interrupted, all of it is destroyed again. The image of --ami may be one that
    `nomad-testkit ami build` has made: the cluster goes to the embedded EC2 that has it then. One of
    `nomad-testkit ami import` is in every embedded EC2.
    """
    from nomad_testkit.cli.status import describe_run
    from nomad_testkit.deployment.lifecycle import deployed
    from nomad_testkit.examples.settings import chosen_example
    from nomad_testkit.targets import open_target

    settings = settings_of(given, example=example)
    wanted = chosen_example(settings, example)
    with (
        left_up() as leave,
        progress() as shown,
        open_target(settings, progress=shown) as target,
        deployed(settings, wanted, target=target, progress=shown, name=name or "") as cluster,
    ):
        run = leave(cluster.run_id)
    if as_json:
        say_json(describe_run(run))
    else:
        click.echo(_how_to_use(run))


@contextmanager
def left_up() -> Iterator[Callable[[str], Run]]:
    """Lend what leaves a run up that is deployed in the block, by its id; an interrupt of the block destroys it."""
    from nomad_testkit.cli.down import destroy_run
    from nomad_testkit.deployment.interrupts import deferred

    left: list[Run] = []

    def leave(run_id: str) -> Run:
        left.append(Run.find(run_id))
        left[0].leave_up()
        return left[0]

    try:
        yield leave
    except KeyboardInterrupt as error:
        # It may have come when all was done, and nobody destroyed it any more.
        for run in (run for run in left if run in Run.every()):
            try:
                with deferred(say):
                    say(destroy_run(run))
            except TestkitError as second:
                error.add_note(str(second))
        raise


def _how_to_use(run: Run) -> str:
    called = run.name or run.run_id
    told = run.description()
    server = f"{told['roles']['nomad_servers'][0]}-0"
    only = len([one for one in Run.every() if one.description().get("hosts")]) == 1
    name = "" if only else f" --name {called}"
    return "\n".join(
        [
            f"{run} is up, with {len(told['hosts'])} hosts",
            f"  nomad-testkit status {called}",
            f"  nomad-testkit ssh{name} {server}",
            f'  eval "$(nomad-testkit env{name})"',
            f"  nomad-testkit ui{name}",
            f"  nomad-testkit check{name}",
            f"  pytest --nomad-attach {called}",
            f"  nomad-testkit down {called}",
        ]
    )
