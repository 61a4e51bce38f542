"""What a command shows, once or again and again until Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

_LOOK_SECONDS = 2.0

watch_option = click.option("-w", "--watch", is_flag=True, help="Look again every 2 s, until Ctrl-C.")


def show(look: Callable[[], tuple[str, bool]], *, watch: bool) -> bool:
    """Show what `look` gives, once or until Ctrl-C, on a terminal in the place of what it gave before.

    Returns whether it said, at last, that something is wrong.
    """
    while True:
        text, wrong = look()
        if watch and sys.stdout.isatty():
            click.clear()
        click.echo(text)
        if not watch:
            return wrong
        _pause()


def _pause() -> None:
    import threading

    threading.Event().wait(_LOOK_SECONDS)
