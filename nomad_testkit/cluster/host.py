"""One host of a cluster, as a test holds it in its hands: SSH, its agents' APIs, its units and logs."""

from __future__ import annotations

import shlex
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nomad_testkit.cluster.clients.access import ApiAccess
from nomad_testkit.errors import CommandFailed, HostError
from nomad_testkit.modules.network import Instance
from nomad_testkit.ssh import COMMAND_TIMEOUT, CommandResult, SshConnection
from nomad_testkit.wait import Deadline

if TYPE_CHECKING:
    import testinfra.host

    from nomad_testkit.cluster.clients.consul import ConsulClient
    from nomad_testkit.cluster.clients.nomad import NomadClient
    from nomad_testkit.cluster.secrets import RunSecrets

CONSUL_DNS_PORT = 8600
_UNIT_PROPERTIES = "ActiveState,SubState,Result,ExecMainStatus,NRestarts,ActiveEnterTimestampMonotonic"


@dataclass(frozen=True, slots=True)
class UnitState:
    """What systemd says of a unit (`systemctl show`)."""

    unit: str
    active: str
    """``active``, ``activating``, ``deactivating``, ``inactive`` or ``failed``."""
    sub: str
    result: str
    """``success``, or why it failed: ``exit-code``, ``timeout``, ``start-limit-hit`` …"""
    exit_status: int
    restarts: int
    """How often systemd has started it again by itself (NRestarts)."""
    active_seconds: float | None = None
    """For how long it has been active; None where it is not."""

    @property
    def failed(self) -> bool:
        """Whether systemd has given up on it."""
        return self.active == "failed"

    def __str__(self) -> str:
        text = f"{self.unit} is {self.active} ({self.sub})"
        if self.result != "success":
            text += f", result {self.result}, exit status {self.exit_status}"
        return text + (f", restarted {self.restarts} times" if self.restarts else "")


class Host:
    """One instance and how to reach it; nothing connects before it is used, and threads may share it.

    `address` is where this machine reaches the host: 127.31.A.B on the embedded target. `secrets` are the run's, where
    its agents demand any.

    >>> host.run("uptime")  # doctest: +SKIP
    >>> host.nomad.leader()  # doctest: +SKIP
    '172.31.16.5:4647'
    """

    def __init__(
        self,
        instance: Instance,
        *,
        address: str,
        ssh_user: str,
        key_path: Path,
        ssh_port: int = 22,
        secrets: RunSecrets | None = None,
    ) -> None:
        self.instance, self.address, self._secrets = instance, address, secrets
        self._access = ApiAccess() if secrets is None else secrets.access
        self.ssh = SshConnection(address, ssh_user, key_path, port=ssh_port)
        self._lock = threading.Lock()
        self._nomad: NomadClient | None = None
        self._consul: ConsulClient | None = None
        self._testinfra: testinfra.host.Host | None = None

    @property
    def instance_id(self) -> str:
        """The instance id, which is also the name of the host's node in Consul and Nomad."""
        return self.instance.instance_id

    @property
    def private_ip(self) -> str:
        """The address that the host's agents advertise."""
        return self.instance.private_ip

    def __str__(self) -> str:
        return f"{self.instance_id} ({self.address})"

    def __repr__(self) -> str:
        return f"<Host {self} in {self.instance.group}>"

    @property
    def nomad(self) -> NomadClient:
        """The API of this host's Nomad agent."""
        with self._lock:
            if self._nomad is None:
                self._nomad = self._access.nomad(self.address)
            return self._nomad

    @property
    def consul(self) -> ConsulClient:
        """The API of this host's Consul agent."""
        with self._lock:
            if self._consul is None:
                self._consul = self._access.consul(self.address)
            return self._consul

    def connect_consul(self, *, timeout: float) -> ConsulClient:
        """Make another client of this host's Consul agent, with a time-out in seconds; who makes it closes it."""
        return self._access.consul(self.address, timeout=timeout)

    @property
    def testinfra(self) -> testinfra.host.Host:
        """This host as pytest-testinfra sees it, with its modules: file, package, service, sysctl, user...

        It looks with the rights of the user who is logged in; ``with host.testinfra.sudo():`` with root's.

        >>> host.testinfra.file("/opt/consul/bin/consul").user  # doctest: +SKIP
        'consul'
        """
        from nomad_testkit.cluster.testinfra import testinfra_host

        with self._lock:
            if self._testinfra is None:
                self._testinfra = testinfra_host(self.ssh)
            return self._testinfra

    def connect(self, deadline: Deadline) -> None:
        """Wait until SSH answers, at most until `deadline`. Raises HostError."""
        self.ssh.ensure(deadline)

    def run(
        self, command: str, *, timeout: float = COMMAND_TIMEOUT, check: bool = True, sudo: bool = False
    ) -> CommandResult:
        """Run a command line on the host; see SshConnection.run. Raises CommandFailed and HostError."""
        try:
            return self.ssh.run(command, timeout=timeout, check=check, sudo=sudo)
        except CommandFailed as error:
            if self._secrets is None:
                raise
            command, stdout, stderr = map(self.hide, (error.command, error.stdout, error.stderr))
            raise CommandFailed(error.host, command, error.status, stdout, stderr) from None

    def hide(self, text: str) -> str:
        """Hide the run's secrets in a text that is to be shown."""
        return text if self._secrets is None else self._secrets.hide(text)

    def put(self, source: bytes | str | Path, remote: str, *, mode: int = 0o644, sudo: bool = False) -> None:
        """Write a file on the host; see SshConnection.put. Raises HostError."""
        self.ssh.put(source, remote, mode=mode, sudo=sudo)

    def read(self, remote: str, *, sudo: bool = False) -> str:
        """Read a text file on the host. Raises CommandFailed if it does not exist."""
        return self.ssh.read(remote, sudo=sudo)

    def journal(self, unit: str, lines: int = 50) -> str:
        """Read the last lines that a unit logged, such as ``consul``, without secrets. Raises HostError."""
        command = f"journalctl -u {shlex.quote(unit)} --no-pager -o cat -n {int(lines)}"
        return self.hide(self.run(command, sudo=True).stdout)

    def unit_state(self, unit: str) -> UnitState:
        """Ask systemd for a unit's state; one that does not exist is ``inactive``. Raises HostError."""
        return self.unit_states(unit)[0]

    def unit_states(self, *units: str) -> tuple[UnitState, ...]:
        """Ask systemd for several units' states, with one command. Raises HostError, as `unit_state`."""
        named = " ".join(shlex.quote(unit) for unit in units)
        shown = self.run(f"systemctl show -p {_UNIT_PROPERTIES} {named} && echo && cat /proc/uptime").stdout
        # One paragraph a unit, in the order asked, and then the seconds on the clock of their time stamps.
        *paragraphs, uptime = shown.strip().split("\n\n")
        if len(paragraphs) != len(units):
            raise HostError(f"{self}: systemctl told {len(paragraphs)} states for units {named}: {shown[:500]!r}")
        return tuple(_unit_state(unit, text, uptime) for unit, text in zip(units, paragraphs, strict=True))

    def move(self, instance: Instance, address: str) -> None:
        """Reach it where it is now: on AWS an instance that was stopped comes back with another public address."""
        if address != self.address:
            self.close()
            self.address = address
            self.ssh = SshConnection(address, self.ssh.user, self.ssh.key_path, port=self.ssh.port)
            self._testinfra = None
        self.instance = instance

    def close(self) -> None:
        """Close every connection that was opened."""
        self.ssh.close()
        with self._lock:
            opened, self._nomad, self._consul = (self._nomad, self._consul), None, None
        for client in opened:
            if client is not None:
                client.close()


def _unit_state(unit: str, shown: str, uptime: str) -> UnitState:
    facts = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    since = int(facts.get("ActiveEnterTimestampMonotonic") or 0) / 1e6  # seconds on the clock that `uptime` begins with
    active = facts.get("ActiveState") == "active" and since
    return UnitState(
        unit,
        active=facts.get("ActiveState", ""),
        sub=facts.get("SubState", ""),
        result=facts.get("Result", ""),
        exit_status=int(facts.get("ExecMainStatus") or 0),
        restarts=int(facts.get("NRestarts") or 0),
        active_seconds=float(uptime.split()[0]) - since if active else None,
    )
