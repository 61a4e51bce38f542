"""Arguments of faults and operations, checked when they are given and not when they are used."""

from __future__ import annotations

import math
from collections.abc import Iterable

from nomad_testkit.errors import UsageError, did_you_mean


def number(name: str, value: object, *, least: float | None = None, most: float | None = None, unit: str = "") -> float:
    """Give a finite number that lies between two bounds. Raises UsageError.

    >>> number("seconds", 3, least=1, unit="s")
    3.0
    """
    after = f" {unit}" if unit else ""
    bounds = [f"at least {least:g}{after}"] if least is not None else []
    bounds += [f"at most {most:g}{after}"] if most is not None else []
    wanted = f"a number{f' of {unit}' if unit and not bounds else ''}{': ' if bounds else ''}{' and '.join(bounds)}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"{name}: expected {wanted}, found {value!r}")
    if (least is not None and value < least) or (most is not None and value > most):
        raise UsageError(f"{name}: expected {wanted}, found {value:g}")
    return float(value)


def whole(name: str, value: object, *, least: int | None = None, most: int | None = None, unit: str = "") -> int:
    """Give a whole number that lies between two bounds; 3.0 is one. Raises UsageError.

    >>> whole("count", 3, least=1)
    3
    """
    found = number(name, value, least=least, most=most, unit=unit)
    if not found.is_integer():
        raise UsageError(f"{name}: expected a whole number{f' of {unit}' if unit else ''}, found {found:g}")
    return int(found)


def flag(name: str, value: object) -> bool:
    """Give True or False, and take nothing else for one. Raises UsageError."""
    if not isinstance(value, bool):
        raise UsageError(f"{name}: expected True or False, found {value!r}")
    return value


def one_of(name: str, value: object, known: Iterable[str]) -> str:
    """Give one of some names. Raises UsageError, which suggests the nearest.

    >>> one_of("agent", "nomad", ("consul", "nomad"))
    'nomad'
    """
    names = sorted(known)
    if not isinstance(value, str) or value not in names:
        listed = (" or ".join(names) if len(names) < 3 else f"one of {', '.join(names)}") or "none"
        raise UsageError(f"{name}: expected {listed}, found {value!r}{did_you_mean(value, names)}")
    return value


def folder(name: str, value: object) -> str:
    """Give the absolute path of a folder on a host. Raises UsageError."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value or "\n" in value:
        raise UsageError(f"{name}: expected a folder's path that begins with /, found {value!r}")
    return value.rstrip("/") or "/"
