"""The inputs that an example gives to a module: checked against the types of the module's variables."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nomad_testkit.errors import near_miss
from nomad_testkit.examples.variables import kind_of, refusal

_DESCRIBED: Mapping[Any, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    bytes: "bytes",
    tuple[str, ...]: "a list of strings",
    str | tuple[str, ...]: "a string or a list of strings",
    Mapping[str, str]: "a table of strings",
}


def known_keys(file: Path, key: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse a table with a key that means nothing. Raises ExampleError."""
    known = list(known)
    for name in table:
        if name not in known:
            place = f"{key}.{name}" if key else name
            raise refusal(file, place, "a key that means nothing here", near_miss(name, known))


def checked_inputs(file: Path, key: str, owner: str, type_: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Give the inputs of a dataclass in its own types; `owner` is what requires them. Raises ExampleError."""
    known = {item.name: item for item in dataclasses.fields(type_)}
    known_keys(file, key, given, known)
    hints = typing.get_type_hints(type_)
    for name, item in known.items():
        needed = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if needed and name not in given:
            raise refusal(file, f"{key}.{name}", "nothing", f"{_described(hints[name])}: {owner} requires it")
    return {name: _checked(file, f"{key}.{name}", hints[name], value) for name, value in given.items()}


def _checked(file: Path, key: str, hint: Any, value: Any) -> Any:
    if table := _table_of(hint):
        if not isinstance(value, list | tuple) or not all(isinstance(item, dict) for item in value):
            raise refusal(file, key, kind_of(value), _described(hint))
        name = key.rpartition(".")[2]
        return tuple(
            table(**checked_inputs(file, f"{key}[{number}]", f"a table of {name}", table, item))
            for number, item in enumerate(value)
        )
    if isinstance(value, list | tuple):
        fits = hint in (tuple[str, ...], str | tuple[str, ...]) and all(isinstance(item, str) for item in value)
    elif isinstance(value, dict):
        fits = hint == Mapping[str, str] and all(isinstance(item, str) for item in value.values())
    elif hint is float:
        fits = type(value) in (int, float)
    else:
        fits = type(value) is hint or (type(value) is str and hint == str | tuple[str, ...])
    if not fits:
        raise refusal(file, key, kind_of(value), _described(hint))
    return tuple(value) if isinstance(value, list) else value


def _table_of(hint: Any) -> type[Any] | None:
    """Give the dataclass of which an input is a list."""
    first = next(iter(typing.get_args(hint)), None) if typing.get_origin(hint) is tuple else None
    return first if dataclasses.is_dataclass(first) and isinstance(first, type) else None


def _described(hint: Any) -> str:
    if table := _table_of(hint):
        return f"a list of tables with {', '.join(item.name for item in dataclasses.fields(table))}"
    return _DESCRIBED[hint]
