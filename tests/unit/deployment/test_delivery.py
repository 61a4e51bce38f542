"""Secrets on their way to a host, and the watch that brings them: over a fake SSH connection to a real shell."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nomad_testkit.cluster import host_watch
from nomad_testkit.cluster.host import Host
from nomad_testkit.cluster.host_watch import HostWatch
from nomad_testkit.cluster.secrets import RunSecrets
from nomad_testkit.deployment import delivery
from nomad_testkit.deployment.delivery import deliver
from nomad_testkit.errors import CommandFailed, HostError, WaitTimeout
from nomad_testkit.examples.example import Roles
from nomad_testkit.examples.security import Security
from nomad_testkit.modules.network import Instance
from nomad_testkit.ssh import CommandResult
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

ROLES = Roles(("servers",), ("servers",), ("clients",))
INSTANCE = Instance("i-1", "clients", "running", "172.31.16.5", "127.31.16.5", "us-east-1a", "ami-1")


class LocalShell:
    """Stands in for a host's SSH connection: commands run here, in a folder that stands in for the host's root."""

    port = 22

    def __init__(self, root: Path) -> None:
        self.root, self.refusals = root, 0
        self.commands: list[tuple[str, bool]] = []

    def put(self, source: bytes, remote: str, *, mode: int, sudo: bool) -> None:
        if self.refusals:
            self.refusals -= 1
            raise HostError("127.31.16.5: connection refused")
        assert (mode, sudo) == (0o600, True)
        (self.root / remote.lstrip("/")).write_bytes(source)

    def run(self, command: str, *, timeout: float, check: bool, sudo: bool) -> CommandResult:
        self.commands.append((command, sudo))
        here = command.replace("/etc/", f"{self.root}/etc/")
        done = subprocess.run(["sh", "-c", here], capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            raise CommandFailed("127.31.16.5", command, done.returncode, done.stdout, done.stderr)
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def ensure(self, deadline: Deadline, *, interval: float = 0.2) -> None: ...


@pytest.fixture
def secrets(tmp_path: Path) -> RunSecrets:
    return RunSecrets.create(tmp_path / "secrets", Security(gossip_encryption=True, acl=True), region="us-east-1")


@pytest.fixture
def shell(tmp_path: Path) -> LocalShell:
    (tmp_path / "etc").mkdir()
    return LocalShell(tmp_path)


def host_of(shell: LocalShell, secrets: RunSecrets, address: str = "127.31.16.5") -> Host:
    host = Host(INSTANCE, address=address, ssh_user="admin", key_path=Path("no-such-key"), secrets=secrets)
    ssh: Any = shell
    host.ssh = ssh
    return host


def test_a_host_gets_its_files_in_a_folder_that_only_root_reads(shell: LocalShell, secrets: RunSecrets) -> None:
    deliver(secrets, ROLES, Deadline.after(30), host_of(shell, secrets))
    folder = shell.root / "etc/nomad-testkit"
    assert folder.stat().st_mode & 0o777 == 0o700
    files = {path.name: path for path in folder.iterdir()}
    assert {name: path.read_text() for name, path in files.items()} == dict(
        secrets.for_host(INSTANCE, "127.31.16.5", ROLES)
    )
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    assert [path.name for path in (shell.root / "etc").iterdir()] == ["nomad-testkit"]
    assert all(sudo for _, sudo in shell.commands)
    assert not any(value in command for command, _ in shell.commands for value in secrets.values.values())


def test_what_was_delivered_is_not_changed_any_more(shell: LocalShell, secrets: RunSecrets, tmp_path: Path) -> None:
    deliver(secrets, ROLES, Deadline.after(30), host_of(shell, secrets))
    other = RunSecrets.create(tmp_path / "other", Security(acl=True), region="us-east-1")
    deliver(other, ROLES, Deadline.after(30), host_of(shell, other))
    assert (shell.root / "etc/nomad-testkit/consul-agent.token").read_text() == secrets["consul-agent.token"]
    assert [path.name for path in (shell.root / "etc").iterdir()] == ["nomad-testkit"]


def test_a_host_that_lets_nobody_in_yet_is_tried_again(shell: LocalShell, secrets: RunSecrets) -> None:
    shell.refusals = 2
    deliver(secrets, ROLES, Deadline.after(30), host_of(shell, secrets))
    assert (shell.root / "etc/nomad-testkit").is_dir()


def test_a_delivery_that_fails_ends_at_its_deadline_and_says_why(
    shell: LocalShell, secrets: RunSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "SECONDS", 0.1)
    shell.refusals = 1000
    with pytest.raises(WaitTimeout, match=r"the run's secrets on i-1 \(127\.31\.16\.5\); last seen: .* refused"):
        deliver(secrets, ROLES, Deadline.after(3600), host_of(shell, secrets))


@pytest.fixture
def sshd(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a server on this machine greet as sshd does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        real, port = host_watch.answers, server.getsockname()[1]
        monkeypatch.setattr(host_watch, "answers", lambda address, ssh_port: real("127.0.0.1", port))

        def greet() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"SSH-2.0-x\r\n")

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.usefixtures("sshd")
def test_the_watch_prepares_each_host_once(shell: LocalShell, secrets: RunSecrets) -> None:
    prepared: list[str] = []
    watch = HostWatch(Deadline.after(30), lambda host: prepared.append(host.instance_id))
    watch.add(host_of(shell, secrets))
    wait_until("a look", lambda: Ok(None) if shell.commands else Pending("none"), deadline=Deadline.after(30))
    watch.stop()
    assert prepared == ["i-1"]
    assert watch.broken is None


@pytest.mark.usefixtures("sshd")
def test_a_host_that_cannot_be_prepared_is_broken(shell: LocalShell, secrets: RunSecrets) -> None:
    def prepare(host: Host) -> None:
        raise WaitTimeout("no room is left")

    watch = HostWatch(Deadline.after(30), prepare)
    watch.add(host_of(shell, secrets))
    broken = wait_until(
        "the end", lambda: Ok(watch.broken) if watch.broken else Pending("none"), deadline=Deadline.after(30)
    )
    assert broken == "host i-1 (127.31.16.5) in clients: no room is left"
    assert shell.commands == []
