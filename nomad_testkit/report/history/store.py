"""The file with the figures of all runs on this machine; several runs may write to it at once."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nomad_testkit.errors import HistoryError
from nomad_testkit.report.model import RunReport, healing_times
from nomad_testkit.runs.run import state_path

VERSION = 1
"""Of the tables, as ``PRAGMA user_version`` says it."""
PHASE, HEALING = "phase", "healing"
_COLUMNS = ("run_id", "began", "example", "shape", "target", "region", "images", "consul", "nomad", "outcome")
_PATIENCE = 15.0
"""Seconds to wait for another run that writes just now; each needs milliseconds."""
_FOR_NOW = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_CANTOPEN")
"""Errors of SQLite that say nothing against the file itself."""
_TABLES = f"""
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, began REAL NOT NULL, example TEXT NOT NULL, shape TEXT NOT NULL, target TEXT NOT NULL,
    region TEXT NOT NULL, images TEXT NOT NULL, consul TEXT NOT NULL, nomad TEXT NOT NULL, outcome TEXT NOT NULL
);
CREATE TABLE figures (
    run_id TEXT NOT NULL REFERENCES runs (run_id), kind TEXT NOT NULL, name TEXT NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (run_id, kind, name)
);
PRAGMA user_version = {VERSION};
"""


@dataclass(frozen=True)
class RunFigures:
    """What is remembered of one run: of one cluster, and of the tests that used it."""

    run_id: str
    began: float
    """Seconds since the epoch."""
    example: str
    shape: str
    """How many hosts of each group, such as ``6 clients, 3 servers``."""
    target: str
    region: str
    images: str
    consul: str
    nomad: str
    outcome: str
    """``passed`` or ``failed``, as its tests did, or ``not ready``."""
    phases: Mapping[str, float] = field(default_factory=dict)
    """Seconds from the deployment's start to the end of each phase."""
    healing: Mapping[str, float] = field(default_factory=dict)
    """Seconds until each check held again after each kind of fault."""


def runs_of(report: RunReport) -> list[RunFigures]:
    """Give the figures of each cluster of a report that a fixture has deployed.

    Not of one that was interrupted, nor of one that was up before.
    """
    found = []
    for cluster in report.clusters:
        attached = cluster.outcome == "kept" and cluster.ready_seconds is None
        if attached or not cluster.in_setup or cluster.outcome == "deploying":
            continue
        tests = report.tests_of(cluster.run_id)
        groups = [str(host["group"]) for host in (cluster.timeline or (cluster.states[:1] or [{}])[0].get("hosts", ()))]
        never = cluster.outcome == "failed" or cluster.ready_seconds is None
        failed = any(test.bad for test in tests)
        found.append(
            RunFigures(
                run_id=cluster.run_id,
                began=cluster.began,
                example=cluster.example,
                shape=", ".join(f"{groups.count(group)} {group}" for group in sorted(set(groups))),
                target=cluster.target,
                region=cluster.region,
                images=", ".join(cluster.images),
                consul=", ".join(cluster.versions.get("consul", ())),
                nomad=", ".join(cluster.versions.get("nomad", ())),
                outcome="not ready" if never else "failed" if failed else "passed",
                phases=dict(cluster.timings),
                healing=healing_times(fault for test in tests for fault in test.faults),
            )
        )
    return found


def append(runs: Sequence[RunFigures]) -> None:
    """Add runs to the history of this machine. Raises HistoryError, which names the file and the remedy."""
    if runs:
        RunHistory(history_path()).append(runs)


def history_path() -> Path:
    """Give the file of this machine's user, beside the folders of runs."""
    return state_path() / "history.sqlite3"


@dataclass(frozen=True)
class RunHistory:
    """The file.

    >>> RunHistory(history_path()).last(20)  # doctest: +SKIP
    """

    path: Path

    def append(self, runs: Sequence[RunFigures]) -> None:
        """Add runs; one that is there already is written anew. Raises HistoryError."""
        with self._open() as connection:
            for run in runs:
                connection.execute("DELETE FROM figures WHERE run_id = ?", (run.run_id,))
                values = [getattr(run, column) for column in _COLUMNS]
                connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
                rows = [(PHASE, *one) for one in run.phases.items()] + [(HEALING, *one) for one in run.healing.items()]
                connection.executemany("INSERT INTO figures VALUES (?, ?, ?, ?)", [(run.run_id, *row) for row in rows])

    def last(self, count: int | None = None, *, example: str | None = None) -> list[RunFigures]:
        """Give the last runs, of all examples or of one, the oldest first; none where there is no file.

        Raises HistoryError.
        """
        if not self.path.exists():
            return []
        with self._open() as connection:
            rows = connection.execute(
                "SELECT * FROM runs WHERE ?1 IS NULL OR example = ?1 ORDER BY began DESC, run_id LIMIT ?2",
                (example, -1 if count is None else count),
            ).fetchall()
            figures = connection.execute("SELECT * FROM figures").fetchall()
        known: dict[tuple[str, str], dict[str, float]] = {}
        for run_id, kind, name, seconds in figures:
            known.setdefault((run_id, kind), {})[name] = seconds
        found = []
        for row in reversed(rows):
            facts: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
            run_id = facts["run_id"]
            facts |= {"phases": known.get((run_id, PHASE), {}), "healing": known.get((run_id, HEALING), {})}
            found.append(RunFigures(**facts))
        return found

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Lend the file, with its tables, for one transaction."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Made here, because SQLite would let others read it.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                self._prepare(connection)
                yield connection
                connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorname", "").startswith(_FOR_NOW):
                raise HistoryError(
                    f"the history of runs in {self.path} cannot be used now: {error}; see that no other program holds "
                    "it, that the disk is not full, and that the file is yours"
                ) from error
            raise HistoryError(
                f"the history of runs in {self.path} is damaged: {error}; move it away with "
                f"`mv {self.path} {self.path}.damaged`, and the next run begins a new one"
            ) from error
        except OSError as error:
            raise HistoryError(
                f"the history of runs cannot be kept in {self.path}: {error.strerror or error}; make its folder "
                "writable, or name another one in $NOMAD_TESTKIT_STATE"
            ) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if found == 0 and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in filter(None, map(str.strip, _TABLES.split(";"))):
                connection.execute(statement)
        elif found != VERSION:
            raise HistoryError(
                f"the history of runs in {self.path} has version {found} of its tables, and this nomad_testkit knows "
                f"version {VERSION}; install the newer nomad_testkit, or move the file away"
            )
