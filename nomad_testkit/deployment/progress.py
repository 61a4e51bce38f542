"""Show progress as lines, and on a terminal a live area below them with one line a host."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from nomad_testkit.cluster.timeline import BOOTING, CONSUL_JOINED, NOMAD_READY, PENDING, PHASES, USER_DATA

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from nomad_testkit.deployment.boot import Boot, BootView, HostRow
    from nomad_testkit.events import Progress

LOOK_SECONDS = 0.25
"""Seconds between two checks for changes to show."""
PREFIX = "nomad_testkit: "

_STYLES = {PENDING: "dim", BOOTING: "yellow", USER_DATA: "cyan", CONSUL_JOINED: "blue", NOMAD_READY: "green"}
_WIDE, _MEDIUM = 92, 60
"""Minimum terminal columns for a host's full line, and for its line with the group."""


class LiveProgress:
    """Shows lines of progress, and a boot in a live area below them.

    `write` shows one line. `terminal` opens the terminal for the live area, or returns None; then only lines are shown.
    With `quiet` only multi-line text is shown, such as how to reach a cluster that is left up. With `redirect`, output
    printed meanwhile appears above the live area.
    """

    def __init__(
        self,
        write: Progress,
        terminal: Callable[[], TextIO | None],
        *,
        quiet: bool = False,
        color: bool = True,
        redirect: bool = False,
        prefix: str = PREFIX,
    ) -> None:
        self._write, self._terminal, self._prefix = write, terminal, prefix
        self._quiet, self._color, self._redirect = quiet, color, redirect
        self._console: Console | None = None

    def __call__(self, line: str) -> None:
        """Show one line with the prefix, or several without it."""
        single = "\n" not in line
        if self._quiet and single:
            return
        text = f"{self._prefix}{line}" if single else line
        if self._console is None:
            self._write(text)
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def area(self, boot: Boot) -> Iterator[None]:
        """Show a boot while the block runs; on success the area disappears, on failure its last state stays."""
        file = None if self._quiet or self._console is not None else self._open()
        if file is None:
            yield
            return
        from rich.live import Live

        console = _console(file, color=self._color)
        live = Live(
            get_renderable=lambda: render(boot.view(), console.width, ascii_only=console.options.ascii_only),
            console=console,
            auto_refresh=False,
            redirect_stdout=self._redirect,
            redirect_stderr=self._redirect,
        )
        self._console, boot.is_shown = console, True
        try:
            with live, _redrawn(boot, live.refresh):
                yield
                live.transient = True
        finally:
            self._console, boot.is_shown = None, False
            with suppress(OSError):
                file.close()

    def _open(self) -> TextIO | None:
        # A CI log is read later, even if it looks like a terminal; a dumb terminal cannot move its cursor.
        if os.environ.get("CI") or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
            return None
        return self._terminal()


@contextmanager
def _redrawn(boot: Boot, draw: Callable[[], None]) -> Iterator[None]:
    """Redraw a boot once a second and after each change, but not more often: the hosts need the processor."""
    end = threading.Event()

    def work() -> None:
        drawn: object = None
        while not end.wait(LOOK_SECONDS):
            view = boot.view()
            shows = (int(view.elapsed), view.awaited, view.seen, [(row.host.phase, row.state) for row in view.rows])
            if shows != drawn:
                draw()
                drawn = shows

    thread = threading.Thread(target=work, name="nomad-testkit progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextmanager
def shown(progress: Progress, boot: Boot) -> Iterator[None]:
    """Show a boot while the block runs, live if the progress is a LiveProgress.

    >>> with shown(progress, boot):  # doctest: +SKIP
    ...     boot.waits("hosts up", "0 of 3 servers are up")
    """
    if isinstance(progress, LiveProgress):
        with progress.area(boot):
            yield
    else:
        yield


@contextmanager
def live_progress(stream: TextIO, *, quiet: bool = False, color: bool = True) -> Iterator[LiveProgress]:
    """Yield a progress display that writes to a stream, such as standard error, for programs that call the library.

    >>> with live_progress(sys.stderr) as progress, deployed(settings, example, target=target, progress=progress):
    ...     pass  # doctest: +SKIP
    """

    def write(line: str) -> None:
        print(line, file=stream, flush=True)

    yield LiveProgress(write, lambda: duplicate(stream), quiet=quiet, color=color, redirect=True)


def duplicate(stream: TextIO) -> TextIO | None:
    """Open the terminal behind a stream a second time, or return None if the stream is not a terminal."""
    try:
        if not stream.isatty():
            return None
        return _forgiving_terminal(os.dup(stream.fileno()), stream.encoding)
    except (OSError, ValueError):
        return None


def render(view: BootView, width: int, *, ascii_only: bool = False) -> RenderableType:
    """Render a boot: a title, one line a host, and what is awaited; `width` is the terminal's, in columns."""
    from rich.console import Group

    times = f"{view.elapsed:.0f} s so far, at most {view.left:.0f} s more"
    head = [f"{view.title}: {times}"] if len(view.title) + 2 + len(times) < width else [view.title, times]
    lines: list[RenderableType] = [_text(line, "bold") for line in head]
    lines += _columns([_cells(row, width, "#." if ascii_only else "━─") for row in view.rows])
    lines += [_text(f"{count} of {group} not launched yet", "dim") for group, count in view.missing.items()]
    if view.awaited:
        lines.append(_text(f"waiting for {view.awaited}" + (f": {view.seen}" if view.seen else ""), "italic"))
    return Group(*lines)


def _cells(row: HostRow, width: int, bar: str) -> list[Text]:
    host = row.host
    style = "red" if row.state else _STYLES[host.phase]
    done = PHASES.index(host.phase) + 1
    phase = _text(row.state or host.phase, style)
    cells = [_text(host.instance_id), phase, _text(f"{row.phase_seconds:.0f} s")]
    if width >= _MEDIUM:
        steps = _text(bar[0] * done, style)
        steps.append(bar[1] * (len(PHASES) - done), "dim")
        cells = [_text(host.group), cells[0], steps, *cells[1:]]
    if width >= _WIDE:
        ahead = f"waits for {row.awaited}" if row.awaited else ""
        cells = [*cells[:2], _text(host.private_ip), _text(host.zone, "dim"), *cells[2:], _text(ahead, "dim")]
    return cells


def _columns(rows: Sequence[Sequence[Text]]) -> list[Text]:
    """Join the cells of each row into aligned columns; rich's tables take ten times as long."""
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        line = _text("")
        for cell, width in zip(row, widths, strict=True):
            line.append_text(cell).append(" " * (width - cell.cell_len + 1))
        lines.append(line)
    return lines


def _text(content: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(content.replace("\n", " "), style, no_wrap=True, overflow="ellipsis")


def _console(file: TextIO, *, color: bool) -> Console:
    from rich.console import Console, ConsoleDimensions

    class Terminal(Console):
        """A console that never hides the cursor, so that nothing has to restore it, and knows its own size."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

        @property
        def size(self) -> ConsoleDimensions:
            # rich asks the standard streams, which pytest has replaced by files.
            try:
                columns, lines = os.get_terminal_size(file.fileno())
            except (OSError, ValueError):
                columns = lines = 0
            return ConsoleDimensions(columns or 80, lines or 25)

        @size.setter
        def size(self, new_size: tuple[int, int]) -> None:
            raise NotImplementedError("the terminal's size cannot be set")

    # Explicit, because FORCE_COLOR and the like make rich take any file for a terminal.
    return Terminal(file=file, force_terminal=True, force_interactive=True, no_color=None if color else True)


def _forgiving_terminal(descriptor: int, encoding: str) -> TextIO:
    """Open a terminal whose write errors are ignored: it may be closed at any time."""
    import io

    class File(io.TextIOWrapper):
        def write(self, text: str) -> int:
            with suppress(OSError):
                super().write(text)
            return len(text)

        def flush(self) -> None:
            with suppress(OSError):
                super().flush()

    return File(io.BufferedWriter(io.FileIO(descriptor, "w")), encoding=encoding, errors="replace")
