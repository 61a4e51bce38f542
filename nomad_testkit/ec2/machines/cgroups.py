"""A cgroup for each host in every hierarchy of this machine, so that no host's systemd meets another's.

systemd-nspawn with ``--keep-unit`` puts its payload under the cgroup that it was started in, and the payload's systemd
takes that for its root: two hosts in one cgroup would share ``system.slice/consul.service``.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nomad_testkit.ec2.machines.devices import deny_devices
from nomad_testkit.errors import Ec2Error
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

log = logging.getLogger(__name__)

_V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")
_V2_OWN = "warden"
_DELEGATED = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks")
"""What whoever divides a cgroup has to write, besides the folder (see cgroups(7), "Cgroups delegation")."""


@dataclass(frozen=True, slots=True)
class _Freezer:
    """The files of a cgroup that stop its processes, and show that they stand, and what is written and read there."""

    switch: str
    state: str
    stop: str
    go_on: str
    frozen: str


_FREEZERS = (
    _Freezer("freezer.state", "freezer.state", "FROZEN", "THAWED", "FROZEN"),
    _Freezer("cgroup.freeze", "cgroup.events", "1", "0", "frozen 1"),
)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted cgroup hierarchy and the folder in it that this process is in."""

    folder: Path
    v2: bool


def parse_hierarchies(mountinfo: str, own_cgroups: str) -> list[Hierarchy]:
    """Find the hierarchies from the texts of ``/proc/self/mountinfo`` and ``/proc/self/cgroup`` (see cgroups(7))."""
    own: dict[str, str] = {}
    for line in own_cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            own[name] = path
    found: dict[Path, Hierarchy] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, (fstype, _, options) = before.split(), [*after.split(), "", "", ""][:3]
        root, mount_point = fields[3], fields[4]
        if fstype == "cgroup2":
            path = own.get("", "/")
        elif fstype == "cgroup":
            names = [name for name in options.split(",") if name in own and name]
            if not names:
                continue
            path = own[names[0]]
        else:
            continue
        inside = path[len(root) :] if root != "/" and path.startswith(root) else path
        folder = Path(mount_point + ("" if inside in ("", "/") else inside))
        found[folder] = Hierarchy(folder, fstype == "cgroup2")
    return list(found.values())


class CgroupTree:
    """The cgroups of one cloud: a parent in each hierarchy, and below it one for each host.

    The parents are made by the process outside the cloud's namespaces, which also removes them: they are the one thing
    that the kernel leaves when the cloud is killed.
    """

    def __init__(self, name: str, hierarchies: list[Hierarchy] | None = None) -> None:
        if hierarchies is None:
            hierarchies = parse_hierarchies(
                Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
            )
        self.name = name
        self.parents = {hierarchy.folder / name: hierarchy.v2 for hierarchy in hierarchies}

    @classmethod
    def of_parents(cls, parents: dict[str, bool]) -> CgroupTree:
        """Take over a tree that another process made, from `parents` as `describe` gives them."""
        tree = cls("", [])
        tree.parents = {Path(folder): v2 for folder, v2 in parents.items()}
        return tree

    def describe(self) -> dict[str, bool]:
        """Give the parents as JSON can carry them."""
        return {str(folder): v2 for folder, v2 in self.parents.items()}

    def create(self) -> None:
        """Make the parents, ready to hold hosts."""
        for folder, v2 in self.parents.items():
            if v2:
                self._delegate(folder.parent)
            _make(folder, v2)

    def add(self, host: str, *, owner: int = 0, devices: bool = True) -> list[Path]:
        """Make a cgroup for `host` in every hierarchy; returns the files to write a process to.

        The host's root, whose id on this machine is `owner`, may divide it, but not lift what limits it. Without
        `devices` it can open no device but those of every container, where the kernel can deny them.
        """
        made = []
        for parent, v2 in self.parents.items():
            folder = parent / host
            _make(folder, v2)
            if not devices:
                try:
                    deny_devices(folder, v2=v2)
                except OSError as error:
                    log.warning("%s: devices are not denied: %s", folder, error)
            for path in (folder, *(folder / name for name in _DELEGATED)):
                if owner and path.exists():
                    os.chown(path, owner, owner)
            made.append(folder / "cgroup.procs")
        return made

    def pids(self, host: str) -> list[int]:
        """List the processes of `host`, of systemd-nspawn itself too."""
        folder = next(iter(self.parents)) / host
        found = []
        for file in folder.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):  # a cgroup that goes meanwhile
                found += [int(pid) for pid in file.read_text().split()]
        return found

    @contextlib.contextmanager
    def frozen(self, host: str) -> Iterator[None]:
        """Let no process of `host` run meanwhile. Raises WaitTimeout when one does not stop."""
        found = [
            (parent / host, freezer)
            for freezer in _FREEZERS
            for parent in self.parents
            if (parent / host / freezer.switch).exists()
        ]
        if not found:
            yield  # it has no process
            return
        folder, freezer = found[0]

        def probe() -> Ok[None] | Pending:
            seen = (folder / freezer.state).read_text()
            return Ok(None) if freezer.frozen in seen else Pending(seen.strip())

        try:
            (folder / freezer.switch).write_text(freezer.stop)
            wait_until(f"{host} to stand still", probe, deadline=Deadline.after(20), interval=0.005)
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
                (folder / freezer.switch).write_text(freezer.go_on)

    def remove(self, host: str) -> None:
        """Remove the cgroups of `host`, whose processes have ended."""
        for parent in self.parents:
            _remove_tree(parent / host)

    def destroy(self, deadline: Deadline) -> None:
        """Remove everything, once the last process has left.

        Raises WaitTimeout when a cgroup is still in use at the deadline.
        """

        def probe() -> Ok[None] | Pending:
            busy = [str(parent) for parent in self.parents if not _remove_tree(parent)]
            return Pending(f"in use: {', '.join(busy)}") if busy else Ok(None)

        wait_until("the cloud's cgroups to be empty", probe, deadline=deadline, interval=0.02)

    def memory_bytes(self) -> int:
        """Tell the bytes of memory, page cache included, that all hosts hold."""
        for parent in self.parents:
            for name in ("memory.current", "memory.usage_in_bytes"):
                if (parent / name).is_file():
                    return int((parent / name).read_text())
        return 0

    def cpu_seconds(self) -> float:
        """Tell the seconds of processor time that all hosts have used."""
        for parent in self.parents:
            if (parent / "cpuacct.usage").is_file():
                return int((parent / "cpuacct.usage").read_text()) / 1e9
            if (parent / "cpu.stat").is_file():
                stat = dict(line.split() for line in (parent / "cpu.stat").read_text().splitlines())
                if "usage_usec" in stat:
                    return int(stat["usage_usec"]) / 1e6
        return 0.0

    @staticmethod
    def _delegate(scope: Path) -> None:
        """Let children of `scope` have controllers: version 2 forbids that while it holds processes itself."""
        available = (scope / "cgroup.controllers").read_text().split()
        wanted = [name for name in _V2_CONTROLLERS if name in available]
        if not wanted:
            return
        own = scope / _V2_OWN
        own.mkdir(exist_ok=True)
        for pid in (scope / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (own / "cgroup.procs").write_text(pid)
        try:
            (scope / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
        except OSError as error:
            raise Ec2Error(
                f"{scope}: its controllers ({', '.join(wanted)}) cannot be given to the hosts: {error}. "
                "Run in a cgroup that is delegated, as `systemd-run --scope -p Delegate=yes` makes it."
            ) from error


def _make(folder: Path, v2: bool) -> None:
    folder.mkdir(exist_ok=True)
    if v2:
        available = (folder / "cgroup.controllers").read_text().split()
        for name in _V2_CONTROLLERS:
            if name in available:
                with contextlib.suppress(OSError):  # a leaf that holds processes already
                    (folder / "cgroup.subtree_control").write_text(f"+{name}")
        return
    for name in ("cpuset.cpus", "cpuset.mems"):
        # Version 1 makes a new cpuset empty, and no process can enter an empty one.
        if (folder / name).is_file() and not (folder / name).read_text().strip():
            (folder / name).write_text((folder.parent / name).read_text())


def _remove_tree(folder: Path) -> bool:
    """Remove a cgroup and those below it; False when a process is still in one of them."""
    if not folder.is_dir():
        return True
    gone = True
    for child in sorted(folder.rglob("*"), reverse=True):
        if child.is_dir():
            gone = _rmdir(child) and gone
    return _rmdir(folder) and gone


def _rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True
