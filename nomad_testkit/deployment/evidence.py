"""Evidence of a failure: logs and API responses of hosts, agents and instances, in owner-only files."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_testkit.cluster.host_watch import CLOUD_INIT_LOG, USER_DATA_LOG
from nomad_testkit.cluster.secrets import hide_private_keys
from nomad_testkit.errors import HostError, WaitTimeout
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    from nomad_testkit.cluster.clients.session import AgentClient
    from nomad_testkit.cluster.host import Host
    from nomad_testkit.runs.journal import Journal
    from nomad_testkit.targets.base import Target

logger = logging.getLogger(__name__)

BOUND_SECONDS = 20.0
"""For all evidence together; the rest is left out."""
_JOURNAL_LINES = 2000
_THREADS = 4
"""Concurrent tasks for one host."""

Task = tuple[str, Callable[[], str]]
"""A file's name, and the function that returns its text."""

HOSTS_FILE = "hosts.json"
"""Maps hosts to their folders."""
INCOMPLETE_FILE = "incomplete.txt"
EVIDENCE_NOTE = re.compile(r"^evidence of \S+ is in (/.+)$", re.MULTILINE)
"""Matches the note that a failed deployment's error carries."""


def evidence_note(run_id: str, folder: Path) -> str:
    """Return the note that says where the evidence of a run is.

    >>> EVIDENCE_NOTE.match(evidence_note("nt-1", Path("/a b")))[1]
    '/a b'
    """
    return f"evidence of {run_id} is in {folder.absolute()}"


def journal_file(agent: str) -> str:
    """Return the file name for the journal of ``consul`` or ``nomad``."""
    return f"{agent}-journal.log"


def _journal(unit: str) -> str:
    return f"journalctl -u {unit} --no-pager -o short-iso-precise -n {_JOURNAL_LINES}"


_COMMANDS: Mapping[str, str] = {
    journal_file("consul"): _journal("consul"),
    journal_file("nomad"): _journal("nomad"),
    "user-data.log": f"cat {USER_DATA_LOG}",
    "cloud-init-output.log": f"cat {CLOUD_INIT_LOG}",
    "cloud-init.log": f"tail -n {_JOURNAL_LINES} /var/log/cloud-init.log",
    "units.txt": "systemctl --no-pager --failed; systemctl --no-pager status consul nomad cloud-final",
    "consul-config.json": "tail -n +1 /opt/consul/config/*",
    "nomad-config.txt": "tail -n +1 /opt/nomad/config/*",
}
_CONSUL_PATHS: Mapping[str, str] = {
    "members": "/v1/agent/members",
    "peers": "/v1/status/peers",
    "leader": "/v1/status/leader",
    "autopilot": "/v1/operator/autopilot/health",
    "services": "/v1/catalog/services",
    "nodes": "/v1/catalog/nodes",
    "checks": "/v1/health/state/any",
}
_NOMAD_PATHS: Mapping[str, str] = {
    "members": "/v1/agent/members",
    "peers": "/v1/status/peers",
    "leader": "/v1/status/leader",
    "autopilot": "/v1/operator/autopilot/health",
    "nodes": "/v1/nodes",
    "jobs": "/v1/jobs",
    "evaluations": "/v1/evaluations",
    "allocations": "/v1/allocations",
    "deployments": "/v1/deployments",
}

_SECRET = re.compile(
    r"""(?ix)
    (["']?[\w.-]*(?:secret|token|password|encrypt|private_key|key_material|access_key)[\w.-]*["']?  # the name
     [ \t]*[:=][ \t]*)
    (?: "(?:[^"\\]|\\.)*" | '[^']*' | (?!true\b|false\b|null\b|[\d{\["']) [^\s,}\]]+ )
    """
)
_TOKENS = re.compile(r"""(?i)(\btokens["']?\s*[:=]?\s*)\{[^{}]*\}""")
"""A block of tokens: the names inside do not look secret."""


def mask(text: str) -> str:
    """Hide private keys, and values whose names look secret, in a configuration or a log.

    >>> mask('{"encrypt": "c2VjcmV0", "server": true}')
    '{"encrypt": "(hidden)", "server": true}'
    >>> mask('token = "b1gs33cr3t"')
    'token = "(hidden)"'
    """
    text = hide_private_keys(text)
    return _SECRET.sub(r'\1"(hidden)"', _TOKENS.sub(r'\1{"(hidden)"}', text))


def collect(
    hosts: Sequence[Host],
    folder: Path,
    *,
    target: Target | None = None,
    journal: Journal | None = None,
    within: float = BOUND_SECONDS,
    reachable: bool = True,
) -> Path:
    """Collect the evidence of a failure into `folder`, in parallel, within `within` seconds; never raise.

    A part that cannot be collected leaves a line in ``incomplete.txt``. If the hosts are not `reachable`, because they
    are being destroyed, only their consoles are read.
    """
    deadline = Deadline.after(within)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        own: list[Task] = [(HOSTS_FILE, lambda: json.dumps([_host_entry(host) for host in hosts], indent=1))]
        if journal is not None and journal.path.is_file():
            own.append(("journal.jsonl", lambda: journal.path.read_text(errors="replace")))
        lost = _lost(target, deadline) if target is not None else None
        queues = [_of_host(host, target, reachable, deadline) for host in hosts] if lost is None else []
        problems = [f"every host: {lost}"] if lost is not None else []
        if problems := problems + _run_all([own, *queues], folder, deadline):
            _write(folder / INCOMPLETE_FILE, "\n".join(sorted(problems)) + "\n")
    except Exception as error:  # must never hide the failure that it explains
        logger.warning("evidence cannot be written to %s: %s", folder, error)
    return folder


def _host_entry(host: Host) -> dict[str, str]:
    instance = host.instance
    return {
        "instance_id": instance.instance_id,
        "group": instance.group,
        "private_ip": instance.private_ip,
        "address": host.address,
        "folder": _folder_of(host),
    }


def _folder_of(host: Host) -> str:
    return f"{host.instance.group}-{host.instance.instance_id}"


def _lost(target: Target, deadline: Deadline) -> str | None:
    """Return why the target died, or None; wait at most half of the time left."""
    answer: list[str | None] = []

    def ask() -> None:
        with contextlib.suppress(Exception):
            answer.append(target.lost())

    asking = threading.Thread(target=ask, name="nomad-testkit evidence", daemon=True)
    asking.start()
    asking.join(deadline.remaining() / 2)
    return answer[0] if answer else None


def _of_host(host: Host, target: Target | None, reachable: bool, deadline: Deadline) -> list[Task]:
    folder = _folder_of(host)
    tasks: list[Task] = []
    if target is not None:
        tasks.append((f"{folder}/console.log", lambda: target.console(host.instance)))
    if reachable:
        # The agents' state first: it changes while the rest is read.
        tasks.append((f"{folder}/nomad-api.json", lambda: _dump(host.nomad, _NOMAD_PATHS, deadline)))
        tasks.append((f"{folder}/consul-api.json", lambda: _dump(host.consul, _CONSUL_PATHS, deadline)))
        for name, command in _COMMANDS.items():
            tasks.append((f"{folder}/{name}", lambda command=command: _output(host, command, deadline)))  # type: ignore[misc]
    return [(name, lambda task=task: host.hide(task())) for name, task in tasks]  # type: ignore[misc]


def _output(host: Host, command: str, deadline: Deadline) -> str:
    try:
        ended = host.run(command, sudo=True, check=False, timeout=deadline.remaining())
    except HostError:
        if deadline.passed:
            raise
        # A test may fail because the connection was lost: retry once.
        ended = host.run(command, sudo=True, check=False, timeout=deadline.remaining())
    return ended.stdout if ended.status == 0 or ended.stdout else f"({ended.stderr.strip() or 'no output'})\n"


def _dump(agent: AgentClient, paths: Mapping[str, str], deadline: Deadline) -> str:
    """Return an agent's API responses as JSON, from stale reads: there may be no leader."""
    answers: dict[str, Any] = {}
    for name, path in paths.items():
        if deadline.passed:
            break  # nobody waits for the rest
        try:
            answers[name] = agent.autopilot_health() if name == "autopilot" else agent.get(path, stale="true")
        except Exception as error:
            answers[name] = f"({error})"
    return json.dumps(answers, indent=1)


def _run_all(queues: Sequence[Sequence[Task]], folder: Path, deadline: Deadline) -> list[str]:
    """Run each queue in its own daemon threads and list what is missing.

    A hanging task delays neither another host's tasks nor the end of this process.
    """
    left = {name for queue in queues for name, _ in queue}
    problems: list[str] = []
    lock = threading.Lock()

    def work(waiting: list[Task]) -> None:
        while deadline.remaining():
            with lock:
                if not waiting:
                    return
                name, task = waiting.pop(0)
            try:
                text = mask(task())
                if deadline.remaining():
                    _write(folder / name, text)
            except Exception as error:
                with lock:
                    problems.append(f"{name}: {error}")
            with lock:
                left.discard(name)

    def probe() -> Ok[None] | Pending:
        with lock:
            return Pending(f"{len(left)} parts are missing") if left else Ok(None)

    for queue in queues:
        waiting = list(queue)
        for _ in range(min(_THREADS, len(waiting))):
            threading.Thread(target=work, args=(waiting,), name="nomad-testkit evidence", daemon=True).start()
    with contextlib.suppress(WaitTimeout):
        wait_until("the evidence", probe, deadline=deadline, interval=0.05)
    with lock:
        return problems + [f"{name}: not collected in time" for name in left]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", errors="replace") as file:
        file.write(text)
