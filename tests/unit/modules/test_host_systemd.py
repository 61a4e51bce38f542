"""Units: their text, their start, and what is said where they do not start."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fake_host import FakeClock, FakeHost
from host_commons import HostFault, Waiting
from host_systemd import Host, render_environment, run_script, start_unit, wait_for_agent, word, write_file, write_unit

UNIT = "consul.service"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def test_words_of_a_command_line_are_quoted_for_systemd() -> None:
    assert word("/opt/consul/bin/consul") == "/opt/consul/bin/consul"
    assert word("/opt/my consul/50%/$x") == '"/opt/my consul/50%%/$$x"'
    assert word('a"b\\c') == '"a\\"b\\\\c"'


def test_an_environment_file_keeps_every_value(tmp_path: Path) -> None:
    values = [("PLAIN", "x"), ("HARD", "a \"b\" $HOME `id` \\ 100% 'c'\nsecond line")]
    path = tmp_path / "env"
    path.write_text(render_environment(values))
    # systemd's quoting here is the shell's, so the shell tells.
    script = f'. {path}; printf "%s|%s" "$PLAIN" "$HARD"'
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown == "|".join(value for _, value in values)


def test_a_file_is_never_readable_by_others_and_tells_of_a_change(host: FakeHost, tmp_path: Path) -> None:
    path = tmp_path / "default.json"
    assert write_file(host, path, "one", mode=0o640, user="consul")
    assert not write_file(host, path, "one", mode=0o640, user="consul")
    assert write_file(host, path, "two", mode=0o640, user="consul")
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith("default.json")] == ["default.json"]


def test_the_environment_is_not_in_the_unit_but_in_a_file_of_roots(host: FakeHost) -> None:
    assert write_unit(host, UNIT, "[Unit]\n", [("TOKEN", "hidden")])
    assert not write_unit(host, UNIT, "[Unit]\n", [("TOKEN", "hidden")])
    assert write_unit(host, UNIT, "[Unit]\n", [("TOKEN", "other")])
    secret = host.environment_dir / "run-consul"
    assert secret.read_text() == 'TOKEN="other"\n'
    assert secret.stat().st_mode & 0o777 == 0o600
    assert host.owners["run-consul.new"] == "root"
    write_unit(host, UNIT, "[Unit]\n", [])
    assert not secret.exists()


def show(active: str, sub: str) -> tuple[int, str]:
    return 0, f"ActiveState={active}\nSubState={sub}"


@pytest.mark.parametrize(
    ("active", "sub", "changed", "expected"),
    [
        ("inactive", "dead", True, ["start"]),
        ("inactive", "dead", False, ["start"]),
        ("active", "running", True, ["restart"]),
        ("active", "running", False, []),
        ("activating", "start", True, ["restart"]),
        ("activating", "start", False, ["start"]),
        ("failed", "failed", True, ["reset-failed", "start"]),
        ("activating", "auto-restart", False, ["reset-failed", "start"]),
    ],
)
def test_starts_or_restarts_a_unit(host: FakeHost, active: str, sub: str, changed: bool, expected: list[str]) -> None:
    host.answers["systemctl show"] = show(active, sub)
    start_unit(host, UNIT, changed=changed)
    done = [one for one in host.commands if "show" not in one and "enable" not in one]
    assert done == [f"systemctl {verb} consul.service" for verb in expected]
    assert host.ran("systemctl enable consul.service")


def test_a_unit_that_does_not_start_is_explained_by_its_journal(host: FakeHost) -> None:
    host.answers["systemctl start"] = (1, "Job for consul.service failed.")
    host.answers["journalctl"] = (0, "==> failed to bind to 172.31.16.5:8301: address already in use")
    with pytest.raises(HostFault) as caught:
        start_unit(host, UNIT, changed=True)
    assert str(caught.value) == (
        "consul.service does not start: Job for consul.service failed.\n"
        "Last lines of `journalctl -u consul.service`:\n"
        "==> failed to bind to 172.31.16.5:8301: address already in use"
    )


def test_a_start_that_takes_too_long_is_explained_by_its_journal_too(host: FakeHost) -> None:
    def hang() -> tuple[int, str]:
        raise HostFault("`systemctl start consul.service` has not ended after 330 s")

    host.answers["systemctl start"] = hang
    host.answers["journalctl"] = (0, "Join cluster failed, will retry: No servers to join")
    with pytest.raises(HostFault, match=r"(?s)has not ended after 330 s.*No servers to join"):
        start_unit(host, UNIT, changed=True)


def test_waiting_for_an_agent_ends_when_its_unit_has_failed_or_at_its_deadline(host: FakeHost) -> None:
    def probe() -> None:
        raise Waiting("no leader")

    host.answers["systemctl show"] = show("activating", "auto-restart")
    host.answers["journalctl"] = (0, "Error: port 4646 is taken")
    with pytest.raises(HostFault, match=r"(?s)^nomad.service has failed\n.*port 4646 is taken"):
        wait_for_agent(host, "nomad.service", "Nomad", probe, 180)
    assert isinstance(host.clock, FakeClock)
    assert host.clock.time - 1000 < 3
    host.answers["systemctl show"] = show("active", "running")
    with pytest.raises(HostFault, match="gave up after 20 s of waiting for Nomad: no leader"):
        wait_for_agent(host, "nomad.service", "Nomad", probe, 20)


def test_a_fault_is_status_1_and_in_the_units_journal(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise HostFault("the agent refuses\nits configuration")

    assert run_script(UNIT, host, work) == 1
    assert "error: the agent refuses\nits configuration" in capsys.readouterr().err
    assert host.journaled == [(UNIT, "the agent refuses\nits configuration")]


def test_a_fault_of_the_machine_and_another_user_are_told(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script(UNIT, host, lambda: Path("/nonexistent/default.json").write_text("")) == 1  # type: ignore[arg-type]
    assert "error: /nonexistent/default.json: No such file or directory" in capsys.readouterr().err
    host.root = False
    assert run_script(UNIT, host, lambda: pytest.fail("worked")) == 1
    assert "must be run as root" in capsys.readouterr().err


def test_a_program_that_hangs_or_is_missing_is_a_fault() -> None:
    with pytest.raises(HostFault, match="`sleep 100` has not ended after 0 s"):
        Host().run(["sleep", "100"], seconds=0.01)
    with pytest.raises(HostFault, match="`/nonexistent` cannot be run: No such file"):
        Host().run(["/nonexistent"])
    assert Host().run(["sh", "-c", "echo out; echo err >&2; exit 3"]) == (3, "out\nerr")
