"""The append-only record of what a run creates, so that another process can destroy it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nomad_testkit.errors import TestkitError


@dataclass(frozen=True, slots=True)
class Entry:
    """One resource in the journal."""

    kind: str
    name: str
    id: str | None = None
    """None while it is unknown whether the resource was created: the process may have died meanwhile."""
    destroyed: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


class Journal:
    """One run's journal: a file of one JSON object a line, each written to disk before the call that it records.

    Only its owner can read it. A last line that a crash cut short is ignored. The journal never creates its folder:
    that would bring back a run that was forgotten.

    >>> journal = Journal(folder / "journal.jsonl")  # doctest: +SKIP
    >>> journal.record("security group", "web")  # doctest: +SKIP
    >>> journal.created("security group", "web", "sg-0abc")  # doctest: +SKIP
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def record(self, kind: str, name: str, **facts: Any) -> None:
        """Record that a resource is about to be created. Raises TestkitError if the file cannot be written."""
        self._append({"event": "record", "kind": kind, "name": name, "facts": facts})

    def created(self, kind: str, name: str, id: str) -> None:
        """Record the id of a created resource. Raises TestkitError as `record` does."""
        self._append({"event": "created", "kind": kind, "name": name, "id": id})

    def destroyed(self, kind: str, id: str) -> None:
        """Record that a resource, given by its id or name, is gone. Raises TestkitError as `record` does.

        The journal of a run that another process has forgotten is not created again.
        """
        if self.path.exists():
            self._append({"event": "destroyed", "kind": kind, "id": id})

    def entries(self) -> list[Entry]:
        """List the resources in the order of their creation; empty without a file.

        Raises TestkitError for a file that is not a journal.
        """
        found: dict[tuple[str, str], Entry] = {}
        for event in self._events():
            kind = event["kind"]
            if event["event"] == "record":
                found[kind, event["name"]] = Entry(kind, event["name"], facts=event.get("facts", {}))
            elif event["event"] == "created":
                facts = found[kind, event["name"]].facts if (kind, event["name"]) in found else {}
                found[kind, event["name"]] = Entry(kind, event["name"], event["id"], facts=facts)
            else:
                for key, entry in found.items():
                    if entry.kind == kind and event["id"] in (entry.id, entry.name):
                        found[key] = Entry(kind, entry.name, entry.id, True, entry.facts)
        return list(found.values())

    def left(self) -> list[Entry]:
        """List the resources that may still exist. Raises TestkitError as `entries` does."""
        return [entry for entry in self.entries() if not entry.destroyed]

    def _append(self, event: Mapping[str, Any]) -> None:
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                self._write(line)
            except OSError as error:
                raise TestkitError(f"the journal {self.path} cannot be written: {error.strerror or error}") from error

    def _write(self, line: bytes) -> None:
        new = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # ends a line that a dead process left half written
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:  # a new file's name is on disk only once its folder is
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _events(self) -> list[dict[str, Any]]:
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise TestkitError(f"the journal {self.path} cannot be read: {error.strerror or error}") from error
        events: list[dict[str, Any]] = []
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # cut short: the call that it announces was never made
            if not isinstance(event, dict) or event.get("event") not in ("record", "created", "destroyed"):
                raise TestkitError(f"{self.path} is not a journal of nomad_testkit: {line[:80]!r}")
            events.append(event)
        return events
