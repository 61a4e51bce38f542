"""Settings: option > environment > ini > default, and each value knows which of them it came from.

The fields of `Settings` are the only table: options, ini keys, environment variables, help and validation follow it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nomad_testkit.errors import SettingsError

ENV_PREFIX = "NOMAD_TESTKIT_"
TARGETS = ("embedded",)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class _Wrong(ValueError):
    """Says what would be right."""


Parse = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    name: str
    """As `Settings` has it; users write it with the prefix ``nomad_``."""
    default: Any
    parse: Parse
    metavar: str | None
    """None for a switch, which takes no value."""
    help: str

    @property
    def key(self) -> str:
        """The ini key and the name of the option's value."""
        return f"nomad_{self.name}"

    @property
    def option(self) -> str:
        """The command line option."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return ENV_PREFIX + self.name.upper()

    @property
    def description(self) -> str:
        """The help text, with the default and the other ways to set it."""
        default = {None: "none", False: "off"}.get(self.default, self.default)
        return f"{self.help} (default: {default}; environment {self.variable}, ini {self.key})"


def _choice(*names: str) -> Parse:
    def parse(text: str) -> str:
        if text not in names:
            raise _Wrong("one of " + ", ".join(names))
        return text

    return parse


def _matching(pattern: str, right: str) -> Parse:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise _Wrong(right)
        return text

    return parse


def _switch(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise _Wrong("true or false")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise _Wrong("a number of seconds above 0, such as 300")
    return value


def _folder(text: str) -> Path:
    path = Path(text).expanduser()
    if path.exists() and not path.is_dir():
        raise _Wrong("a folder, or a path where one can be made")
    return path


def _program(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise _Wrong("the path of an existing executable")
    return path


def _row(parse: Parse, metavar: str | None, help: str) -> dict[str, Any]:
    return {"parse": parse, "metavar": metavar, "help": help}


_REGION = _matching(r"[a-z]{2}(-[a-z]+)+-\d", "an AWS region such as us-east-1")
_AMI = _matching(r"ami-([0-9a-f]{8}|[0-9a-f]{17})", "an AMI id such as ami-0123456789abcdef0")
_VERSION = _matching(r"\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?", "a version such as 1.6.1")


@dataclass(frozen=True)
class Settings:
    """What the user has chosen.

    >>> settings = Settings.load(environ={"NOMAD_TESTKIT_TIMEOUT": "90"})
    >>> settings.timeout, settings.source("timeout")
    (90.0, 'environment variable NOMAD_TESTKIT_TIMEOUT')
    """

    target: str = field(
        default="embedded", metadata=_row(_choice(*TARGETS), "NAME", "where clusters are deployed to: embedded")
    )
    region: str = field(default="us-east-1", metadata=_row(_REGION, "REGION", "AWS region of the target"))
    ami: str | None = field(
        default=None, metadata=_row(_AMI, "AMI", "image of every host, instead of the example's or the target's own")
    )
    timeout: float = field(
        default=300.0, metadata=_row(_seconds, "SECONDS", "from a deployment's start until it has to be ready")
    )
    keep: bool = field(
        default=False, metadata=_row(_switch, None, "leave clusters up, and print how to reach and destroy them")
    )
    artifacts: Path = field(
        default=Path("nomad-artifacts"),
        metadata=_row(_folder, "FOLDER", "where evidence of failures goes; made only when there is some"),
    )
    consul_version: str = field(
        default="1.14.0", metadata=_row(_VERSION, "VERSION", "Consul on the target's own image")
    )
    nomad_version: str = field(default="1.6.1", metadata=_row(_VERSION, "VERSION", "Nomad on the target's own image"))
    consul_binary: Path | None = field(
        default=None, metadata=_row(_program, "FILE", "Consul executable to use instead of getting one")
    )
    nomad_binary: Path | None = field(
        default=None, metadata=_row(_program, "FILE", "Nomad executable to use instead of getting one")
    )
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where each value that is no default came from."""

    @classmethod
    def load(
        cls,
        *,
        options: Mapping[str, str | None] | None = None,
        environ: Mapping[str, str] | None = None,
        ini: Mapping[str, str] | None = None,
        ini_file: str = "the ini file",
    ) -> Settings:
        """Combine options, environment and ini, in this order of precedence; an empty value counts as none.

        `options` and `ini` are keyed as the user writes them, by ``nomad_target`` and its like. Raises SettingsError
        that lists every wrong value, even one that another overrides.
        """
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        wrong: list[str] = []
        for setting in table():
            given = (
                (f"option {setting.option}", (options or {}).get(setting.key)),
                (f"environment variable {setting.variable}", (environ or {}).get(setting.variable)),
                (f"{setting.key} in {ini_file}", (ini or {}).get(setting.key)),
            )
            for source, text in given:
                if not text:
                    continue
                try:
                    value = setting.parse(text)
                except _Wrong as right:
                    wrong.append(f"{source}: found {text!r}, expected {right}")
                    continue
                if setting.name not in values:
                    values[setting.name], sources[setting.name] = value, source
        if wrong:
            lines = "".join(f"\n  - {line}" for line in wrong)
            raise SettingsError(f"nomad_testkit cannot use {len(wrong)} of its settings:{lines}")
        return cls(**values, sources=sources)

    def source(self, name: str) -> str:
        """Tell where a value came from."""
        return self.sources.get(name, "default")

    def chosen(self) -> Iterator[str]:
        """List the values that are no defaults, each with where it came from."""
        for name, source in self.sources.items():
            yield f"{name}={getattr(self, name)} ({source})"


def table() -> tuple[Setting, ...]:
    """List every setting, in the order of the help.

    >>> [setting.option for setting in table()][:2]
    ['--nomad-target', '--nomad-region']
    """
    return tuple(
        Setting(one.name, one.default, one.metadata["parse"], one.metadata["metavar"], one.metadata["help"])
        for one in fields(Settings)
        if one.metadata
    )
