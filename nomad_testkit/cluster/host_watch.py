"""Watching hosts while they boot: who is up, and whose agents or user data have failed.

One daemon thread and one SSH connection a host. The host itself looks once a second and answers at once when something
has failed, which costs it two small programs a second and no new session.
"""

from __future__ import annotations

import re
import shlex
import socket
import threading
from collections.abc import Callable

from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import HostError, TestkitError
from nomad_testkit.wait import Deadline, Ok, Pending

UNITS = ("consul.service", "nomad.service")
USER_DATA_UNIT = "cloud-final.service"
"""The unit of cloud-init that runs the user data; it fails when that ends with another status than 0."""
USER_DATA_LOG = "/var/log/user-data.log"
CLOUD_INIT_LOG = "/var/log/cloud-init-output.log"
LINES = 20

_LOOKS = 4
_FAILED = 9
UNHANDLED = "Unhandled non-multipart|Unhandled unknown content-type|Failed calling handler"
"""How cloud-init warns of user data, or a part of it, that it passes over or cannot read, such as a script that is not
UTF-8; it goes on, and ends well."""
_WARNED = f"sudo -n grep -E -m 3 '{UNHANDLED}' /var/log/cloud-init.log"
_POLL = (
    f"{_WARNED} >/dev/null 2>&1 && exit {_FAILED}; n=0; while [ $n -lt {_LOOKS} ]; do "
    f"systemctl is-failed --quiet {' '.join((*UNITS, USER_DATA_UNIT))} && exit {_FAILED}; "
    "n=$((n+1)); sleep 1; done"
)
_POLL_TIMEOUT = 60.0
_SSH_INTERVAL = 2.0
_LOGIN_TRY, _LOGIN_TRIES = 0.3, 5.0
"""Seconds between two tries to log in for the first time, and until what they say is looked at."""
LOGIN_SECONDS = 60.0
"""How long sshd may refuse the login of a host of which the console does not tell that it has booted: cloud-init makes
the user and writes the key, on most images before sshd starts."""
_BOOTED = re.compile(r"Cloud-init v\. \S+ finished at ")


class HostWatch:
    """Watches hosts until `stop`, or until one of them is broken.

    `prepare` is called once for each host that is up, in the host's own thread; where it fails, the host is broken.
    `console` reads what a host's console shows, by which one is known that has booted and lets nobody in.
    """

    def __init__(
        self,
        deadline: Deadline,
        prepare: Callable[[Host], None] | None = None,
        console: Callable[[Host], str] | None = None,
    ) -> None:
        self._deadline, self._prepare, self._console = deadline, prepare, console
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._up: set[str] = set()
        self._broken: dict[str, str] = {}

    def add(self, host: Host) -> None:
        """Watch one more host."""
        threading.Thread(target=self._watch, args=(host,), name=f"watch {host.instance_id}", daemon=True).start()

    def is_up(self, host: Host) -> bool:
        """Whether it has let us in."""
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
            if not self._let_in(host):
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

    def _let_in(self, host: Host) -> bool:
        """Wait until a host lets us in; false where it never will, or nobody waits any more."""
        clock, refused_since = self._deadline.clock, None
        while not self._stop.is_set() and not self._deadline.passed:
            try:
                host.ssh.ensure(self._deadline.child(_LOGIN_TRIES), interval=_LOGIN_TRY)
                return True
            except HostError:
                if not host.ssh.refused:
                    refused_since = None
                    continue
            refused_since = clock() if refused_since is None else refused_since
            if clock() - refused_since >= LOGIN_SECONDS or self._has_booted(host):
                self._is_broken(host, _not_let_in(host))
                return False
        return False

    def _has_booted(self, host: Host) -> bool:
        from nomad_testkit.targets.aws.errors import AWS_ERRORS

        try:
            return self._console is not None and bool(_BOOTED.search(self._console(host)))
        except (*AWS_ERRORS, TestkitError):
            return False

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


def _not_let_in(host: Host) -> str:
    right = "the user of its image, whose authorized keys have the instance's key pair (the variable ssh_user)"
    return f"host {host} in {host.instance.group} is up, but {host.ssh.refused}; expected {right}"


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
        if warned := host.run(_WARNED, check=False).stdout.strip():
            parts.append(f"cloud-init passes over its user data, so that nothing of it runs:\n{_indented(warned)}")
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
