"""What a run could leave behind on this machine, taken before and compared after."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from nomad_testkit.runs.run import state_path

_OURS = (
    *("nomad_testkit", "nomad-testkit", "systemd-nspawn", "cloud-init"),
    *("consul", "nomad", "packer", "tofu", "terraform"),
)
"""Words of the command lines and temporary files of what a run starts, or its hosts do."""
_CHANGING = re.compile(r" expires \S+|(valid|preferred)_lft \S+")
"""What passes by itself."""


@dataclass(frozen=True)
class MachineState:
    """Processes, mounts, namespaces, links, addresses, routes, rules, nftables, listeners, cgroups and files.

    >>> before = MachineState.take()  # doctest: +SKIP
    >>> MachineState.take().left_since(before)  # doctest: +SKIP
    {}
    """

    processes: frozenset[str]
    """Each with its id, whoever runs it: also a test, so that a worker that outlives its session is seen."""
    mounts: frozenset[str]
    """Lines of proc(5)'s mountinfo, ids and options included."""
    namespaces: frozenset[str]
    """The named network namespaces, and all network and pid namespaces that have a process."""
    links: frozenset[str]
    addresses: frozenset[str]
    routes: frozenset[str]
    rules: frozenset[str]
    """Of the routing policy."""
    nftables: frozenset[str]
    """Tables, chains and their rules."""
    listeners: frozenset[str]
    """Protocol, address and port."""
    cgroups: frozenset[str]
    files: frozenset[str]

    @classmethod
    def take(cls) -> MachineState:
        """Look at the machine now."""
        return cls(
            processes=frozenset(_processes()),
            mounts=frozenset(Path("/proc/self/mountinfo").read_text().splitlines()),
            namespaces=frozenset([*_lines("ip", "netns", "list"), *_inhabited()]),
            links=frozenset(path.name for path in Path("/sys/class/net").iterdir()),
            addresses=frozenset(line.partition(":")[2] for line in _lines("ip", "-oneline", "address", "show")),
            routes=frozenset(_of_both("route", "show", "table", "all")),
            rules=frozenset(_of_both("rule", "show")),
            nftables=frozenset(_nftables()),
            listeners=frozenset(" ".join(line.split()[:5:4]) for line in _lines("ss", "-Hltnuw")),
            cgroups=frozenset(_cgroups()),
            files=frozenset(_files()),
        )

    def left_since(self, before: MachineState) -> dict[str, set[str]]:
        """Give what is here now and was not `before`; empty when nothing is."""
        found = {
            field.name: set(getattr(self, field.name)) - set(getattr(before, field.name)) for field in fields(self)
        }
        return {name: values for name, values in found.items() if values}


def listeners_of(pids: Iterable[int]) -> list[str]:
    """List the sockets of these processes that listen in this network namespace, in the words of ``ss``."""
    wanted = set(pids)
    lines = _lines("ss", "-Hltnuwp")
    return [line for line in lines if wanted & {int(pid) for pid in re.findall(r"pid=(\d+)", line)}]


def _lines(*command: str) -> list[str]:
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [_CHANGING.sub("", line).strip() for line in said.splitlines()]


def _of_both(*arguments: str) -> list[str]:
    return [f"{family} {line}" for family in ("-4", "-6") for line in _lines("ip", family, *arguments)]


def _nftables() -> list[str]:
    """List the lines of the rule set, each with its table and its handle."""
    found, table = [], ""
    for line in _lines("nft", "--stateless", "--terse", "--handle", "list", "ruleset"):
        table = line if line.startswith("table ") else table
        if line not in ("", "}"):
            found.append(line if line == table else f"{table} {line}")
    return found


def _cgroups() -> list[str]:
    found = []
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        found += [str(Path(folder, name)) for name in names if name.startswith("nomad-testkit")]
        names[:] = [name for name in names if not name.startswith("nomad-testkit")]
    return found


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _processes() -> list[str]:
    found = []
    for pid in _pids():
        path = Path(f"/proc/{pid}")
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            zombie = ") Z " in (path / "stat").read_text()
        except OSError:
            continue
        if pid != os.getpid() and not zombie and any(word in command for word in _OURS):
            found.append(f"{pid}: {command}")
    return found


def _inhabited() -> list[str]:
    found = []
    for pid in _pids():
        for kind in ("net", "pid"):
            try:
                found.append(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
            except OSError:
                continue
    return found


def _files() -> list[str]:
    folders = [
        Path("/run/nomad-testkit"),
        Path("/run/netns"),
        Path("/run/systemd/nspawn"),
        state_path() / "runs",
        state_path() / "shared",
    ]
    found = [
        str(Path(parent, name))
        for folder in folders
        for parent, inner, names in os.walk(folder)  # passes over what vanishes meanwhile
        for name in (*inner, *names)
    ]
    temporary = Path(tempfile.gettempdir()).iterdir()
    found += [str(path) for path in temporary if any(word in path.name for word in _OURS)]
    return found
