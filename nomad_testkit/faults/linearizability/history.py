"""What clients of a key/value store did, and when: the history that is checked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["get", "put", "cas", "delete"]
Ending = Literal["ok", "failed", "unknown"]
"""How an operation ended: with an answer; certainly without effect; or perhaps with one, now or at any later time."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one client on one key; times are nanoseconds since the history began."""

    id: int
    client: int
    process: int
    """The client, until an operation of it ends unknown: from then on another one, since that may still go on."""
    server: str
    """The instance id of the server that was asked."""
    kind: Kind
    key: str
    call: int
    returned: int | None
    """None where no answer came."""
    outcome: Ending
    value: str | None = None
    """What was to be written, or what a get found; None where there is no such key."""
    index: int = 0
    """ModifyIndex that a get found, or that a cas demanded; 0 where there is no such key."""
    expected: str | None = None
    """The value that stood at the index that a cas demanded."""
    done: bool = False
    """Whether a cas was done, by its answer."""
    error: str = ""

    def __str__(self) -> str:
        said = {
            "get": "get",
            "put": f"put {self.value}",
            "cas": f"put {self.value} if index is {self.index} ({self.expected or 'absent'})",
            "delete": "delete",
        }[self.kind]
        if self.outcome == "failed":
            said += f": failed: {self.error}"
        elif self.outcome == "unknown":
            said += f": no answer ({self.error}), so it may have had an effect at any time since"
        elif self.kind == "get":
            said += f": {self.value} (index {self.index})" if self.value is not None else ": absent"
        elif self.kind == "cas":
            said += f": {'done' if self.done else 'refused'}"
        until = "" if self.returned is None else f" to {self.returned / 1e9:.3f} s"
        return f"client {self.client} at {self.server}, {self.call / 1e9:.3f} s{until}: {said}"


class OperationHistory:
    """Operations as they end, from several threads; its clock begins when it is made.

    >>> history = OperationHistory()
    >>> history.add(Operation(history.new_id(), 0, 0, "i-0a1b", "put", "k", 1_000_000, 2_000_000, "ok", "v"))
    >>> print(history.operations[0])
    client 0 at i-0a1b, 0.001 s to 0.002 s: put v
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._began = time.monotonic_ns()
        self._ids = self._processes = 0
        self._lock = threading.Lock()

    def now(self) -> int:
        """Tell the nanoseconds since it began, on the monotonic clock of this machine, which all clients share."""
        return time.monotonic_ns() - self._began

    def new_id(self) -> int:
        """Give a number that no other operation has."""
        with self._lock:
            self._ids += 1
            return self._ids

    def new_process(self) -> int:
        """Give a number for a client, or for one that goes on while an operation of it has no answer."""
        with self._lock:
            self._processes += 1
            return self._processes

    def add(self, operation: Operation) -> None:
        """Record an operation that has ended."""
        with self._lock:
            self.operations.append(operation)

    def write(self, path: Path) -> None:
        """Write it as JSON lines, in the order of the calls."""
        write_lines(path, (asdict(one) for one in sorted(self.operations, key=lambda one: one.call)))


def write_lines(path: Path, facts: Iterable[object]) -> None:
    """Write facts as JSON, one a line, for the file's owner alone."""
    path.touch(mode=0o600)
    path.write_text("".join(json.dumps(one) + "\n" for one in facts))
