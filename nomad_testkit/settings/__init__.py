"""Settings by precedence: option > environment > ini > default. Each value knows its source.

The fields of `Settings` are the only table: options, ini keys, environment variables, help and validation follow it.
A repeatable setting, such as ``--nomad-var``, has one value a line in ini, and ``;`` between values in the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from nomad_testkit.errors import SettingsError
from nomad_testkit.settings import values as read

ENV_PREFIX = "NOMAD_TESTKIT_"
TARGETS = ("embedded", "aws")
SEPARATOR = ";"
"""Separates the values of a repeatable setting in its environment variable."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    name: str
    """The name of the field; users write it with the prefix ``nomad_``."""
    default: Any
    parse: read.Parse
    metavar: str | None
    """None for a switch, which takes no value."""
    help: str
    repeatable: bool = False
    """Whether it is a list of KEY=VALUE."""

    @property
    def key(self) -> str:
        """The ini key."""
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
        default, several = "none" if self.repeatable else _shown(self.default), ("", "")
        if self.repeatable:
            several = (f" with {SEPARATOR} between them", " one a line")
        return f"{self.help} (default: {default}; environment {self.variable}{several[0]}, ini {self.key}{several[1]})"

    def texts(self, given: str | Sequence[str] | None) -> list[str]:
        """Split the given text into single values; empty ones are dropped."""
        parts = [given] if isinstance(given, str) else list(given or ())
        if self.repeatable and isinstance(given, str):
            parts = given.split(SEPARATOR)
        return [part.strip() if self.repeatable else part for part in parts if part.strip()]


def _row(parse: read.Parse, metavar: str | None, help: str, *, repeatable: bool = False) -> dict[str, Any]:
    return {"parse": parse, "metavar": metavar, "help": help, "repeatable": repeatable}


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)


_SECRET = re.compile(r"secret|token|password|gossip|encrypt|private")
"""Matches the names of variables whose values are hidden."""
_DEPLOYING = (
    "target",
    "region",
    "example",
    "ami",
    "users",
    "servers",
    "clients",
    "var",
    "keep",
    "consul_version",
    "nomad_version",
    "consul_binary",
    "nomad_binary",
    "terraform",
)
"""Settings of a deployment, which do not apply to a cluster that is already up."""


@dataclass(frozen=True)
class Settings:
    """The values of all settings.

    >>> settings = Settings.load(environ={"NOMAD_TESTKIT_TIMEOUT": "90"})
    >>> settings.timeout, settings.source("timeout")
    (90.0, 'environment variable NOMAD_TESTKIT_TIMEOUT')
    """

    target: str = field(
        default="embedded",
        metadata=_row(read.choice(*TARGETS), "NAME", f"where clusters are deployed to: {' or '.join(TARGETS)}"),
    )
    region: str = field(
        default="us-east-1",
        metadata=_row(
            read.REGION, "REGION", "AWS region of the target; on AWS by default that of boto3's own settings"
        ),
    )
    example: str | None = field(
        default=None,
        metadata=_row(
            read.folder_or_name,
            "FOLDER",
            "example to deploy: a folder with an example.toml or *.tf, or the name of a bundled one",
        ),
    )
    ami: str | None = field(
        default=None,
        metadata=_row(read.AMI, "AMI", "image of every host, instead of the example's or the target's own"),
    )
    users: tuple[int, ...] | None = field(
        default=None,
        metadata=_row(
            read.users,
            "USER,...",
            "users of this machine, besides root and the one behind sudo, who may reach the hosts and the API of an "
            "embedded EC2",
        ),
    )
    servers: int | None = field(
        default=None, metadata=_row(read.number_from(1), "N", "how many Nomad servers, instead of the example's number")
    )
    clients: int | None = field(
        default=None, metadata=_row(read.number_from(0), "N", "how many Nomad clients, instead of the example's number")
    )
    var: Mapping[str, str] = field(
        default_factory=dict,
        metadata=_row(
            read.assignment,
            "KEY=VALUE",
            "another value for a variable of the example; can be given several times",
            repeatable=True,
        ),
    )
    timeout: float = field(
        default=300.0, metadata=_row(read.seconds, "SECONDS", "from a deployment's start until it has to be ready")
    )
    election_timeout: float = field(
        default=30.0,
        metadata=_row(read.seconds, "SECONDS", "in tests of faults, until the servers that are left have a new leader"),
    )
    heal_timeout: float = field(
        default=120.0, metadata=_row(read.seconds, "SECONDS", "in tests of faults, until everything else has healed")
    )
    fault_seed: int | None = field(
        default=None,
        metadata=_row(
            read.number_from(0, digits=18),
            "N",
            "what decides a sequence of faults, instead of a fresh one that is printed",
        ),
    )
    fault_time: float = field(
        default=30.0, metadata=_row(read.seconds, "SECONDS", "how long the faults of a sequence follow one another")
    )
    keep: bool = field(
        default=False, metadata=_row(read.switch, None, "leave clusters up, and print how to reach and destroy them")
    )
    pause: bool = field(
        default=False,
        metadata=_row(
            read.switch, None, "hold a failing test with its cluster up, say how to enter it, and go on at a key"
        ),
    )
    attach: str | None = field(
        default=None,
        metadata=_row(
            read.name,
            "NAME",
            "use the cluster that `nomad-testkit up` has deployed under this name or id, and leave it up",
        ),
    )
    artifacts: Path = field(
        default=Path("nomad-artifacts"),
        metadata=_row(
            read.folder, "FOLDER", "where evidence of failures and recorded histories go; made only for them"
        ),
    )
    report: Path | None = field(
        default=None, metadata=_row(read.page, "FILE.html", "write a page about the run, which shows it at a glance")
    )
    consul_version: str = field(
        default="1.14.0", metadata=_row(read.VERSION, "VERSION", "Consul on the target's own image")
    )
    nomad_version: str = field(
        default="1.6.1", metadata=_row(read.VERSION, "VERSION", "Nomad on the target's own image")
    )
    consul_binary: Path | None = field(
        default=None, metadata=_row(read.program, "FILE", "Consul executable to use instead of getting one")
    )
    nomad_binary: Path | None = field(
        default=None, metadata=_row(read.program, "FILE", "Nomad executable to use instead of getting one")
    )
    terraform: Path | None = field(
        default=None,
        metadata=_row(
            read.program, "FILE", "Terraform or OpenTofu executable for an example of *.tf, instead of the one in PATH"
        ),
    )
    aws_account: str | None = field(
        default=None,
        metadata=_row(read.ACCOUNT, "ID", "account that the target aws may deploy to; it creates nothing in any other"),
    )
    aws_vpc: str | None = field(
        default=None, metadata=_row(read.VPC, "VPC", "VPC of the target aws, instead of the region's default VPC")
    )
    aws_source_cidr: tuple[str, ...] | None = field(
        default=None,
        metadata=_row(
            read.blocks,
            "CIDR[,CIDR]",
            "who may reach SSH and the APIs of hosts on AWS, instead of the address that AWS sees this machine at",
        ),
    )
    aws_allow_anywhere: bool = field(
        default=False, metadata=_row(read.switch, None, "let nomad_aws_source_cidr hold as much as 0.0.0.0/0")
    )
    aws_budget: float | None = field(
        default=None,
        metadata=_row(
            read.dollars, "USD", "deploy nothing on AWS that is estimated to cost more in nomad_aws_max_time"
        ),
    )
    aws_max_time: float = field(
        default=7200.0,
        metadata=_row(read.seconds, "SECONDS", "how long a cluster may live on AWS; then its tests are interrupted"),
    )
    aws_skip_permissions: bool = field(
        default=False,
        metadata=_row(
            read.switch, None, "deploy on AWS although the look at the account finds permissions missing, and tell them"
        ),
    )
    aws_context: Mapping[str, str] = field(
        default_factory=dict,
        metadata=_row(
            read.condition_key,
            "KEY=VALUE",
            "what conditions of your AWS policies see in real calls, such as aws:MultiFactorAuthPresent=true; can be "
            "given several times",
            repeatable=True,
        ),
    )
    aws_endpoint_url: str | None = field(
        default=None,
        metadata=_row(read.URL, "URL", "API that the target aws asks in the place of AWS's, as AWS_ENDPOINT_URL does"),
    )
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The source of each value that is not a default."""
    sensitive: frozenset[str] = field(default=frozenset(), compare=False)
    """The example's sensitive variables, whose values are hidden."""

    @classmethod
    def load(
        cls,
        *,
        options: Mapping[str, str | Sequence[str] | None] | None = None,
        environ: Mapping[str, str] | None = None,
        ini: Mapping[str, str | Sequence[str] | None] | None = None,
        ini_file: str | Path = "the ini file",
    ) -> Settings:
        """Combine options, environment and ini, in this order of precedence; an empty value counts as missing.

        The keys of `options` and `ini` are the user's, such as ``nomad_target``. A relative path in ini is relative to
        the folder of `ini_file`. A repeatable setting is combined key by key. Raise SettingsError, with every invalid
        value, even an overridden one.
        """
        ini_file = Path(ini_file)
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        ranks: dict[str, int] = {}
        wrong: list[str] = []
        for setting in table():
            given = (
                (f"option {setting.option}", (options or {}).get(setting.key)),
                (f"environment variable {setting.variable}", (environ or {}).get(setting.variable)),
                (f"{setting.key} in {ini_file.name}", (ini or {}).get(setting.key)),
            )
            for rank, (source, texts) in enumerate(given):
                found: dict[str, Any] = {}
                for text in setting.texts(texts):
                    try:
                        if source == given[-1][0]:
                            text = _seen_from(ini_file.parent, setting, text)
                        value = setting.parse(text)
                    except read.Wrong as right:
                        wrong.append(f"{source}: found {text!r}, expected {right}")
                        continue
                    except (OSError, RuntimeError, ValueError) as error:  # too long, no such home, ...
                        why = getattr(error, "strerror", None) or error
                        wrong.append(f"{source}: found {text!r}, expected a readable path ({why})")
                        continue
                    if setting.repeatable:  # within one source, the last value wins
                        found[f"{setting.name} {value[0]}"] = value[1]
                    else:
                        found[setting.name] = value
                for name, value in found.items():
                    if name not in sources:
                        values[name], sources[name] = value, source
                        ranks[name] = rank
        if values.get("attach"):
            moot = [name for name in sources if name.partition(" ")[0] in _DEPLOYING or name.startswith("aws_")]
            against = [sources[name] for name in moot if ranks[name] <= ranks["attach"]]
            if against:
                listed = ", ".join(dict.fromkeys(against))
                wrong.append(
                    f"{sources['attach']}: {values['attach']} is deployed already, but these say how to deploy: "
                    f"{listed}; leave them out, or attach to nothing"
                )
            for name in moot:  # attach as an option beats deployment settings in ini
                del values[name], sources[name]
        if wrong:
            lines = "".join(f"\n  - {line}" for line in wrong)
            raise SettingsError(f"nomad_testkit cannot use {len(wrong)} of its settings:{lines}")
        for name in [name for name in values if " " in name]:
            setting_name, _, key = name.partition(" ")
            values.setdefault(setting_name, {})[key] = values.pop(name)
        return cls(**values, sources=sources)

    def source(self, name: str) -> str:
        """Return the source of a value; a variable of the example is named like ``var num_clients``."""
        return self.sources.get(name, "default")

    @property
    def changes_examples(self) -> bool:
        """Whether the settings change variables of the example."""
        return bool(self.var) or self.servers is not None or self.clients is not None

    def in_force(self) -> list[str]:
        """Return the values in force as lines: each chosen value with its source, and the defaults in one line.

        >>> Settings.load(options={"nomad_var": ["num_clients=1"]}).in_force()[0]
        'var num_clients=1 (option --nomad-var)'
        """
        chosen, defaults = [], []
        for setting in table():
            value, source = getattr(self, setting.name), self.source(setting.name)
            if setting.repeatable:
                names = [(one, f"{setting.name} {one}") for one in value]
                chosen += [
                    f"{name}={self._unless_secret(one, value[one])} ({self.source(name)})" for one, name in names
                ]
            elif source != "default":
                chosen.append(f"{setting.name}={_shown(value)} ({source})")
            elif value is not None and (self.target == "aws" or not setting.name.startswith("aws_")):
                defaults.append(f"{setting.name}={_shown(value)}")
        return [*chosen, f"{', '.join(defaults)} (default)"]

    def described(self) -> list[dict[str, str]]:
        """Return each value in force with its name and source, without secrets.

        >>> Settings.load(options={"nomad_servers": "1"}).described()[4]
        {'name': 'servers', 'value': '1', 'source': 'option --nomad-servers'}
        """
        rows = []
        for setting in table():
            value = getattr(self, setting.name)
            if setting.repeatable:
                for one in value:
                    name = f"{setting.name} {one}"
                    shown = self._unless_secret(one, value[one])
                    rows.append({"name": name, "value": shown, "source": self.source(name)})
            else:
                rows.append({"name": setting.name, "value": _shown(value), "source": self.source(setting.name)})
        return rows

    def _unless_secret(self, name: str, value: str) -> str:
        return "(not shown)" if name in self.sensitive or _SECRET.search(name) else value


def _seen_from(folder: Path, setting: Setting, text: str) -> str:
    """Resolve a path setting against a folder; return any other text unchanged."""
    path = folder / Path(text).expanduser()
    if setting.parse in (read.folder, read.page, read.program) or (
        setting.parse is read.folder_or_name and path.exists()
    ):
        return str(path)
    return text


def table() -> tuple[Setting, ...]:
    """List every setting, in the order of the help.

    >>> [setting.option for setting in table()][:2]
    ['--nomad-target', '--nomad-region']
    """
    return tuple(
        Setting(one.name, None if one.default is MISSING else one.default, **one.metadata)
        for one in fields(Settings)
        if one.metadata
    )
