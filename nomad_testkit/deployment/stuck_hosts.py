"""Summarise where each host got stuck if a cluster does not become ready; the summary is part of the error."""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nomad_testkit.cluster.host_watch import CLOUD_INIT_LOG, UNITS, USER_DATA_LOG
from nomad_testkit.deployment.evidence import mask
from nomad_testkit.errors import TestkitError
from nomad_testkit.targets.aws.errors import AWS_ERRORS, describe_error
from nomad_testkit.wait import Deadline

if TYPE_CHECKING:
    from nomad_testkit.cluster.host import Host
    from nomad_testkit.targets.base import Target

BOUND_SECONDS = 15.0
"""For all hosts together: a hanging host must not delay the error."""
LOG_LINES, WARNINGS, CONSOLE_LINES = 3, 3, 6
_WIDTH = 200
_CAUSES = r"[Tt]oo many open files|[Ff]ailed to start|UnauthorizedOperation|AccessDenied"
"""What is an error in any line, such as the second of one that Consul breaks."""
_LOUD = rf"\[(WARN|ERROR)\]|{_CAUSES}"
_ERROR = re.compile(rf"\[ERROR\]|{_CAUSES}")
_FOLLOWS = re.compile(
    r"[Nn]o (cluster )?leader|[Nn]o known Consul servers|[Nn]o servers|lost leadership|[Cc]heck is now critical"
)
"""Warnings that follow from other errors; of use only if nothing else is logged."""
_FORBIDDEN = re.compile(
    r"(UnauthorizedOperation|AccessDenied)\b[^\n]*?:assumed-role/([^/\s]+)/\S+ "
    r"is not authorized to perform: ([\w-]+:\w+)"
)
"""How AWS words what a host's role may not do, in whatever line a program has put that."""
_PART = "\x1e"
"""ASCII's record separator, which no log contains."""
_OWN = re.compile(r"\bi-[0-9a-f]{8,}\b|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\d+")
"""Text that differs between hosts, and between two times on one host."""


def _script() -> str:
    log = (
        f"for f in {USER_DATA_LOG} {CLOUD_INIT_LOG}; do test -s $f && "
        f'{{ echo "{_PART}$f ends:"; tail -n {LOG_LINES} $f; break; }}; done'
    )
    agents = "; ".join(
        f"echo '{_PART}{unit} warns:'; "
        f"journalctl -u {unit} --no-pager -o cat -n 2000 | grep -E {shlex.quote(_LOUD)} | tail -n 300"
        for unit in UNITS
    )
    return f"{log}; {agents}"


def stuck_hosts(hosts: Sequence[tuple[str, Host]], target: Target) -> str:
    """Return lines that show what each named host has logged, grouping hosts with the same lines; never raise.

    A host without SSH shows the end of its console.
    """
    said: dict[str, list[str]] = {}

    def ask(name: str, host: Host) -> None:
        said[name] = _lines(host, target)

    threads = [threading.Thread(target=ask, args=one, name=f"stuck {one[0]}", daemon=True) for one in hosts]
    for thread in threads:
        thread.start()
    deadline = Deadline.after(BOUND_SECONDS)
    for thread in threads:
        thread.join(deadline.remaining())
    alike: dict[str, list[tuple[str, list[str]]]] = {}
    for name, host in hosts:
        lines = said.get(name, [f"no answer within {BOUND_SECONDS:.0f} s"])
        key = "\n".join(_OWN.sub("#", line) for line in lines)
        alike.setdefault(key, []).append((f"{name} ({host.instance_id}, {host.address})", lines))
    parts = []
    for same in alike.values():
        names = [title for title, _ in same]
        others = f", and so {'does' if len(names) == 2 else 'do'} {', '.join(names[1:])}" if names[1:] else ""
        parts += [f"{names[0]} says{others}:", *(f"    {line}" for line in same[0][1])]
    return "\n".join(["", *parts]) if parts else ""


def _lines(host: Host, target: Target) -> list[str]:
    try:
        if host.ssh.refused:
            return [f"SSH: {host.ssh.refused}", *_console(host, target)]
        found = host.run(_script(), sudo=True, check=False, timeout=BOUND_SECONDS / 2).stdout
    except TestkitError as error:
        return [f"SSH: {_cut(str(error))}", *_console(host, target)]
    lines = forbidden(found)
    for part in mask(host.hide(found)).split(_PART)[1:]:
        title, *text = part.strip().splitlines()
        chosen = causes(text) if title.endswith(" warns:") else _distinct(text)[-LOG_LINES:]
        lines += [title, *(f"  {_cut(line)}" for line in chosen)] if text else []
    return lines or ["neither its user data nor its agents have logged anything", *_console(host, target)]


def forbidden(text: str) -> list[str]:
    """List what AWS has refused to the role of a host, by what its programs say.

    >>> forbidden("[ERROR] join: UnauthorizedOperation: You may not. User: arn:aws:sts::1:assumed-role/web/i-1 is not "
    ...           "authorized to perform: ec2:DescribeInstances because no policy allows it")
    ['UnauthorizedOperation: role web may not ec2:DescribeInstances']
    """
    return list(dict.fromkeys(f"{one[1]}: role {one[2]} may not {one[3]}" for one in _FORBIDDEN.finditer(text)))


def causes(warnings: Sequence[str]) -> list[str]:
    """Choose the warnings that most likely name the cause: errors first, warnings that follow from others last.

    A repeated warning appears once, as it was last logged. The result is in the order of time.

    >>> causes(["[ERROR] no key fits", *(f"[ERROR] in {n} s: No cluster leader" for n in range(9))])
    ['[ERROR] no key fits', '[ERROR] in 8 s: No cluster leader']
    """
    lines = _distinct(warnings)

    def rank(place: int) -> tuple[bool, bool, int]:
        line = lines[place]
        return bool(_FOLLOWS.search(line)), not _ERROR.search(line), -place

    return [lines[place] for place in sorted(sorted(range(len(lines)), key=rank)[:WARNINGS])]


def _distinct(text: Sequence[str]) -> list[str]:
    """Return the lines that differ in more than numbers, each at its last occurrence."""
    last: dict[str, str] = {}
    for line in text:
        key = _OWN.sub("#", line)
        last.pop(key, None)
        last[key] = line.strip()
    return list(last.values())


def _console(host: Host, target: Target) -> list[str]:
    try:
        shown = mask(host.hide(target.console(host.instance)))
    except (*AWS_ERRORS, TestkitError) as error:
        return [f"its console cannot be read: {describe_error(error)}"]
    lines = [line.strip() for line in shown.splitlines() if line.strip()]
    return (
        ["its console ends:", *(f"  {_cut(line)}" for line in lines[-CONSOLE_LINES:])]
        if lines
        else ["its console is empty"]
    )


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]}..."
