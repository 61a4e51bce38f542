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

from nomad_testkit.errors import WaitTimeout
from nomad_testkit.run_secrets import hide_private_keys
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    from nomad_testkit.host import Host
    from nomad_testkit.journal import Journal
    from nomad_testkit.targets.base import Target

logger = logging.getLogger(__name__)

BOUND_SECONDS = 20.0
"""For all evidence together; what is not there by then is left out."""
_JOURNAL_LINES = 2000
_THREADS = 4
"""At once for one host."""

Task = tuple[str, Callable[[], str]]
"""A file's name, and what gives its text."""

_COMMANDS: Mapping[str, str] = {
    "consul-journal.log": f"journalctl -u consul --no-pager -o short-precise -n {_JOURNAL_LINES}",
    "nomad-journal.log": f"journalctl -u nomad --no-pager -o short-precise -n {_JOURNAL_LINES}",
    "user-data.log": "cat /var/log/user-data.log",
    "cloud-init-output.log": "cat /var/log/cloud-init-output.log",
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
) -> Path:
    """Collect what explains a failure into `folder`, in parallel and for at most `within` seconds; never raises.

    A part that cannot be had leaves a line in ``incomplete.txt`` instead.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        lost = target.lost() if target is not None else None
        queues = [_of_host(host, target) for host in hosts] if lost is None else []
        if journal is not None and journal.path.is_file():
            queues.append([("journal.jsonl", lambda: journal.path.read_text(errors="replace"))])
        problems = [f"every host: {lost}"] if lost is not None else []
        if problems := problems + _run_all(queues, folder, Deadline.after(within)):
            _write(folder / "incomplete.txt", "\n".join(sorted(problems)) + "\n")
    except Exception as error:  # it must never hide the failure that it is to explain
        logger.warning("evidence cannot be written to %s: %s", folder, error)
    return folder


def _of_host(host: Host, target: Target | None) -> list[Task]:
    place = f"{host.instance.group}-{host.instance.instance_id}"
    tasks: list[Task] = []
    if target is not None:
        tasks.append((f"{place}/console.log", lambda: target.console(host.instance)))
    for name, command in _COMMANDS.items():
        tasks.append((f"{place}/{name}", lambda command=command: host.run(command, sudo=True, check=False).stdout))  # type: ignore[misc]
    tasks.append((f"{place}/consul-api.json", lambda: _dump(host.consul.get, _CONSUL_PATHS)))
    tasks.append((f"{place}/nomad-api.json", lambda: _dump(host.nomad.get, _NOMAD_PATHS)))
    return [(name, lambda task=task: host.hide(task())) for name, task in tasks]  # type: ignore[misc]


def _dump(get: Callable[[str], Any], paths: Mapping[str, str]) -> str:
    answers: dict[str, Any] = {}
    for name, path in paths.items():
        try:
            answers[name] = get(path)
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
