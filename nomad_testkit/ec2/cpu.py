"""Who has used the processor: the processes of a cloud, and the threads of the cloud's own, by what they are."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ENDED = "hosts: ended processes (boot, cloud-init, host scripts)"
_TICKS = os.sysconf("SC_CLK_TCK")
_LIVE = {
    "systemd": "hosts: systemd",
    "(sd-": "hosts: systemd",
    "sshd": "hosts: sshd",
    "cloud-init": "hosts: cloud-init, still running",
    "python": "hosts: host scripts, still running",
}


def cpu_by_owner(
    proc: Path = Path("/proc"), *, cloud: int | None = None, threads: Mapping[int, str] | None = None
) -> dict[str, float]:
    """Return the CPU-seconds of all processes in this pid namespace by owner, ended ones with who reaped them.

    `cloud` is the cloud's own process (default: this one), whose `threads` are named by their native ids.
    """
    cloud = os.getpid() if cloud is None else cloud
    if threads is None:
        threads = {thread.native_id: thread.name for thread in threading.enumerate() if thread.native_id}
    used: dict[str, float] = {}

    def add(owner: str, ticks: int) -> None:
        if ticks:
            used[owner] = used.get(owner, 0.0) + ticks / _TICKS

    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            comm, own, reaped = _read(folder / "stat")
            if int(folder.name) != cloud:
                owner = _owner(comm)
                # An agent's and a session's children are part of it; what systemd reaps is what it has booted.
                add(owner, own if owner == _LIVE["systemd"] else own + reaped)
                add(ENDED, reaped if owner == _LIVE["systemd"] else 0)
                continue
            alive = 0
            for thread in (folder / "task").iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):
                    ticks = _read(thread / "stat")[1]
                    alive += ticks
                    add(f"cloud: {_kind(threads.get(int(thread.name), 'other threads'))}", ticks)
            add("cloud: ended threads", max(0, own - alive))
            add("cloud: its commands, ended", reaped)
    return used


def _read(stat: Path) -> tuple[str, int, int]:
    """Return a process's name, and the ticks of itself and of the children that it has reaped."""
    head, _, tail = stat.read_text(errors="replace").rpartition(")")
    fields = tail.split()
    return head.partition("(")[2], int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])


def _owner(comm: str) -> str:
    if comm in ("consul", "nomad"):
        return f"agents: {comm}"
    if comm == "systemd-nspawn":
        return "cloud: systemd-nspawn"
    return next((owner for start, owner in _LIVE.items() if comm.startswith(start)), "other processes")


def _kind(thread: str) -> str:
    """Return a thread's name without what counts it, so that all machines' threads are one line."""
    if thread.startswith("machine "):
        return "machines' threads"
    return "requests' threads" if thread.startswith("Thread-") else thread
