"""Histories of a key/value store, made by hand: a table of what each client did, and when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nomad_testkit.faults.linearizability.checker import Judgement, judge
from nomad_testkit.faults.linearizability.history import Ending, Kind, Operation, OperationHistory

KEY = "k"


def put(value: str, call: int, returned: int, **how: str) -> Operation:
    return _made("put", call, returned, value=value, **how)


def delete(call: int, returned: int, **how: str) -> Operation:
    return _made("delete", call, returned, **how)


def got(value: str | None, index: int, call: int, returned: int, **how: str) -> Operation:
    """A get and what it found."""
    return replace(_made("get", call, returned, **how), value=value, index=index)


def cas(expected: str | None, index: int, value: str, call: int, returned: int, *, done: bool) -> Operation:
    return replace(_made("cas", call, returned), expected=expected, index=index, value=value, done=done)


def lasting(operation: Operation, outcome: Ending = "unknown") -> Operation:
    """The same without an answer."""
    return replace(operation, returned=None, outcome=outcome, error="no answer in time")


def _made(kind: Kind, call: int, returned: int, *, value: str | None = None, key: str = KEY) -> Operation:
    return Operation(0, 0, 0, "i-1", kind, key, call, returned, "ok", value)


def judged(
    checker: Path, folder: Path, *operations: Operation, limit: float = 60, picture: Path | None = None
) -> Judgement:
    """Check operations, numbered in their order, each by a client of its own."""
    history = OperationHistory()
    history.operations = [replace(one, id=n, client=n, process=n) for n, one in enumerate(operations)]
    history.write(folder / "history.jsonl")
    return judge(checker, folder / "history.jsonl", limit=limit, picture=picture)
