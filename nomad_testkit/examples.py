"""Examples: a folder with an example.toml that says which groups of hosts make a cluster."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nomad_testkit.bundle import examples_dir
from nomad_testkit.errors import ExampleError
from nomad_testkit.example_variables import (
    RESERVED,
    Variable,
    expand_input,
    expand_user_data,
    kind_of,
    near_miss,
    referred,
    refusal,
)
from nomad_testkit.modules.cluster_variables import ClusterModule
from nomad_testkit.modules.consul_cluster import ConsulCluster
from nomad_testkit.modules.iam_policies import POLICIES
from nomad_testkit.modules.nomad_cluster import NomadCluster
from nomad_testkit.modules.security_group_rules import RULE_SETS, Port
from nomad_testkit.modules.steps import RUN_ID_LENGTH

FILE = "example.toml"
MODULES: Mapping[str, type[ClusterModule]] = {"consul-cluster": ConsulCluster, "nomad-cluster": NomadCluster}
_SIZE_INPUTS: Mapping[str, str] = {"consul-cluster": "cluster_size", "nomad-cluster": "desired_capacity"}

# As long as a run's id may be, so that what fits when an example is loaded fits in every run.
_ANY_RUN = "x" * RUN_ID_LENGTH
_INPUT_TYPES: Mapping[Any, str] = {
    str: "a string",
    int: "an integer",
    bool: "true or false",
    tuple[str, ...]: "a list of strings",
    Mapping[str, str]: "a table of strings",
}


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
    _groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    _scripts: Mapping[str, str] = field(default_factory=dict, repr=False)

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
        hosts = {group.name: group.module.sizes[2] for group in self.render()}
        return Sizes(
            **{role: sum(hosts[group] for group in groups) for role, groups in dataclasses.asdict(self.roles).items()}
        )

    @classmethod
    def load(cls, name_or_path: str | Path) -> Example:
        """Load a bundled example by its name, or any by its folder.

        Raises ExampleError, which names the file, the key, what was found and what would be right.
        """
        folder = _find(name_or_path)
        file = folder / FILE
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ExampleError(f"{file} cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise ExampleError(f"{file} is not TOML: {error}") from error
        sections = {"description": str, "variables": dict, "groups": dict, "roles": dict}
        _known_keys(file, "", table, sections)
        for key, type_ in sections.items():
            if key != "description" and key not in table:
                raise refusal(file, key, "nothing", f"a table [{key}]")
            if not isinstance(table.get(key, ""), type_ if key in table else str):
                right = "a string" if type_ is str else "a table"
                raise refusal(file, key, kind_of(table[key]), right)
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
            _groups=groups,
            _scripts={name: _script(file, name, group) for name, group in groups.items() if "user_data" in group},
        )
        example.render()
        return example

    def replace(self, **variables: Any) -> Example:
        """Make an example with other values of some variables. Raises ExampleError as `load` does."""
        for name in variables:
            if name not in self.declarations:
                found = "a variable that this example does not declare"
                raise refusal(self.file, f"variable {name}", found, near_miss(name, self.declarations))
        given = {name: self.declarations[name].checked(self.file, value) for name, value in variables.items()}
        example = dataclasses.replace(self, variables=MappingProxyType({**self.variables, **given}))
        example.render()
        return example

    def size_variables(self, role: str) -> tuple[str | None, ...]:
        """Name the variables that are the sizes of the groups with a role; None for a size that is no variable.

        >>> Example.load("nomad-consul-colocated-cluster").size_variables("nomad_clients")
        ('num_clients',)
        """
        tables = (self._groups[group] for group in getattr(self.roles, role))
        sizes = (table.get("inputs", {}).get(_SIZE_INPUTS[table["module"]]) for table in tables)
        return tuple(dict.fromkeys(referred(size) for size in sizes))

    def values(self, run_id: str) -> dict[str, Any]:
        """Give the variables as one run sees them: the values of cluster tags are unique to it."""
        return {
            name: f"{value}-{run_id}" if self.declarations[name].type == "cluster-tag-value" else value
            for name, value in self.variables.items()
        }

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
        module = type_(**_inputs(self.file, key, table["module"], inputs))
        for input_, found, right in module.faults():
            file = self.folder / table["user_data"] if input_ == "user_data" else self.file
            raise refusal(file, f"{key}.{input_}", found, right)
        extra = table.get("extra_modules", [])
        ports = tuple(port for one in extra if one in RULE_SETS for port in RULE_SETS[one]())
        return Group(name, module, ports, {one: POLICIES[one] for one in extra if one in POLICIES})


def _find(name_or_path: str | Path) -> Path:
    bundled = sorted(path.parent.name for path in examples_dir().glob(f"*/{FILE}"))
    if str(name_or_path) in bundled:
        return examples_dir() / name_or_path
    path = Path(name_or_path)
    folder = (path.parent if path.name == FILE else path).resolve()
    if not (folder / FILE).is_file():
        hint = near_miss(str(name_or_path), bundled)
        raise ExampleError(
            f"there is no example at {folder} (no {FILE} in it), and none is bundled as {path}; right is {hint}"
        )
    return folder


def _known_keys(file: Path, key: str, table: Mapping[str, Any], known: typing.Iterable[str]) -> None:
    for name in table:
        if name not in known:
            place = f"{key}.{name}" if key else name
            raise refusal(file, place, "a key that means nothing here", near_miss(name, known))


def _group_table(file: Path, name: str, table: object) -> Mapping[str, Any]:
    key = f"groups.{name}"
    if not isinstance(table, dict):
        raise refusal(file, key, kind_of(table), "a table with module and inputs")
    types = {"module": str, "user_data": str, "extra_modules": list, "inputs": dict}
    _known_keys(file, key, table, types)
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


def _script(file: Path, name: str, table: Mapping[str, Any]) -> str:
    path = file.parent / str(table["user_data"])
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found = f"{table['user_data']!r}, which cannot be read ({error})"
        raise refusal(file, f"groups.{name}.user_data", found, "a script beside example.toml") from error


def _roles(file: Path, table: Mapping[str, Any], groups: Mapping[str, Any]) -> Roles:
    names = [item.name for item in dataclasses.fields(Roles)]
    _known_keys(file, "roles", table, names)
    for name in names:
        value, key = table.get(name), f"roles.{name}"
        if not isinstance(value, list) or not value:
            found = kind_of(value) if name in table else "nothing"
            raise refusal(file, key, found, 'a list of groups such as ["servers"]')
        for group in value:
            if group not in groups:
                raise refusal(file, key, kind_of(group), near_miss(str(group), groups))
    return Roles(**{name: tuple(table[name]) for name in names})


def _inputs(file: Path, key: str, module: str, given: Mapping[str, Any]) -> dict[str, Any]:
    type_ = MODULES[module]
    known = {item.name: item for item in dataclasses.fields(type_)}
    _known_keys(file, key, given, known)
    hints = typing.get_type_hints(type_)
    for name, item in known.items():
        needed = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if needed and name not in given:
            raise refusal(file, f"{key}.{name}", "nothing", f"{_INPUT_TYPES[hints[name]]}: {module} requires it")
    checked = {}
    for name, value in given.items():
        hint = hints[name]
        if hint == tuple[str, ...] and isinstance(value, list | tuple):
            value = tuple(value)
            right = all(isinstance(item, str) for item in value)
        elif hint == Mapping[str, str] and isinstance(value, dict):
            right = all(isinstance(item, str) for item in value.values())
        else:
            right = type(value) is hint
        if not right:
            raise refusal(file, f"{key}.{name}", kind_of(value), _INPUT_TYPES[hint])
        checked[name] = value
    return checked
