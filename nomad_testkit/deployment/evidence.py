"""Evidence of a failure: what hosts, agents and instances have to say, in files that only their owner can read."""

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
"""For all evidence together; what is not there by then is left out."""
_JOURNAL_LINES = 2000
_THREADS = 4
"""At once for one host."""

Task = tuple[str, Callable[[], str]]
"""A file's name, and what gives its text."""

HOSTS_FILE = "hosts.json"
"""Which host's files are in which folder."""
INCOMPLETE_FILE = "incomplete.txt"
EVIDENCE_NOTE = re.compile(r"^evidence of \S+ is in (/.+)$", re.MULTILINE)
"""What a deployment that fails says of its evidence, in a note of the error."""


def evidence_note(run_id: str, folder: Path) -> str:
    """Say in a note of an error where the evidence of a run is.

    >>> EVIDENCE_NOTE.match(evidence_note("nt-1", Path("/a b")))[1]
    '/a b'
    """
    return f"evidence of {run_id} is in {folder.absolute()}"


def journal_file(agent: str) -> str:
    """Name the file with the journal of ``consul`` or ``nomad``."""
    return f"{agent}-journal.log"


def _journal(unit: str) -> str:
    return f"journalctl -u {unit} --no-pager -o short-iso-precise -n {_JOURNAL_LINES}"


_COMMANDS: Mapping[str, str] = {
    journal_file("consul"): _journal("consul"),
    journal_file("nomad"): _journal("nomad"),
    "user-data.log": "cat /var/log/user-data.log",
    "cloud-init-output.log": "cat /var/log/cloud-init-output.log",
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
"""A block of tokens, whose names in it say nothing of secrets."""


def mask(text: str) -> str:
    """Hide what looks like a secret's value in a configuration or a log, or like a private key.

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
    """Collect what explains a failure into `folder`, in parallel and for at most `within` seconds; never raises.

    A part that cannot be had leaves a line in ``incomplete.txt`` instead. Hosts that are being destroyed are not
    `reachable`: only their consoles are asked for.
    """
    deadline = Deadline.after(within)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        own: list[Task] = [(HOSTS_FILE, lambda: json.dumps([_place(host) for host in hosts], indent=1))]
        if journal is not None and journal.path.is_file():
            own.append(("journal.jsonl", lambda: journal.path.read_text(errors="replace")))
        lost = _lost(target, deadline) if target is not None else None
        queues = [_of_host(host, target, reachable, deadline) for host in hosts] if lost is None else []
        problems = [f"every host: {lost}"] if lost is not None else []
        if problems := problems + _run_all([own, *queues], folder, deadline):
            _write(folder / INCOMPLETE_FILE, "\n".join(sorted(problems)) + "\n")
    except Exception as error:  # it must never hide the failure that it is to explain
        logger.warning("evidence cannot be written to %s: %s", folder, error)
    return folder


def _place(host: Host) -> dict[str, str]:
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
    """Ask a target whether it has ended, but wait no longer than the evidence may take."""
    answer: list[str | None] = []

    def ask() -> None:
        with contextlib.suppress(Exception):
            answer.append(target.lost())

    asking = threading.Thread(target=ask, name="nomad-testkit evidence", daemon=True)
    asking.start()
    asking.join(deadline.remaining() / 2)
    return answer[0] if answer else None


def _of_host(host: Host, target: Target | None, reachable: bool, deadline: Deadline) -> list[Task]:
    place = _folder_of(host)
    tasks: list[Task] = []
    if target is not None:
        tasks.append((f"{place}/console.log", lambda: target.console(host.instance)))
    if reachable:
        # What the agents know first: it changes while all else is read.
        tasks.append((f"{place}/nomad-api.json", lambda: _dump(host.nomad, _NOMAD_PATHS, deadline)))
        tasks.append((f"{place}/consul-api.json", lambda: _dump(host.consul, _CONSUL_PATHS, deadline)))
        for name, command in _COMMANDS.items():
            tasks.append((f"{place}/{name}", lambda command=command: _output(host, command, deadline)))  # type: ignore[misc]
    return [(name, lambda task=task: host.hide(task())) for name, task in tasks]  # type: ignore[misc]


def _output(host: Host, command: str, deadline: Deadline) -> str:
    try:
        ended = host.run(command, sudo=True, check=False, timeout=deadline.remaining())
    except HostError:
        if deadline.passed:
            raise
        # A connection may be lost at the very moment at which a test fails; to read once more does no harm.
        ended = host.run(command, sudo=True, check=False, timeout=deadline.remaining())
    return ended.stdout if ended.status == 0 or ended.stdout else f"({ended.stderr.strip() or 'no output'})\n"


def _dump(agent: AgentClient, paths: Mapping[str, str], deadline: Deadline) -> str:
    """Ask an agent for what it knows itself: without a leader that is all that can be had."""
    answers: dict[str, Any] = {}
    for name, path in paths.items():
        if deadline.passed:
            break  # what it would be told nobody waits for
        try:
            answers[name] = agent.autopilot_health() if name == "autopilot" else agent.get(path, stale="true")
        except Exception as error:
            answers[name] = f"({error})"
    return json.dumps(answers, indent=1)


def _run_all(queues: Sequence[Sequence[Task]], folder: Path, deadline: Deadline) -> list[str]:
    """Run each host's tasks in threads of its own, and tell what is missing.

    One that hangs keeps no other host's waiting. The threads are daemons, so that it does not keep this process either.
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
        return problems + [f"{name}: it did not come in time" for name in left]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", errors="replace") as file:
        file.write(text)
