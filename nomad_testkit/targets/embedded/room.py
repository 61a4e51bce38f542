"""How many more hosts this machine carries, by each of what runs out first: memory, inotify instances, disk space."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nomad_testkit.ec2.machines.isolation import is_of_a_host
from nomad_testkit.errors import Missing
from nomad_testkit.targets.base import Room

HOST_BYTES = 80 * 2**20
"""What a host with both agents takes of this machine's memory, measured by ``bench deploy``, and some more."""
INOTIFY_A_HOST = 4
"""systemd and its services take three to four instances a host."""
LEAST_FREE = 64 * 2**20
"""Bytes; a run's keys, journal and evidence take some MiB."""
IMAGES_FREE = 2**30
"""Bytes; an image and what it is made from take some hundred MiB."""

MEMORY, INOTIFY = Path("/proc/meminfo"), Path("/proc/sys/fs/inotify/max_user_instances")
_PROCESSES = Path("/proc")


def rooms() -> list[Room]:
    """Tell for how many more hosts there is room, by each limit that this machine lets itself be asked for."""
    return [room for room in (memory(), inotify()) if room is not None]


def memory() -> Room | None:
    """Divide the available memory (proc_meminfo(5)) by what a host takes."""
    try:
        found = re.search(r"^MemAvailable: +(\d+) kB", MEMORY.read_text(), re.MULTILINE)
    except OSError:
        return None
    if found is None:
        return None
    available = int(found[1]) * 1024
    return Room(
        available // HOST_BYTES,
        f"memory left ({available / 2**20:.0f} MiB, of which a host takes {HOST_BYTES / 2**20:.0f})",
        "free memory, or deploy fewer hosts",
    )


def inotify() -> Room | None:
    """Divide the inotify instances that this user may still make (inotify(7)) by what a host takes."""
    try:
        most = int(INOTIFY.read_text())
    except (OSError, ValueError):
        return None
    used = inotify_in_use()
    return Room(
        max(0, most - used) // INOTIFY_A_HOST,
        f"inotify instances left (fs.inotify.max_user_instances is {most}, {used} are in use, a host takes "
        f"{INOTIFY_A_HOST})",
        "sysctl fs.inotify.max_user_instances=1024",
    )


def inotify_in_use() -> int:
    """Count the inotify instances of this user's processes, and of hosts.

    Whoever has made a host's user namespace is charged for all instances in it (user_namespaces(7)), and that is root.
    """
    count = 0
    for process in _PROCESSES.iterdir():
        if process.name.isdigit():
            with suppress(OSError):  # it has ended
                owner = process.stat().st_uid
                if owner == os.geteuid() or is_of_a_host(owner):
                    count += sum(_is_inotify(one) for one in (process / "fd").iterdir())
    return count


def _is_inotify(descriptor: Path) -> bool:
    try:
        return str(descriptor.readlink()) == "anon_inode:inotify"
    except OSError:  # it has been closed
        return False


def lacking(folders: Sequence[tuple[str, Path, int]], found: Sequence[Room]) -> list[Missing]:
    """List the limits that let not even one host boot, and the folders, each with its name, whose disks are full."""
    missing = [Missing(f"room for a single host: {room.limit}", room.remedy) for room in found if room.hosts < 1]
    for name, path, least in folders:
        free = free_bytes(path)
        if free < least:
            missing.append(
                Missing(
                    f"{least / 2**20:.0f} MiB free for {name} in {path}, found {free / 2**20:.0f} MiB",
                    "free some there, or name a folder on another disk",
                )
            )
    return missing


def free_bytes(path: Path) -> int:
    """Tell how much is free where a folder is, or is to be. Raises OSError."""
    return shutil.disk_usage(next(one for one in (path, *path.parents) if one.exists())).free
