"""Runs on this machine: a folder for each, with its journal, its SSH key and how to reach its cluster."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from platformdirs import user_state_path

from nomad_testkit.errors import TestkitError, UsageError, WaitTimeout, did_you_mean
from nomad_testkit.runs.journal import Journal
from nomad_testkit.runs.locks import FileLock
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

ENVIRONMENT_VARIABLE = "NOMAD_TESTKIT_STATE"
"""The folder for runs, their journals, SSH keys and history (default: ~/.local/state/nomad-testkit)."""
_NAME = "name"
_LOCK = "used.lock"
_LOOK_SECONDS = 1.0
_RUN_ID = re.compile(r"nt-[0-9]{8}-[0-9a-f]{6}")


def state_path() -> Path:
    """Return the folder for what outlives a process: $NOMAD_TESTKIT_STATE, or the user's state folder."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(named).absolute() if named else user_state_path("nomad-testkit")


@dataclass(frozen=True, slots=True)
class Run:
    """One run and its folder, which only its owner can read."""

    run_id: str
    folder: Path

    @classmethod
    def new(cls, name: str = "") -> Run:
        """Start a run with a new id and folder; `name` is the user's name for it.

        Raises TestkitError if the folder cannot be created.
        """
        run_id = f"nt-{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(3)}"
        run = cls(run_id, state_path() / "runs" / run_id)
        try:
            run.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            run.folder.mkdir(mode=0o700)
            (run.folder / _LOCK).touch(mode=0o600)
            if name:
                (run.folder / _NAME).write_text(name)
        except OSError as error:
            remedy = f"set {ENVIRONMENT_VARIABLE} to a folder that can be written"
            raise TestkitError(f"the run's folder cannot be made: {error}; {remedy}") from error
        return run

    @classmethod
    def find(cls, name: str) -> Run:
        """Find a run by its id or its user's name. Raises UsageError, which lists all runs."""
        known = cls.every()
        for run in known:
            if name in (run.run_id, run.name):
                return run
        meant = did_you_mean(name, [run.name or run.run_id for run in known])
        listed = ", ".join(map(str, known)) or "none"
        raise UsageError(f"there is no run {name!r} in {state_path() / 'runs'}; there are: {listed}{meant}")

    @classmethod
    def every(cls) -> list[Run]:
        """List the runs on this machine, the oldest day first."""
        folder = state_path() / "runs"
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        return [cls(path.name, path) for path in paths if _RUN_ID.fullmatch(path.name) and path.is_dir()]

    @property
    def name(self) -> str:
        """The user's name for it; empty if it has none."""
        try:
            return (self.folder / _NAME).read_text()
        except OSError:
            return ""

    def __str__(self) -> str:
        return f"{self.name} ({self.run_id})" if self.name else self.run_id

    @property
    def journal(self) -> Journal:
        """The record of what the run creates."""
        return Journal(self.folder / "journal.jsonl")

    @property
    def lock(self) -> FileLock:
        """The lock that every user of the run holds; if it is free, the run was left up or left behind.

        Only `new` creates the file: creating it while the run is being forgotten would keep its folder.
        """
        return FileLock(self.folder / _LOCK, create=False)

    @property
    def used(self) -> bool:
        """Whether a live process uses it; a forgotten run is unused."""
        lock = self.lock
        try:
            free = lock.try_acquire()
        except FileNotFoundError:
            return False
        lock.release()
        return not free

    def held(self, *, shared: bool = False) -> FileLock | None:
        """Take the run's lock, `shared` with other users; None if another process is in the way.

        It waits for a second, since another process may hold the lock just to look at it.
        """
        lock = self.lock

        def probe() -> Ok[FileLock | None] | Pending:
            try:
                return Ok(lock) if lock.try_acquire(shared=shared) else Pending("it is held")
            except FileNotFoundError:  # the run has just been forgotten
                return Ok(None)

        try:
            return wait_until("the run's lock", probe, deadline=Deadline.after(_LOOK_SECONDS), interval=0.05)
        except WaitTimeout:
            return None

    @property
    def key_path(self) -> Path:
        """The private SSH key to the run's hosts."""
        return self.folder / "id_ed25519"

    @property
    def secrets_path(self) -> Path:
        """The folder of the cluster's secrets, if its example has any."""
        return self.folder / "secrets"

    def note(self, description: Mapping[str, Any]) -> None:
        """Write how to reach the run's target and cluster, atomically."""
        part = self.folder / "run.json.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(dict(description), file, indent=1)
        part.replace(self.folder / "run.json")

    def amend(self, facts: Mapping[str, Any]) -> None:
        """Change some facts of the description. Raises TestkitError as `description` does."""
        self.note({**self.description(), **facts})

    def description(self) -> dict[str, Any]:
        """Read what `note` wrote; empty if nothing was written. Raises TestkitError for a damaged file."""
        path = self.folder / "run.json"
        try:
            return dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise TestkitError(f"{path} cannot be read: {error}") from error

    def leave_up(self) -> None:
        """Ask the process that deploys the run to leave it up, unless the deployment fails."""
        self.amend({"kept": True})

    def forget(self) -> None:
        """Remove the folder: nothing is left to destroy."""
        shutil.rmtree(self.folder, ignore_errors=True)
