"""Watching hosts while they boot: who is up, and whose agents or user data have failed.

One daemon thread and one SSH connection a host. The host itself looks once a second and answers at once when something
has failed, which costs it two small programs a second and no new session.
"""

from __future__ import annotations

import shlex
import socket
import threading
from collections.abc import Callable

from nomad_testkit.errors import HostError, TestkitError
from nomad_testkit.host import Host
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

UNITS = ("consul.service", "nomad.service")
USER_DATA_UNIT = "cloud-final.service"
"""The unit of cloud-init that runs the user data; it fails when that ends with another status than 0."""
USER_DATA_LOG = "/var/log/user-data.log"
CLOUD_INIT_LOG = "/var/log/cloud-init-output.log"
LINES = 20

_LOOKS = 4
_FAILED = 9
_POLL = (
    f"n=0; while [ $n -lt {_LOOKS} ]; do "
    f"systemctl is-failed --quiet {' '.join((*UNITS, USER_DATA_UNIT))} && exit {_FAILED}; "
    "n=$((n+1)); sleep 1; done"
)
_POLL_TIMEOUT = 60.0
_SSH_INTERVAL = 2.0


class HostWatch:
    """Watches hosts until `stop`, or until one of them is broken.

    `prepare` is called once for each host that is up, in the host's own thread; where it fails, the host is broken.
    """

    def __init__(self, deadline: Deadline, prepare: Callable[[Host], None] | None = None) -> None:
        self._deadline, self._prepare = deadline, prepare
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._up: set[str] = set()
        self._broken: dict[str, str] = {}

    def add(self, host: Host) -> None:
        """Watch one more host."""
        threading.Thread(target=self._watch, args=(host,), name=f"watch {host.instance_id}", daemon=True).start()

    def is_up(self, host: Host) -> bool:
        """Whether its sshd has answered."""
        with self._lock:
            return host.instance_id in self._up

    @property
    def broken(self) -> str | None:
        """What has failed, host by host; None while nothing has."""
        with self._lock:
            return "\n".join(self._broken.values()) or None

    def stop(self) -> None:
        """End the watch; threads that still wait for a host end by themselves within seconds."""
        self._stop.set()

    def _watch(self, host: Host) -> None:
        try:
            if not wait_until(
                "sshd",
                lambda: self._stopped() or answers(host.address, host.ssh.port),
                deadline=self._deadline,
                interval=0.2,
            ):
                return
            with self._lock:
                self._up.add(host.instance_id)
            if not self._prepared(host):
                return
            while not self._stop.is_set() and not self._deadline.passed:
                host.ssh.ensure(self._deadline, interval=_SSH_INTERVAL)
                if self._failed(host):
                    self._is_broken(host, explain(host))
                    return
        except TestkitError:
            # A host that cannot be reached at all is told by whoever waits for what runs on it.
            return

    def _prepared(self, host: Host) -> bool:
        try:
            if self._prepare is not None:
                self._prepare(host)
        except TestkitError as error:
            self._is_broken(host, f"host {host} in {host.instance.group}: {error}")
            return False
        return True

    def _is_broken(self, host: Host, found: str) -> None:
        with self._lock:
            self._broken[host.instance_id] = found

    def _failed(self, host: Host) -> bool:
        try:
            return host.run(_POLL, check=False, timeout=_POLL_TIMEOUT).status == _FAILED
        except HostError:
            return False  # it reboots, perhaps

    def _stopped(self) -> Ok[bool] | None:
        return Ok(False) if self._stop.is_set() else None


def answers(address: str, port: int = 22) -> Ok[bool] | Pending:
    """Whether a server with something to say listens: sshd sends its banner first."""
    try:
        with socket.create_connection((address, port), timeout=2) as connection:
            connection.settimeout(2)
            return Ok(True) if connection.recv(4) == b"SSH-" else Pending("it says nothing")
    except OSError as error:
        return Pending(str(error))


def explain(host: Host) -> str:
    """Tell what has failed on a host, in the words of the unit, the agent or the user data. Never raises."""
    parts: list[str] = []
    try:
        failed = [state for state in map(host.unit_state, UNITS) if state.failed]
        parts += [f"{state}; its journal ends:\n{_indented(host.journal(state.unit, LINES))}" for state in failed]
        if host.unit_state(USER_DATA_UNIT).failed:
            log, text = user_data_log(host)
            parts.append(f"the user data failed; {log} ends:\n{_indented(text)}")
    except HostError as error:
        parts.append(str(error))
    return f"host {host} in {host.instance.group}: " + "\n".join(parts)


def user_data_log(host: Host) -> tuple[str, str]:
    """Read the end of the log of the user data, or else of cloud-init's. Raises HostError."""
    for log in (USER_DATA_LOG, CLOUD_INIT_LOG):
        found = host.run(f"tail -n {LINES} -- {shlex.quote(log)}", sudo=True, check=False)
        if found.status == 0 and found.stdout.strip():
            return log, host.hide(found.stdout)
    return CLOUD_INIT_LOG, "(empty)"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines()) or "    (empty)"
