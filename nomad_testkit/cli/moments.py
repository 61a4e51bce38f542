"""Ages that users write, such as 90s, 10m or 2d, and times as they are shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class _Since(click.ParamType):  # type: ignore[type-arg]
    """An age in seconds, such as 6h."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        number, unit = str(value)[:-1], str(value)[-1:]
        if not (unit in _UNITS and number.isascii() and number.isdecimal() and 0 < int(number) < 1_000_000):
            self.fail(f"found {value!r}, expected a whole number above 0 with s, m, h or d, such as 10m", param, ctx)
        return int(number) * _UNITS[unit]


SINCE = _Since()


def clock(at: float) -> str:
    """Show a time, of seconds since the epoch, in UTC.

    >>> clock(0.25)
    '1970-01-01 00:00:00.250'
    """
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
