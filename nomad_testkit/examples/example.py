"""Examples: a folder with an example.toml that says which groups of hosts make a cluster, or with Terraform's files."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from nomad_testkit.errors import ExampleError, did_you_mean, near_miss
from nomad_testkit.examples import configuration
from nomad_testkit.examples.inputs import checked_inputs, known_keys
from nomad_testkit.examples.security import Security
from nomad_testkit.examples.variables import (
    RESERVED,
    Variable,
    expand_input,
    expand_user_data,
    kind_of,
    referred,
    refusal,
    refuse_unusable_key,
)
from nomad_testkit.modules.bundle import examples_dir
from nomad_testkit.modules.cluster_variables import ClusterModule
from nomad_testkit.modules.consul_cluster import ConsulCluster
from nomad_testkit.modules.fixed_ports import fixed_port_fault
from nomad_testkit.modules.iam_policies import POLICIES
from nomad_testkit.modules.nomad_cluster import NomadCluster
from nomad_testkit.modules.security_group_rules import RULE_SETS, Port
from nomad_testkit.modules.steps import RUN_ID_LENGTH

if TYPE_CHECKING:
    from nomad_testkit.settings import Settings

FILE = "example.toml"
MODULES: Mapping[str, type[ClusterModule]] = {"consul-cluster": ConsulCluster, "nomad-cluster": NomadCluster}

_OPTIONAL = ("description", "security")

# As long as a run's id may be, so that what fits when an example is loaded fits in every run.
_ANY_RUN = "x" * RUN_ID_LENGTH


@dataclass(frozen=True, slots=True)
class Roles:
    """The groups whose hosts run each kind of agent; each is a tuple of groups' names."""

    consul_servers: tuple[str, ...]
    nomad_servers: tuple[str, ...]
    nomad_clients: tuple[str, ...]

    @property
    def topology(self) -> str:
        """``colocated`` where the same hosts run the servers of both, ``separate`` where none does, else ``mixed``.

        >>> Roles(("servers",), ("servers",), ("clients",)).topology
        'colocated'
        """
        consul, nomad = set(self.consul_servers), set(self.nomad_servers)
        return "colocated" if consul == nomad else "mixed" if consul & nomad else "separate"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many hosts run each kind of agent."""

    consul_servers: int
    nomad_servers: int
    nomad_clients: int


@dataclass(frozen=True, slots=True)
class Group:
    """One group of like hosts, with the example's variables filled in."""

    name: str
    module: ClusterModule
    ports: tuple[Port, ...] = ()
    """What the example opens besides the module's own ports."""
    policies: Mapping[str, str] = field(default_factory=dict)
    """What the example lets the hosts do besides the module's own policies."""


@dataclass(frozen=True)
class Example:
    """An example with the values of its variables; never changes.

    >>> Example.load("nomad-consul-colocated-cluster").replace(num_clients=3).variables["num_clients"]
    3
    """

    folder: Path
    declarations: Mapping[str, Variable]
    variables: Mapping[str, Any]
    roles: Roles
    description: str = ""
    security: Security = field(default_factory=Security)
    _groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    _scripts: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def file(self) -> Path:
        """Its example.toml."""
        return self.folder / FILE

    @property
    def ssh_user(self) -> str:
        """The user to log in as: the variable ssh_user, else that of Debian's images."""
        return str(self.variables.get("ssh_user", "admin"))

    @property
    def ssh_private_key_file(self) -> Path | None:
        """The file of the private key to log in with, where the key pair is the user's own."""
        file = str(self.variables.get("ssh_private_key_file", ""))
        return Path(file).expanduser() if file else None

    @property
    def ami_id(self) -> str:
        """The image that it asks for; empty for the target's own."""
        return str(self.variables.get("ami_id", ""))

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of its groups, in the order in which they are created."""
        return tuple(self._groups)

    @property
    def sizes(self) -> Sizes:
        """How many hosts it asks for, by what runs on them.

        >>> Example.load("nomad-consul-separate-cluster").sizes
        Sizes(consul_servers=3, nomad_servers=3, nomad_clients=6)
        """
        hosts = {group.name: group.module.sizes[2] for group in self.rendered}
        return Sizes(
            **{role: sum(hosts[group] for group in groups) for role, groups in dataclasses.asdict(self.roles).items()}
        )

    @classmethod
    def load(cls, name_or_path: str | Path) -> Example:
        """Load a bundled example by its name, or any by its folder, which has an example.toml or ``*.tf``.

        Raises ExampleError, which names the file, the key, what was found and what would be right.
        """
        folder = _find(name_or_path)
        file = folder / FILE
        if not file.is_file():
            from nomad_testkit.examples.terraform import TerraformExample

            return TerraformExample.of(folder)
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ExampleError(f"{file} cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise ExampleError(f"{file} is not TOML: {error}") from error
        sections = {"description": str, "variables": dict, "groups": dict, "roles": dict, "security": dict}
        known_keys(file, "", table, sections)
        for key, type_ in sections.items():
            if key in table and not isinstance(table[key], type_):
                raise refusal(file, key, kind_of(table[key]), "a string" if type_ is str else "a table")
            if key not in table and key not in _OPTIONAL:
                raise refusal(file, key, "nothing", f"a table [{key}]")
        declarations = {
            name: Variable.declared(file, name, declaration) for name, declaration in table["variables"].items()
        }
        groups = {name: _group_table(file, name, group) for name, group in table["groups"].items()}
        if not groups:
            raise refusal(file, "groups", "none", "at least one table such as [groups.servers]")
        example = cls(
            folder=folder,
            declarations=MappingProxyType(declarations),
            variables=MappingProxyType({name: one.default for name, one in declarations.items()}),
            roles=_roles(file, table["roles"], groups),
            description=table.get("description", ""),
            security=Security.declared(file, table.get("security", {})),
            _groups=groups,
            _scripts={name: _script(file, name, group) for name, group in groups.items() if "user_data" in group},
        )
        example.security.check(file, example._scripts)
        example._check_login(example.rendered)
        example._check_ports(example.rendered)
        return example

    def replace(self, **variables: Any) -> Example:
        """Make an example with other values of some variables. Raises ExampleError as `load` does."""
        for name in variables:
            if name not in self.declarations:
                found = "a variable that this example does not declare"
                raise refusal(self.file, f"variable {name}", found, near_miss(name, self.declarations))
        given = {name: self.declarations[name].checked(self.file, value) for name, value in variables.items()}
        example = dataclasses.replace(self, variables=MappingProxyType({**self.variables, **given}))
        example._check_login(example.rendered)
        example._check_ports(example.rendered)
        return example

    def with_settings(self, settings: Settings) -> Example:
        """Make an example with the sizes and variables that settings ask for. Raises SettingsError."""
        from nomad_testkit.examples.settings import changed

        return changed(self, settings)

    def describe(self) -> dict[str, Any]:
        """Tell, in JSON's types, what another process needs to have the same example; a variable may be a secret."""
        return {"folder": str(self.folder), "variables": dict(self.variables)}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Example:
        """Load the example that `describe` told of. Raises ExampleError where its folder has changed too much since.

        >>> example = Example.load("nomad-consul-colocated-cluster").replace(num_clients=1)
        >>> Example.from_description(example.describe()).variables["num_clients"]
        1
        """
        return cls.load(Path(description["folder"])).replace(**description["variables"])

    sizing: ClassVar[str] = 'a reference to one, such as desired_capacity = "${num_clients}"'
    """How a size is made a variable."""
    ami_variable: ClassVar[str | None] = None
    """The variable that the setting `ami` sets; None where the target takes it in any case."""

    def deployed(self, outputs: Mapping[str, Any]) -> Example:
        """Give the example as it was deployed, where only the deployment's outputs tell everything of it."""
        return self

    def preflight(self, terraform: Path | None) -> None:
        """See that this machine has the program that makes it; `terraform` is one that is named. Needs none here."""

    def size_variables(self, role: str) -> tuple[str | None, ...]:
        """Name the variables that are the sizes of the groups with a role; None for a size that is no variable.

        >>> Example.load("nomad-consul-colocated-cluster").size_variables("nomad_clients")
        ('num_clients',)
        """
        tables = (self._groups[group] for group in getattr(self.roles, role))
        sizes = (table.get("inputs", {}).get(MODULES[table["module"]].size_input) for table in tables)
        return tuple(dict.fromkeys(referred(size) for size in sizes))

    def values(self, run_id: str) -> dict[str, Any]:
        """Give the variables as one run sees them: the values of cluster tags are unique to it."""
        return {
            name: f"{value}-{run_id}" if self.declarations[name].type == "cluster-tag-value" else value
            for name, value in self.variables.items()
        }

    @functools.cached_property
    def rendered(self) -> tuple[Group, ...]:
        """Its groups as any run would have them, rendered once: what checks and surveys read."""
        return self.render()

    def render(self, *, run_id: str = _ANY_RUN, inbound_cidr_blocks: Sequence[str] = ()) -> tuple[Group, ...]:
        """Fill the variables in; `inbound_cidr_blocks` is what inputs get for that name. Raises ExampleError."""
        values = self.values(run_id)
        given = {**values, **dict.fromkeys(RESERVED, tuple(inbound_cidr_blocks))}
        return tuple(self._render(name, table, values, given) for name, table in self._groups.items())

    def _render(
        self, name: str, table: Mapping[str, Any], values: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Group:
        key, type_ = f"groups.{name}.inputs", MODULES[table["module"]]
        inputs = {
            input_: expand_input(self.file, f"{key}.{input_}", value, given)
            for input_, value in table.get("inputs", {}).items()
        }
        if name in self._scripts:
            inputs["user_data"] = expand_user_data(self._scripts[name], values)
        module = type_(**checked_inputs(self.file, key, table["module"], type_, inputs))
        for input_, found, right in module.faults():
            file = self.folder / table["user_data"] if input_ == "user_data" else self.file
            raise refusal(file, f"{key}.{input_}", found, right)
        extra = table.get("extra_modules", [])
        ports = tuple(port for one in extra if one in RULE_SETS for port in RULE_SETS[one]())
        return Group(name, module, ports, {one: POLICIES[one] for one in extra if one in POLICIES})

    def _check_ports(self, groups: Sequence[Group]) -> None:
        """Refuse ports that no agent would have, or a run would never ask. Raises ExampleError."""
        for group in groups:
            roles = [one.name for one in dataclasses.fields(Roles) if group.name in getattr(self.roles, one.name)]
            if fault := fixed_port_fault(group.module, roles, tls=self.security.tls):
                input_, found, right = fault
                raise refusal(self.file, f"groups.{group.name}.inputs.{input_}", found, right)

    def _check_login(self, groups: Sequence[Group]) -> None:
        """Refuse a key pair without its private key: a run logs in to its hosts. Raises ExampleError."""
        key, file = "variable ssh_private_key_file", self.ssh_private_key_file
        names = list(dict.fromkeys(group.module.ssh_key_name for group in groups))
        if len(names) > 1:
            right = "the same for all groups, because hosts are logged in to with one private key"
            raise refusal(self.file, "ssh_key_name", " and ".join(repr(name) for name in names), right)
        if names == [""]:
            if file is not None:
                right = 'a name in ssh_key_name beside it, or ""'
                raise refusal(self.file, key, f"{str(file)!r} without the name of its key pair", right)
            return
        if file is None:
            declared = "" if "ssh_private_key_file" in self.declarations else ", which this example does not declare"
            right = f"the file of the private key of the key pair {names[0]!r}, with which hosts are logged in to"
            raise refusal(self.file, key, f"nothing{declared}", right)
        refuse_unusable_key(
            self.file, key, file, f"a private key without a passphrase, that of the key pair {names[0]!r}"
        )


def _find(name_or_path: str | Path) -> Path:
    bundled = sorted(path.parent.name for path in examples_dir().glob(f"*/{FILE}"))
    if str(name_or_path) in bundled:
        return examples_dir() / name_or_path
    path = Path(name_or_path)
    folder = (path.parent if path.name == FILE else path).resolve()
    configured = [path.name for path in configuration.files(folder)] if folder.is_dir() else []
    if configured and (folder / FILE).is_file():
        raise ExampleError(
            f"{folder}: found {FILE} and {', '.join(configured)}; expected one of them: what is to make the cluster?"
        )
    if configured or (folder / FILE).is_file():
        return folder
    if folder.is_dir():
        files = _files(folder)
        seen = ", ".join(files[:8]) + (f" and {len(files) - 8} more" if len(files) > 8 else "")
        right = f"one with it, or one that is bundled: {', '.join(bundled)}"
        raise ExampleError(
            f"{folder}: found a folder without {FILE} or *.tf (in it: {seen or 'no file'}); expected {right}"
        )
    hint = near_miss(str(name_or_path), bundled)
    raise ExampleError(f"there is no example at {folder}, and none is bundled as {path}; {hint}")


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def _group_table(file: Path, name: str, table: object) -> Mapping[str, Any]:
    key = f"groups.{name}"
    if not isinstance(table, dict):
        raise refusal(file, key, kind_of(table), "a table with module and inputs")
    types = {"module": str, "user_data": str, "extra_modules": list, "inputs": dict}
    known_keys(file, key, table, types)
    for one, type_ in types.items():
        if one in table and not isinstance(table[one], type_):
            right = {str: "a string", list: "a list of strings", dict: "a table"}[type_]
            raise refusal(file, f"{key}.{one}", kind_of(table[one]), right)
    if table.get("module") not in MODULES:
        found = kind_of(table["module"]) if "module" in table else "nothing"
        raise refusal(file, f"{key}.module", found, f"one of {', '.join(MODULES)}")
    for extra in table.get("extra_modules", []):
        if not isinstance(extra, str) or extra not in (*RULE_SETS, *POLICIES):
            raise refusal(file, f"{key}.extra_modules", kind_of(extra), near_miss(str(extra), (*RULE_SETS, *POLICIES)))
    if "user_data" in table.get("inputs", {}):
        raise refusal(file, f"{key}.inputs.user_data", "an input", f"the key user_data of [{key}], a script's name")
    return dict(table)


def _script(file: Path, name: str, table: Mapping[str, Any]) -> bytes:
    path = file.parent / str(table["user_data"])
    try:
        return path.read_bytes()
    except OSError as error:
        why = error.strerror or error
        found, right = f"{table['user_data']!r}, which cannot be read ({why})", "a script beside example.toml"
        if not path.exists():
            right += did_you_mean(path.name, [one for one in _files(file.parent) if one != FILE])
        raise refusal(file, f"groups.{name}.user_data", found, right) from error


def _roles(file: Path, table: Mapping[str, Any], groups: Mapping[str, Any]) -> Roles:
    names = [item.name for item in dataclasses.fields(Roles)]
    known_keys(file, "roles", table, names)
    for name in names:
        value, key = table.get(name), f"roles.{name}"
        if not isinstance(value, list) or not value:
            found = kind_of(value) if name in table else "nothing"
            raise refusal(file, key, found, 'a list of groups such as ["servers"]')
        for group in value:
            if group not in groups:
                raise refusal(file, key, kind_of(group), near_miss(str(group), groups))
    return Roles(**{name: tuple(table[name]) for name in names})
