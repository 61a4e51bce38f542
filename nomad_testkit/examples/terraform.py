"""Examples that Terraform or OpenTofu makes: a folder with ``*.tf`` whose outputs have the names of upstream's."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from nomad_testkit.errors import ExampleError, did_you_mean
from nomad_testkit.examples.cluster_outputs import ROLES, GroupOutputs, expected, find_groups, size_variables
from nomad_testkit.examples.configuration import Configuration, Declared
from nomad_testkit.examples.example import Example, Group, Roles, Sizes
from nomad_testkit.examples.terraform_tool import find_tool
from nomad_testkit.examples.variables import TYPES, Variable, kind_of, refusal, refuse_unusable_key

_KNOWN: Mapping[str, str] = {
    "ami_id": "ami-id",
    "num_servers": "server-count",
    "num_nomad_servers": "server-count",
    "num_consul_servers": "server-count",
    "num_clients": "count",
    "num_nomad_clients": "count",
    "ssh_user": "user-name",
}
"""Upstream's variables whose values can be judged before anything is run, each with its type in an example.toml."""
_OWN: Mapping[str, Declared] = {
    "ssh_user": Declared("ssh_user", "string", "admin"),
    "ssh_private_key_file": Declared("ssh_private_key_file", "string", ""),
}
"""How hosts are logged in to: a run needs these, whether or not the configuration declares them."""


@dataclass(frozen=True, slots=True)
class TerraformVariable(Variable):
    """A variable of a configuration; where its type is not written, any value will do."""

    primitive: bool = True

    def checked(self, file: Path, value: object, *, key: str | None = None) -> Any:
        """Give the value if this variable may hold it, as far as can be told. Raises ExampleError."""
        key = key or f"variable {self.name}"
        if value is None:
            return value
        if (known := _KNOWN.get(self.name)) is not None and self.primitive:
            return self._known(file, key, value, known)
        if self.type == "":
            return value
        if not self.primitive:
            if isinstance(value, list | tuple | dict):
                return list(value) if isinstance(value, tuple) else value
            raise refusal(file, key, kind_of(value), f'{self.type} in JSON, such as ["a", "b"]')
        found = str(value).lower() if isinstance(value, bool) else str(value)
        if isinstance(value, list | tuple | dict) or (self.type == "bool" and found not in ("true", "false")):
            raise refusal(file, key, kind_of(value), {"bool": "true or false"}.get(self.type, f"a {self.type}"))
        if self.type == "number":
            if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", found):
                raise refusal(file, key, kind_of(value), "a number")
            return float(found) if "." in found else int(found)
        return found == "true" if self.type == "bool" else found

    def _known(self, file: Path, key: str, value: object, known: str) -> Any:
        """Judge a value as that of upstream's variable of the same name."""
        type_, found = TYPES[known], str(value)
        if type_.python is int and not re.fullmatch(r"[0-9]+", found):
            raise refusal(file, key, kind_of(value), type_.described)
        right = type_.refused(type_.python(found))
        if right or isinstance(value, list | tuple | dict):
            raise refusal(file, key, kind_of(value), right or type_.described)
        return type_.python(found)

    def read(self, text: str) -> Any:
        """Read a value: a string, a number or a boolean as it is, and everything else as JSON."""
        if self.primitive and not text.startswith(("[", "{")):
            return text
        try:
            return json.loads(text)
        except ValueError:
            return text  # `checked` says what is wrong with it


@dataclass(frozen=True, kw_only=True)
class TerraformExample(Example):
    """A folder with ``*.tf``: what it declares is read, what it makes only Terraform knows.

    >>> example = Example.load(Path("my-cluster"))  # doctest: +SKIP
    >>> example.replace(num_clients=3).given  # doctest: +SKIP
    {'num_clients': 3}
    """

    configuration: Configuration
    group_outputs: Mapping[str, GroupOutputs]
    """The outputs that tell of each role's hosts."""
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The values that are not the configuration's own."""
    counted: Sizes | None = None
    """How many hosts there are, once it is deployed."""

    ami_variable: ClassVar[str | None] = "ami_id"
    sizing: ClassVar[str] = 'a variable with such a name as upstream\'s, such as variable "num_clients" {}'

    @classmethod
    def of(cls, folder: Path) -> TerraformExample:
        """Read a folder. Raises ExampleError for one whose outputs do not tell where the cluster is."""
        configuration = Configuration.read(folder)
        groups = find_groups(configuration.outputs)
        if lacking := [role for role in ROLES if role not in groups]:
            found = ", ".join(configuration.outputs) or "none"
            unread = "".join(f" ({file} is not read as HCL: {why})" for file, why in configuration.unread.items())
            right = "besides these " + "; ".join(expected(role) for role in lacking)
            raise refusal(_outputs_file(folder), "outputs", found + unread, right)
        declared = {**_OWN, **configuration.variables}
        return cls(
            folder=folder,
            declarations=MappingProxyType({name: _variable(one) for name, one in declared.items()}),
            variables=MappingProxyType({name: one.default for name, one in declared.items() if not one.required}),
            roles=Roles(**{role: (one.group,) for role, one in groups.items()}),
            description="A configuration of Terraform or OpenTofu.",
            configuration=configuration,
            group_outputs=groups,
        )

    @property
    def file(self) -> Path:
        """The folder, since a variable can be declared in any of its files."""
        return self.folder

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of its groups, as its outputs have them."""
        return tuple(dict.fromkeys(one.group for one in self.group_outputs.values()))

    @property
    def sizes(self) -> Sizes:
        """How many hosts it asks for; 0 before it is deployed where no variable tells."""
        return self.counted or Sizes(**{role: self._size(role) for role in ROLES})

    def replace(self, **variables: Any) -> TerraformExample:
        """Make an example with other values of some variables. Raises ExampleError as `load` does."""
        for name in variables:
            if name not in self.declarations:
                found = "a variable that this configuration does not declare"
                declared = ", ".join(self.declarations) or "none"
                hint = f"one of those declared, {declared}{did_you_mean(name, self.declarations)}"
                raise refusal(self.file, f"variable {name}", found, hint)
        given = {name: self.declarations[name].checked(self.file, value) for name, value in variables.items()}
        example = dataclasses.replace(
            self,
            variables=MappingProxyType({**self.variables, **given}),
            given=MappingProxyType({**self.given, **given}),
        )
        example._check_key()
        return example

    def describe(self) -> dict[str, Any]:
        """Tell what another process needs to have the same example; a variable may be a secret."""
        return {"folder": str(self.folder), "variables": dict(self.given)}

    def preflight(self, terraform: Path | None) -> None:
        """See that there is Terraform or OpenTofu in a version that will do. Raises PreflightError."""
        find_tool(terraform, self.folder)

    def deployed(self, outputs: Mapping[str, Any]) -> TerraformExample:
        """Give the example with the sizes that the outputs tell, ``num_servers`` and its like."""
        counts = {role: int(outputs[f"num_{one.group}"]) for role, one in self.group_outputs.items()}
        return dataclasses.replace(self, counted=Sizes(**counts))

    def size_variables(self, role: str) -> tuple[str | None, ...]:
        """Name the variable that is the size of the group with a role; None where none has such a name."""
        return (self._size_variable(role),)

    def values(self, run_id: str) -> dict[str, Any]:
        """Give the variables; which of them a run gives a value of its own, its deployment knows."""
        return dict(self.variables)

    def render(self, *, run_id: str = "", inbound_cidr_blocks: Sequence[str] = ()) -> tuple[Group, ...]:
        """Raise ExampleError: what a configuration makes is not known before it is applied."""
        raise ExampleError(f"{self.folder}: found a configuration of Terraform; expected an example.toml to plan from")

    def _size_variable(self, role: str) -> str | None:
        names = size_variables(self.group_outputs[role].group)
        return next((name for name in names if name in self.configuration.variables), None)

    def _size(self, role: str) -> int:
        value = str(self.variables.get(self._size_variable(role) or ""))
        return int(value) if re.fullmatch(r"[0-9]+", value) else 0

    def _check_key(self) -> None:
        """Refuse a private key that cannot be used. Raises ExampleError."""
        key, file = "variable ssh_private_key_file", self.ssh_private_key_file
        if self.given.get("ssh_key_name") and file is None:
            right = f"the file of the private key of the key pair {self.given['ssh_key_name']!r}, to log in with"
            raise refusal(self.file, key, "nothing", right)
        if file is None:
            return
        refuse_unusable_key(self.file, key, file, "a private key without a passphrase")


def _variable(one: Declared) -> TerraformVariable:
    return TerraformVariable(one.name, one.type, one.default, primitive=one.primitive)


def _outputs_file(folder: Path) -> Path:
    return folder / "outputs.tf" if (folder / "outputs.tf").is_file() else folder
