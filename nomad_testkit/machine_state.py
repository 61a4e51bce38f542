"""What a run could leave behind on this machine, taken before and compared after."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

from nomad_testkit.runs import state_path

_OURS = ("nomad_testkit", "systemd-nspawn", "/opt/consul/", "/opt/nomad/", "cloud-init")
_RUNNERS = ("pytest", "tox", "bench soak")
"""Who looks: a process that is not to be taken for what was left."""


@dataclass(frozen=True)
class MachineState:
    """Processes, mounts, namespaces, links, routes, rules, tables, cgroups and files.

    >>> before = MachineState.take()  # doctest: +SKIP
    >>> MachineState.take().left_since(before)  # doctest: +SKIP
    {}
    """

    processes: frozenset[str]
    mounts: frozenset[str]
    namespaces: frozenset[str]
    links: frozenset[str]
    routes: frozenset[str]
    rules: frozenset[str]
    tables: frozenset[str]
    cgroups: frozenset[str]
    files: frozenset[str]

    @classmethod
    def take(cls) -> MachineState:
        """Look at the machine now."""
        return cls(
            processes=frozenset(_processes()),
            mounts=frozenset(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
            namespaces=frozenset(_lines("ip", "netns", "list")),
            links=frozenset(path.name for path in Path("/sys/class/net").iterdir()),
            routes=frozenset(_lines("ip", "-4", "route", "show", "table", "all")),
            rules=frozenset(_lines("ip", "rule", "show")),
            tables=frozenset(_lines("nft", "list", "tables")),
            cgroups=frozenset(_cgroups()),
            files=frozenset(_files()),
        )

    def left_since(self, before: MachineState) -> dict[str, set[str]]:
        """Give what is here now and was not `before`; empty when nothing is."""
        found = {
            field.name: set(getattr(self, field.name)) - set(getattr(before, field.name)) for field in fields(self)
        }
        return {name: values for name, values in found.items() if values}


def _lines(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _cgroups() -> list[str]:
    found = []
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        found += [str(Path(folder, name)) for name in names if name.startswith("nomad-testkit")]
        names[:] = [name for name in names if not name.startswith("nomad-testkit")]
    return found


def _processes() -> list[str]:
    found = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit() or int(path.name) == os.getpid():
            continue
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            zombie = ") Z " in (path / "stat").read_text()
        except OSError:
            continue
        if not zombie and any(word in command for word in _OURS) and not any(word in command for word in _RUNNERS):
            found.append(f"{path.name}: {command}")
    return found


def _files() -> list[str]:
    folders = [
        Path("/run/nomad-testkit"),
        Path("/run/netns"),
        Path("/run/systemd/nspawn"),
        state_path() / "runs",
    ]
    found = [
        str(Path(parent, name))
        for folder in folders
        for parent, inner, names in os.walk(folder)  # passes over what vanishes meanwhile
        for name in (*inner, *names)
    ]
    found += [str(path) for path in Path(tempfile.gettempdir()).glob("*nomad-testkit*")]
    return found
