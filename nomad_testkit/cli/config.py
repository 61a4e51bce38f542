"""The settings in force, and where each is from."""

from __future__ import annotations

import configparser
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from nomad_testkit.cli.group import columns, json_option, main, say_json
from nomad_testkit.errors import SettingsError
from nomad_testkit.settings import Settings, table

_SECTIONS = {"pytest.ini": "pytest", ".pytest.ini": "pytest", "tox.ini": "pytest", "setup.cfg": "tool:pytest"}


@main.group()
def config() -> None:
    """Look at the settings."""


@config.command()
@click.option("--all", "with_defaults", is_flag=True, help="Show those that nobody has set, too.")
@json_option
def show(with_defaults: bool, as_json: bool) -> None:
    """Show the value of each setting that is set for pytest in this folder, and where it is from.

    The environment counts more than the ini file, and an option of a command more than both. Passwords and the like,
    and sensitive variables of examples, are not shown.
    """
    file, ini = find_ini(Path.cwd())
    settings = Settings.load(environ=os.environ, ini=ini, ini_file=file or "the ini file")
    rows = [one for one in settings.described() if with_defaults or one["source"] != "default"]
    if as_json:
        say_json({"ini_file": str(file) if file else None, "settings": rows})
        return
    if file is not None:
        click.echo(f"ini file: {file}")
    if not rows:
        click.echo("nothing is set; `nomad-testkit config show --all` shows the defaults")
        return
    click.echo(columns([["SETTING", "VALUE", "FROM"], *([one["name"], one["value"], one["source"]] for one in rows)]))


def find_ini(folder: Path) -> tuple[Path | None, Mapping[str, str | Sequence[str] | None]]:
    """Find the file that pytest reads its ini values from, in a folder or above it, and its values of our settings.

    Raises SettingsError for one that cannot be read.
    """
    for place in (folder, *folder.parents):
        for name in ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg"):
            path = place / name
            if path.is_file() and (values := _values(path)) is not None:
                return path, {one.key: values.get(one.key) for one in table()}
    return None, {}


def _values(path: Path) -> dict[str, Any] | None:
    """Read the values of pytest in a file; None where it has none for it, and so is not the one."""
    try:
        if path.suffix == ".toml":
            tool = tomllib.loads(path.read_text()).get("tool", {}).get("pytest", {})
            found = tool.get("ini_options", tool or None)
            return None if found is None else {key: _text(value) for key, value in found.items()}
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(path.read_text())
    except (OSError, ValueError, configparser.Error) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    section = _SECTIONS[path.name]
    if not parser.has_section(section):
        return {} if path.name.endswith("pytest.ini") else None
    return {key: value.splitlines() if "\n" in value else value for key, value in parser.items(section)}


def _text(value: Any) -> str | list[str]:
    if isinstance(value, bool):
        return "true" if value else "false"
    return [str(one) for one in value] if isinstance(value, list) else str(value)
