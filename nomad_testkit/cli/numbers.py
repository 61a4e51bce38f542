"""Numbers as the command line takes them: finite, and written in the digits 0 to 9, as settings are."""

from __future__ import annotations

import math
from typing import Any

import click


class Whole(click.IntRange):
    """A whole number within bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it; Python itself would take the digits of every script."""
        if not str(value).isascii():
            self.fail(f"expected a whole number, found {value!r}", param, ctx)
        return super().convert(value, param, ctx)


class Seconds(click.FloatRange):
    """A time in seconds that ends; 0 is one."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it; nan would be within all bounds."""
        seconds = super().convert(value, param, ctx)
        if not str(value).isascii() or not math.isfinite(seconds):
            self.fail(f"expected a number of seconds, found {value!r}", param, ctx)
        return seconds
