"""The variables of an example: how they are declared, what they may hold, and where ``${name}`` stands for them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomad_testkit.errors import ExampleError, near_miss
from nomad_testkit.examples.login_key import public_line
from nomad_testkit.modules.user_data import is_compressed

MOST_SERVERS = 7
"""Consul's and Nomad's documentation advise 3 or 5, and 7 at most: every write waits for a majority."""

_REFERENCE = re.compile(r"\$?\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(r"[a-z_][a-z0-9_]*")


def refusal(file: Path, key: str, found: str, right: str) -> ExampleError:
    """Word an error: the file, the key in it, what was found, and what was expected or meant."""
    remedy = right if right.startswith(("did you mean", "expected")) else f"expected {right}"
    return ExampleError(f"{file}: {key}: found {found}; {remedy}")


def refuse_unusable_key(example: Path, key: str, file: Path, right: str) -> None:
    """Refuse the file of a private key that SSH cannot use. Raises ExampleError, which names `example` and `key`."""
    try:
        public_line(file)
    except OSError as error:
        found = f"{str(file)!r}, which cannot be read ({error.strerror or error})"
        raise refusal(example, key, found, right) from error
    except ValueError as error:
        raise refusal(example, key, f"{str(file)!r}, {error}", right) from error


def kind_of(value: object) -> str:
    """Tell a value and its type in TOML's words.

    >>> kind_of("3")
    "the string '3'"
    """
    kinds = {bool: "the boolean", int: "the integer", float: "the float", str: "the string", dict: "the table"}
    kind = kinds.get(type(value), "the list" if isinstance(value, list | tuple) else f"the {type(value).__name__}")
    told = str(value).lower() if isinstance(value, bool) else repr(value)
    return f"{kind} {told if len(told) <= 80 else told[:77] + '...'}"


def _all(items: Iterable[object], type_: type) -> bool:
    return all(isinstance(item, type_) for item in items)


def _pattern(pattern: str, right: str) -> Callable[[Any], str | None]:
    return lambda value: None if re.fullmatch(pattern, value) else right


def _server_count(value: int) -> str | None:
    right = f"an odd number from 1 to {MOST_SERVERS}"
    if value < 1:
        return f"{right}: Raft elects a leader by a majority of the servers, and there would be none"
    if value > MOST_SERVERS:
        return f"{right}: every write waits for a majority, and more servers only slow it down"
    if value % 2 == 0:
        return f"{right}: Raft needs a majority, so {value} servers bear no more failures than {value - 1}"
    return None


@dataclass(frozen=True, slots=True)
class _Type:
    python: type
    described: str
    refused: Callable[[Any], str | None] = lambda value: None
    """Says what would be right where a value of the right type is not."""
    items: type = str
    """What a list is of."""


TYPES: Mapping[str, _Type] = {
    "string": _Type(str, "a string"),
    "integer": _Type(int, "an integer"),
    "boolean": _Type(bool, "true or false"),
    "number": _Type(float, "a number"),
    "strings": _Type(list, "a list of strings"),
    "table": _Type(
        dict, "a table of strings", lambda value: None if _all(value.values(), str) else "a table of strings"
    ),
    "tables": _Type(list, "a list of tables", items=dict),
    "ami-id": _Type(
        str, "a string", _pattern(r"|ami-[0-9a-f]{1,17}", 'an AMI id such as ami-0abc1234, or "" for the target\'s own')
    ),
    "vpc-id": _Type(
        str, "a string", _pattern(r"|vpc-[0-9a-f]{1,17}", 'a VPC id such as vpc-0abc1234, or "" for the default VPC')
    ),
    "instance-type": _Type(
        str, "a string", _pattern(r"[a-z][a-z0-9-]*\.[a-z0-9-]+", "an instance type such as t2.micro")
    ),
    "cluster-name": _Type(
        str,
        "a string",
        _pattern(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "letters, digits, -, _ and . only, beginning with a letter or digit"),
    ),
    "cluster-tag-key": _Type(
        str,
        "a string",
        _pattern(
            r"(?!aws:)[\w .:/=+@-]{1,128}",
            "a tag key: 1 to 128 letters, digits, spaces and _.:/=+-@, not beginning with aws:",
        ),
    ),
    "cluster-tag-value": _Type(
        str,
        "a string",
        _pattern(
            r"[\w .:/=+@-]{1,235}",
            "a tag value: 1 to 235 letters, digits, spaces and _.:/=+-@ (256 with the run's id, which is added)",
        ),
    ),
    "server-count": _Type(int, "an integer", _server_count),
    "count": _Type(int, "an integer", lambda value: None if value >= 0 else "0 or more"),
    "user-name": _Type(
        str,
        "a string",
        _pattern(r"[a-z_][a-z0-9_-]{0,31}", "a user's name: small letters, digits, _ and -, at most 32"),
    ),
}
"""What ``type`` in a declaration may be. A cluster-tag-value gets the run's id at its end, so that clusters which run
at the same time never join each other."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One declaration: ``[variables.num_servers]`` with ``type``, ``default`` and ``description``."""

    name: str
    type: str
    default: Any
    description: str = ""

    @classmethod
    def declared(cls, file: Path, name: str, table: object) -> Variable:
        """Read a declaration. Raises ExampleError."""
        key = f"variables.{name}"
        if not _NAME.fullmatch(name):
            raise refusal(file, key, f"the name {name!r}", "a name of small letters, digits and _")
        if name in RESERVED:
            raise refusal(file, key, "a name that every deployment gives by itself", "another name")
        if not isinstance(table, dict):
            raise refusal(file, key, kind_of(table), "a table with type, default and description")
        known = ("type", "default", "description")
        for extra in table:
            if extra not in known:
                raise refusal(file, f"{key}.{extra}", "a key that means nothing here", near_miss(extra, known))
        for needed in ("type", "default"):
            if needed not in table:
                raise refusal(file, f"{key}.{needed}", "nothing", f"a {needed}")
        if table["type"] not in TYPES:
            right = f"one of {', '.join(TYPES)}"
            raise refusal(file, f"{key}.type", kind_of(table["type"]), right)
        description = table.get("description", "")
        if not isinstance(description, str):
            raise refusal(file, f"{key}.description", kind_of(description), "a string")
        variable = cls(name, table["type"], None, description)
        default = variable.checked(file, table["default"], key=f"{key}.default")
        return cls(name, table["type"], default, description)

    def checked(self, file: Path, value: object, *, key: str | None = None) -> Any:
        """Give the value if this variable may hold it. Raises ExampleError."""
        type_, key = TYPES[self.type], key or f"variable {self.name}"
        if type_.python is list:
            if not isinstance(value, list | tuple) or not _all(value, type_.items):
                raise refusal(file, key, kind_of(value), type_.described)
            return tuple(value)
        if type_.python is float and type(value) is int:
            value = float(value)
        if type(value) is not type_.python:  # a boolean is no integer here
            raise refusal(file, key, kind_of(value), type_.described)
        if right := type_.refused(value):
            raise refusal(file, key, kind_of(value), right)
        return value

    def read(self, text: str) -> Any:
        """Read a value as this variable's type is written in TOML; a string needs no quotes."""
        if TYPES[self.type].python is str:
            return text
        try:
            table = tomllib.loads(f"value = {text}")
        except tomllib.TOMLDecodeError:
            return text  # `checked` says what is wrong with it
        return table["value"] if len(table) == 1 else text


RESERVED: Mapping[str, str] = {
    "inbound_cidr_blocks": "the address blocks of the cluster's subnets and of the machine that tests it",
}
"""What inputs may refer to besides the example's own variables."""


def referred(value: object) -> str | None:
    """Give the name where an input is ``${name}`` and nothing else."""
    whole = _REFERENCE.fullmatch(value) if isinstance(value, str) and not value.startswith("$$") else None
    return whole[1] if whole else None


def expand_input(file: Path, key: str, value: Any, values: Mapping[str, Any]) -> Any:
    """Put values in the place of ``${name}`` in an input; a string that is nothing else takes the value's type.

    ``$${name}`` stands for ``${name}`` itself. Raises ExampleError for a name that is not declared.
    """
    if isinstance(value, dict):
        return {name: expand_input(file, f"{key}.{name}", item, values) for name, item in value.items()}
    if isinstance(value, list):
        return [expand_input(file, key, item, values) for item in value]
    if not isinstance(value, str):
        return value
    for match in _REFERENCE.finditer(value):
        if not match[0].startswith("$$") and match[1] not in values:
            raise refusal(file, key, f"${{{match[1]}}}, which is not declared", near_miss(match[1], values))
    if name := referred(value):
        return values[name]
    return _REFERENCE.sub(lambda match: _expanded(match, values), value)


def expand_user_data(data: bytes, values: Mapping[str, Any]) -> bytes:
    """Put values, in UTF-8, in the place of ``${name}`` in a script, and leave every other byte as it is.

    Only exactly ``${name}`` of a declared variable is changed, and ``$${name}`` of one to ``${name}``. So ``$name``,
    ``${name:-default}``, ``$$`` and every name that is not declared mean what they mean in any script. Gzip is left
    as it is.

    >>> expand_user_data(b"run --n ${num_servers} $HOME ${HOME} $${num_servers}", {"num_servers": 3})
    b'run --n 3 $HOME ${HOME} ${num_servers}'
    """
    if is_compressed(data):
        return data

    def filled(match: re.Match[str]) -> str:
        return _expanded(match, values).encode().decode("latin-1") if match[1] in values else match[0]

    # Latin-1 has a character for each byte: whatever the script is written in comes out as it went in.
    return _REFERENCE.sub(filled, data.decode("latin-1")).encode("latin-1")


def _expanded(match: re.Match[str], values: Mapping[str, Any]) -> str:
    if match[0].startswith("$$"):
        return match[0][1:]
    value = values[match[1]]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict) or (isinstance(value, tuple) and not _all(value, str)):
        return json.dumps(value)
    return " ".join(value) if isinstance(value, tuple) else str(value)
