"""A host: lazy clients, what systemd says of units, and the journal, without a connection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nomad_testkit.cluster.host import Host, UnitState
from nomad_testkit.cluster.secrets import RunSecrets
from nomad_testkit.errors import CommandFailed, HostError
from nomad_testkit.examples.security import Security
from nomad_testkit.modules.network import Instance
from nomad_testkit.ssh import CommandResult

INSTANCE = Instance("i-1", "servers", "running", "172.31.16.5", "127.31.16.5", "us-east-1a", "ami-1")

PROPERTIES = ("ActiveState", "SubState", "Result", "ExecMainStatus", "NRestarts", "ActiveEnterTimestampMonotonic")


def shown(*values: str) -> str:
    """Show a unit's properties, in an order of systemd's own."""
    return "".join(sorted(f"{name}={value}\n" for name, value in zip(PROPERTIES, values, strict=True)))


RUNNING = shown("active", "running", "success", "0", "0", "9500000")
FAILED = shown("failed", "failed", "exit-code", "203", "5", "0")
UPTIME = "100.00 150.00\n"


class Scripted:
    """Stands in for a host's SSH connection: one output for every command."""

    status = 0

    def __init__(self, stdout: str) -> None:
        self.stdout = stdout
        self.commands: list[tuple[str, bool]] = []

    def run(self, command: str, *, timeout: float, check: bool, sudo: bool) -> CommandResult:
        self.commands.append((command, sudo))
        if check and self.status != 0:
            raise CommandFailed("127.31.16.5", command, self.status, self.stdout, "")
        return CommandResult(self.status, self.stdout, "")

    def close(self) -> None:
        self.commands.append(("close", False))


def host(stdout: str = "", **options: Any) -> tuple[Host, Scripted]:
    made = Host(INSTANCE, address="127.31.16.5", ssh_user="admin", key_path=Path("no-such-key"), **options)
    script: Any = Scripted(stdout)
    made.ssh = script
    return made, script


def test_names_and_addresses() -> None:
    made, _ = host()
    assert str(made) == "i-1 (127.31.16.5)"
    assert repr(made) == "<Host i-1 (127.31.16.5) in servers>"
    assert (made.instance_id, made.private_ip) == ("i-1", "172.31.16.5")


def test_clients_go_to_the_address_and_not_to_another_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMAD_ADDR", "http://203.0.113.1:1")
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "http://203.0.113.1:1")
    made, _ = host()
    assert made.nomad.address == "http://127.31.16.5:4646"
    assert made.consul.address == "http://127.31.16.5:8500"
    assert made.nomad is made.nomad


def test_clients_of_a_cluster_with_secrets_use_them(tmp_path: Path) -> None:
    secrets = RunSecrets.create(tmp_path / "secrets", Security(tls=True, acl=True), region="us-east-1")
    made, _ = host(secrets=secrets)
    assert made.nomad.address == "https://127.31.16.5:4646"
    assert made.consul.address == "https://127.31.16.5:8501"


def test_what_a_host_says_shows_no_secret(tmp_path: Path) -> None:
    secrets = RunSecrets.create(tmp_path / "secrets", Security(acl=True), region="us-east-1")
    token = secrets["nomad-management.token"]
    made, script = host(f"token {token}\n", secrets=secrets)
    assert made.journal("nomad") == "token (hidden)\n"
    assert made.run("cat token").stdout == f"token {token}\n"  # asked for, and not shown to anyone
    script.status = 1
    with pytest.raises(CommandFailed) as caught:
        made.run(f"login {token}")
    assert str(caught.value) == "127.31.16.5: `login (hidden)` ended with status 1: token (hidden)"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_clients_come_back_after_they_were_closed() -> None:
    made, script = host()
    first = made.nomad
    made.close()
    assert script.commands == [("close", False)]
    assert made.nomad is not first


def test_a_host_that_comes_back_elsewhere_is_reached_there() -> None:
    made = Host(INSTANCE, address="127.31.16.5", ssh_user="admin", key_path=Path("no-such-key"), ssh_port=2222)
    before, client = made.ssh, made.nomad
    made.move(INSTANCE, "127.31.16.5")
    assert (made.ssh is before, made.nomad is client) == (True, True)
    elsewhere = replace(INSTANCE, public_ip="203.0.113.2")
    made.move(elsewhere, "203.0.113.2")
    assert (str(made), made.instance) == ("i-1 (203.0.113.2)", elsewhere)
    assert (made.ssh.address, made.ssh.user, made.ssh.port) == ("203.0.113.2", "admin", 2222)
    assert made.nomad.address == "http://203.0.113.2:4646"


def test_unit_states_come_from_one_command_in_the_order_asked() -> None:
    made, script = host(f"{RUNNING}\n{FAILED}\n{UPTIME}")
    assert made.unit_states("consul", "nomad") == (
        UnitState("consul", "active", "running", "success", 0, 0, 90.5),
        UnitState("nomad", "failed", "failed", "exit-code", 203, 5),
    )
    command = f"systemctl show -p {','.join(PROPERTIES)} consul nomad && echo && cat /proc/uptime"
    assert script.commands == [(command, False)]


def test_one_units_state() -> None:
    made, _ = host(f"{FAILED}\n{UPTIME}")
    state = made.unit_state("nomad")
    assert state.failed
    assert str(state) == "nomad is failed (failed), result exit-code, exit status 203, restarted 5 times"


def test_an_answer_of_systemctl_that_lacks_a_unit_is_refused() -> None:
    made, _ = host("Failed to connect to bus\n")
    with pytest.raises(HostError, match=r"i-1 .*: systemctl told 0 states for units consul nomad: 'Failed"):
        made.unit_states("consul", "nomad")


def test_the_journal_is_read_as_root_and_names_are_quoted() -> None:
    made, script = host("line\n")
    assert made.journal("consul; reboot", lines=3) == "line\n"
    assert script.commands == [("journalctl -u 'consul; reboot' --no-pager -o cat -n 3", True)]
