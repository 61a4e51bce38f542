"""A terminal for tests to look at: a pseudo-terminal, and the screen that an emulator makes of what comes."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pyte

ROWS = 60


class FakeTerminal:
    """A pseudo-terminal; `file` writes to it, and `close` ends it and gives the lines that its screen shows then."""

    def __init__(self, columns: int = 100) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        self.file: TextIO = os.fdopen(os.dup(self._slave), "w", encoding="utf-8")
        self.raw = b""
        self._screen = pyte.Screen(columns, ROWS)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        stream = pyte.ByteStream(self._screen)
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # what Linux says when nobody holds the other end any more
                return
            if not data:
                return
            self.raw += data
            stream.feed(data)

    def run(self, command: Sequence[str], folder: Path) -> int:
        """Run a program on it to its end, and give its exit status."""
        return subprocess.run(
            command, cwd=folder, stdin=self._slave, stdout=self._slave, stderr=self._slave, timeout=120, check=False
        ).returncode

    def close(self) -> list[str]:
        """End it, and give the lines of its screen, without spaces at their ends and without empty ones after them."""
        if not self.file.closed:
            self.file.close()
            os.close(self._slave)
            self._reader.join()
            os.close(self._master)
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip().split("\n")

    @property
    def hid_its_cursor(self) -> bool:
        """Whether its cursor has ever been hidden: somebody killed then would leave it so."""
        return b"\x1b[?25l" in self.raw


@contextmanager
def terminal(columns: int = 100) -> Iterator[FakeTerminal]:
    """Lend a terminal."""
    made = FakeTerminal(columns)
    try:
        yield made
    finally:
        made.close()
