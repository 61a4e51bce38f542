"""The arguments of a check, compared with its fields' types when it is made, so that no typo waits for a time-out."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from nomad_testkit.errors import UsageError, did_you_mean

_SIMPLE = {int: "an integer", str: "a string", float: "a number", bool: "a boolean"}


def check_arguments(made: Any) -> None:
    """Compare each field of a dataclass with its type; a list where a tuple belongs becomes one.

    A number may not be negative; a name, a tuple or a mapping may be empty only where that is its default. Raises
    UsageError that names the class, the field, what was found and what was expected.

    >>> check_arguments(NodesReady("3"))
    Traceback (most recent call last):
        ...
    nomad_testkit.errors.UsageError: NodesReady(count='3'): expected an integer, found the string '3'
    """
    cls: type = type(made)
    hints = _hints(cls)
    for field in dataclasses.fields(made):
        value, hint = getattr(made, field.name), hints.get(field.name)
        if isinstance(value, list) and get_origin(hint) is tuple:
            value = tuple(value)
            object.__setattr__(made, field.name, value)
        if field.repr and hint is not None and (wrong := _wrong(value, hint)):
            raise UsageError(f"{type(made).__name__}({field.name}={value!r}): {wrong}")
        # An empty name or none at all would be looked at in vain, and so hold whatever the cluster is like.
        if isinstance(value, str | tuple | Mapping) and not value and field.default != value:
            raise UsageError(f"{type(made).__name__}({field.name}={value!r}): expected at least one, found it empty")


@cache
def _hints(cls: Hashable) -> Mapping[str, Any]:
    try:
        return get_type_hints(cls)  # cached, since it evaluates the text of each annotation
    except (NameError, TypeError):  # a check of the user's, whose types exist for the type checker only
        return {}


def _wrong(value: object, hint: Any) -> str | None:
    """Say what was expected and found, or None where the value fits; types that are not understood fit."""
    origin = get_origin(hint)
    if origin is Literal:
        return _wrong_choice(value, get_args(hint))
    if origin is tuple:
        return _wrong_tuple(value, get_args(hint))
    if origin in (Union, types.UnionType):
        several = [_wrong(value, one) for one in get_args(hint)]
        return None if None in several else several[0]
    if hint in _SIMPLE:
        return _wrong_simple(value, hint)
    if isinstance(hint, type) and origin is None and not getattr(hint, "_is_protocol", False):
        return None if isinstance(value, hint) else f"expected a {hint.__name__}, found {_kind(value)}"
    return None


def _wrong_choice(value: object, choices: Sequence[object]) -> str | None:
    if value in choices:
        return None
    hint = did_you_mean(str(value).lower(), [str(one) for one in choices])
    return f"expected {' or '.join(map(repr, choices))}, found {_kind(value)}{hint}"


def _wrong_tuple(value: object, inner: Sequence[Any]) -> str | None:
    if not isinstance(value, tuple):
        return f"expected a tuple, found {_kind(value)}"
    if len(inner) == 2 and inner[1] is Ellipsis:
        return next((wrong for one in value if (wrong := _wrong(one, inner[0]))), None)
    return None


def _wrong_simple(value: object, hint: type) -> str | None:
    allowed = (int, float) if hint is float else (hint,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and hint is not bool):
        return f"expected {_SIMPLE[hint]}, found {_kind(value)}"
    if isinstance(value, int | float) and value < 0:
        return f"expected {_SIMPLE[hint]} of 0 or more, found {value}"
    return None


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    names = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return f"the {names.get(type(value), type(value).__name__)} {value!r}"
