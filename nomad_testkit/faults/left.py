"""What killed processes left of faults: named, and undone by whoever looks next."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.discovery import instances
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import FaultError
from nomad_testkit.faults.book import FOLDER, TURN, run_folder
from nomad_testkit.faults.repairs import UNDO, Turn, in_words
from nomad_testkit.modules.network import Instance
from nomad_testkit.runs.journal import Entry, Journal
from nomad_testkit.runs.locks import FileLock

State = Literal["held", "undone", "left"]
_WORDS = {
    "held": "a process that is alive has yet to {}",
    "undone": "undone, which a killed process had left: {}",
    "left": "a killed process has left a fault, and this could not be done: {}",
}


@dataclass(frozen=True, slots=True)
class FoundFault:
    """A part of a fault that was found in a run's folder."""

    undo: str
    """What undoes it, such as ``start nomad on i-0a1b``."""
    state: State
    """``held`` by a living process, ``undone`` by this one, or ``left`` since that failed."""
    why: str = ""
    """Why it is left."""

    def __str__(self) -> str:
        return _WORDS[self.state].format(self.undo) + (f": {self.why}" if self.why else "")

    def describe(self) -> dict[str, str]:
        """Tell it in JSON's types."""
        return {"undo": self.undo, "state": self.state, "why": self.why}


def undo_left(cluster: Cluster, *, only_name: bool = False) -> list[FoundFault]:
    """Undo what processes that were killed have left of faults in a cluster, and name what living ones have made.

    Where several processes do so at once, the others wait for the first. With `only_name` nothing is undone. The
    cluster has the hosts that run then. Nothing is made in the run's folder, which may be forgotten meanwhile. Raises
    TestkitError for a book that no process of nomad_testkit has written.
    """
    folder = run_folder(cluster) / FOLDER
    if not any(folder.glob("*.jsonl")):
        return []
    found: list[FoundFault] = []
    turn = FileLock(folder.with_name(TURN), create=False)
    try:
        with suppress(FileNotFoundError):  # the run has just been forgotten, and its faults with it
            turn.acquire("another process to undo faults")
        books = sorted(folder.glob("*.jsonl"), key=_written, reverse=True)
        with ExitStack() as claimed:
            left: list[tuple[Journal, Entry]] = []
            for book in books:
                journal = Journal(book)
                if _claim(book, claimed):
                    left += [(journal, entry) for entry in reversed(journal.left())]
                else:
                    found += [FoundFault(_what(one), "held") for one in journal.left()]
            # By turns over all books; within one the last thing done is undone first.
            for journal, entry in sorted(left, key=lambda one: _turn(one[1])):
                why = "it is not looked after: the run is to be destroyed" if only_name else _undo(cluster, entry)
                if not why:
                    journal.destroyed(entry.kind, entry.name)
                found.append(FoundFault(_what(entry), "left" if why else "undone", why))
    finally:
        turn.release()
    if any(one.state == "undone" for one in found):
        cluster.refresh()
    return found


def require_undone(cluster: Cluster) -> list[FoundFault]:
    """Do as `undo_left`, and raise FaultError where something could not be undone."""
    found = undo_left(cluster)
    if left := [one for one in found if one.state == "left"]:
        lines = "".join(f"\n- {one.undo}: {one.why}" for one in left)
        raise FaultError(
            f"a process that was killed has left faults in {cluster.run_id}, which cannot be undone:{lines}\n"
            "mend that and try again, or destroy the cluster with `nomad-testkit down`"
        )
    return found


def _claim(path: Path, claimed: ExitStack) -> bool:
    """Take over a dead process's book until the stack is closed, when it goes if nothing is left in it."""
    lock = FileLock(path.with_suffix(".lock"), create=False)
    with suppress(FileNotFoundError):  # its process has just undone all of it
        if not lock.try_acquire():
            return False

    def close() -> None:
        try:
            if not Journal(path).left():
                path.unlink(missing_ok=True)
                lock.path.unlink(missing_ok=True)
        finally:
            lock.release()

    claimed.callback(close)
    return True


def _turn(entry: Entry) -> Turn:
    undo = UNDO.get(entry.kind)
    return Turn.HOST if undo is None else undo.turn


def _undo(cluster: Cluster, entry: Entry) -> str:
    """Undo one thing; give why it could not be, or nothing."""
    if (undo := UNDO.get(entry.kind)) is None:
        return f"this version of nomad_testkit does not know {entry.kind!r}; use the one that made it"
    try:
        undo(cluster, _hosts(cluster, entry.facts.get("hosts", ())), **dict(entry.facts.get("undo", {})))
    except Exception as error:
        return in_words(error)
    return ""


def _hosts(cluster: Cluster, ids: Sequence[str]) -> list[Host]:
    """Find hosts by their instance ids: those that are stopped, too, which a cluster does not have."""
    known = {host.instance_id: host for host in cluster.hosts}
    found: dict[str, Any] = {}
    if any(one not in known for one in ids):
        found = {one.instance_id: one for one in instances(cluster.target.client, cluster.run_id)}
    ports = {host.instance.group: host.ssh.port for host in cluster.hosts}
    hosts = []
    for one in ids:
        if one in known:
            hosts.append(known[one])
            continue
        instance = found.get(one) or Instance(one, "", "terminated", "", "", "", "")
        hosts.append(
            Host(
                instance,
                address=cluster.target.address(instance) if instance.private_ip else "",
                ssh_user=cluster.ssh_user,
                key_path=cluster.key_path,
                ssh_port=ports.get(instance.group, 22),
                secrets=cluster.secrets,
            )
        )
    return hosts


def _what(entry: Entry) -> str:
    return str(entry.facts.get("what", entry.kind))


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # its process has just undone all of it
        return 0.0
