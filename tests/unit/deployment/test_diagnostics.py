"""Evidence: what is collected, that secrets are masked, and that nothing stops it or makes it last."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nomad_testkit.deployment.evidence import collect, mask
from nomad_testkit.errors import AgentApiError, HostError
from nomad_testkit.modules.network import Instance
from nomad_testkit.runs.journal import Journal


class FakeHost:
    def __init__(self, instance_id: str) -> None:
        self.instance = Instance(instance_id, "servers", "running", "172.31.0.4", "", "us-east-1a", "ami-1")
        self.address = "127.31.0.4"
        self.consul = self.nomad = SimpleNamespace(get=self.get, autopilot_health=self.autopilot_health)

    def run(self, command: str, **_: object) -> Any:
        if command == "cat /var/log/user-data.log":
            return SimpleNamespace(status=1, stdout="", stderr="No such file or directory")
        return SimpleNamespace(status=0, stdout=f"$ {command}\n", stderr="")

    def hide(self, text: str) -> str:
        return text.replace("t0p", "(hidden)")

    def get(self, path: str, **params: str) -> Any:
        assert params == {"stale": "true"}, "without a leader only this very agent answers"
        return [path]

    def autopilot_health(self) -> Any:
        raise AgentApiError("consul", "/v1/operator/autopilot/health", 500, "No cluster leader")


class SilentHost(FakeHost):
    def run(self, command: str, **_: object) -> Any:
        raise HostError("127.31.0.4: connection refused")


def gathered(folder: Path, *hosts: FakeHost, console: str = "", lost: Any = lambda: None, **how: Any) -> Path:
    """Collect from hosts, in a target with a console where one is given."""
    if console or lost() is not None:
        how["target"] = SimpleNamespace(console=lambda instance: f"{console} {instance.instance_id}", lost=lost)
    return collect(hosts, folder / "evidence", **how)  # type: ignore[arg-type]


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_every_host_tells_everything(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.record("security group", "web")
    folder = gathered(tmp_path, FakeHost("i-1"), FakeHost("i-2"), console="console of", journal=journal)
    one = {name.removeprefix("servers-i-1/") for name in files(folder) if name.startswith("servers-i-1/")}
    assert one == {
        *("console.log", "cloud-init-output.log", "cloud-init.log", "units.txt", "user-data.log"),
        *("consul-api.json", "consul-config.json", "consul-journal.log"),
        *("nomad-api.json", "nomad-config.txt", "nomad-journal.log"),
    }
    assert "journal.jsonl" in files(folder)
    assert "incomplete.txt" not in files(folder)
    assert (folder / "servers-i-2" / "console.log").read_text() == "console of i-2"
    told = json.loads((folder / "servers-i-1" / "nomad-api.json").read_text())
    assert told["nodes"] == ["/v1/nodes"]
    assert "No cluster leader" in told["autopilot"]
    assert set(told) == {
        *("members", "peers", "leader", "autopilot", "nodes", "jobs", "evaluations", "allocations", "deployments")
    }
    consul = json.loads((folder / "servers-i-1" / "consul-api.json").read_text())
    assert set(consul) == {"members", "peers", "leader", "autopilot", "services", "nodes", "checks"}
    assert (folder / "servers-i-1" / "user-data.log").read_text() == "(No such file or directory)\n"
    assert json.loads((folder / "hosts.json").read_text())[1] == {
        "instance_id": "i-2",
        "group": "servers",
        "private_ip": "172.31.0.4",
        "address": "127.31.0.4",
        "folder": "servers-i-2",
    }


def test_a_hosts_own_secrets_are_hidden_wherever_they_stand(tmp_path: Path) -> None:
    host = FakeHost("i-1")
    host.run = lambda command, **_: SimpleNamespace(status=0, stdout=f"$ {command}: t0p\n")  # type: ignore[method-assign]
    host.consul = SimpleNamespace(get=lambda path, **_: {"seen": "t0p"})
    folder = gathered(tmp_path, host, console="login: t0p")
    texts = {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert {name for name, text in texts.items() if "t0p" in text} == set()
    assert {name for name, text in texts.items() if "(hidden)" in text} == set(texts) - {"nomad-api.json", "hosts.json"}


def test_what_cannot_be_had_is_listed_and_only_the_owner_reads_the_rest(tmp_path: Path) -> None:
    folder = gathered(tmp_path, SilentHost("i-1"), FakeHost("i-2"))
    missing = (folder / "incomplete.txt").read_text()
    assert "servers-i-1/nomad-journal.log: 127.31.0.4: connection refused" in missing
    assert (folder / "servers-i-2" / "nomad-journal.log").is_file()
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_hosts_that_are_lost_are_not_asked(tmp_path: Path) -> None:
    folder = gathered(tmp_path, SilentHost("i-1"), lost=lambda: "the cloud does not answer")
    assert (folder / "incomplete.txt").read_text() == "every host: the cloud does not answer\n"


def test_hosts_that_are_being_destroyed_are_not_logged_in_to(tmp_path: Path) -> None:
    folder = gathered(tmp_path, SilentHost("i-1"), console="Reached target Reboot", reachable=False)
    assert files(folder) == {"hosts.json", "servers-i-1/console.log"}


def test_a_target_that_never_answers_delays_nobody(tmp_path: Path, released: threading.Event) -> None:
    def lost() -> None:
        released.wait()
        raise RuntimeError("it answers after all, when nobody listens any more")

    folder = gathered(tmp_path, FakeHost("i-1"), console="login:", lost=lost, within=0.6)
    assert (folder / "servers-i-1" / "nomad-journal.log").is_file()


def test_a_host_that_hangs_delays_nobody(tmp_path: Path, released: threading.Event) -> None:
    hanging = FakeHost("i-1")
    hanging.run = lambda command, **_: released.wait() and SimpleNamespace(status=0, stdout="too late")  # type: ignore[method-assign]
    folder = gathered(tmp_path, hanging, FakeHost("i-2"), within=0.3)
    assert (folder / "servers-i-2" / "nomad-journal.log").is_file()
    assert "servers-i-1/nomad-journal.log: not collected in time" in (folder / "incomplete.txt").read_text()


def test_nothing_goes_on_when_the_time_is_up(tmp_path: Path) -> None:
    patience: list[float] = []
    late, begun = threading.Event(), threading.Event()

    class SlowHost(FakeHost):
        def run(self, command: str, **how: Any) -> Any:
            patience.append(how["timeout"])
            begun.set()
            late.wait(20)
            raise HostError("127.31.0.4: connection refused")

    gathered(tmp_path, SlowHost("i-1"), within=0.3)
    assert begun.is_set()
    asked = len(patience)
    threads = [one for one in threading.enumerate() if one.name == "nomad-testkit evidence"]
    late.set()
    for thread in threads:
        thread.join(20)
    assert len(patience) == asked, "no command was begun, or begun again, afterwards"
    assert max(patience) <= 0.3


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    collect([], tmp_path / "file" / "evidence")
    assert "evidence cannot be written" in caplog.text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('{"encrypt": "c2VjcmV0", "server": true}', '{"encrypt": "(hidden)", "server": true}'),
        ('token = "b1g"\nname = "x"', 'token = "(hidden)"\nname = "x"'),
        ("  AWS_SECRET_ACCESS_KEY=abc123 PATH=/bin", '  AWS_SECRET_ACCESS_KEY="(hidden)" PATH=/bin'),
        ('"SecretID": "123-abc"', '"SecretID": "(hidden)"'),
        ('{"tokens": {"default": "t0p"}}', '{"tokens": {"(hidden)"}}'),
        ('tokens {\n  agent = "t0p"\n}', 'tokens {"(hidden)"}'),
        ('"encrypt_verify_incoming": true', '"encrypt_verify_incoming": true'),
        (
            "x\n-----BEGIN EC PRIVATE KEY-----\nMHcC\nAQEE\n-----END EC PRIVATE KEY-----\ny",
            "x\n-----BEGIN EC PRIVATE KEY-----(hidden)-----END EC PRIVATE KEY-----\ny",
        ),
        ("-----BEGIN PRIVATE KEY-----\nMHcC\nAQ", "-----BEGIN PRIVATE KEY-----(hidden)"),
        ("-----BEGIN CERTIFICATE-----\nMHcC", "-----BEGIN CERTIFICATE-----\nMHcC"),
    ],
)
def test_secrets_are_masked(text: str, masked: str) -> None:
    assert mask(text) == masked
