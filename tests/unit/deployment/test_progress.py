"""Progress: what a boot looks like in terminals of all kinds, and what is left of it there."""

from __future__ import annotations

import io
import os
import re
import sys
from dataclasses import replace

import pytest
from fake_clock import Clock
from fake_clusters import FAKES, deployments_alone, log, run
from rich.console import Console
from terminals import FakeTerminal, terminal

from nomad_testkit.cluster.timeline import BOOTING, CONSUL_JOINED, NOMAD_READY, PENDING, USER_DATA
from nomad_testkit.deployment.boot import HEARTBEAT_SECONDS, Boot
from nomad_testkit.deployment.progress import LiveProgress, duplicate, live_progress, render, shown
from nomad_testkit.examples.example import Roles
from nomad_testkit.modules.network import Instance
from nomad_testkit.wait import Deadline

ROLES = Roles(("servers",), ("servers",), ("clients",))
SERVER = Instance("i-0123456789abcdef0", "servers", "running", "172.31.0.4", "127.31.0.4", "us-east-1a", "ami-1")
CLIENT = replace(SERVER, instance_id="i-0fedcba9876543210", group="clients", state="pending", private_ip="")


@pytest.fixture
def time() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def boot(time: Clock, said: list[str]) -> Boot:
    made = Boot("example as nt-1", Deadline.after(300, clock=time), say=said.append, roles=ROLES)
    made.expect({"servers": 1, "clients": 2})
    return made


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def drawn(boot: Boot, width: int, *, ascii_only: bool = False) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=False)
    console.print(render(boot.view(), width, ascii_only=ascii_only))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_each_host_has_a_line_with_its_phase_and_what_it_waits_for(boot: Boot, time: Clock) -> None:
    boot.see([CLIENT, SERVER])
    time.now += 4
    boot.enter(SERVER.instance_id, USER_DATA)
    time.now += 3
    boot.waits("hosts up", "1 of 1 servers, 0 of 2 clients are up")
    assert drawn(boot, 120) == [
        "example as nt-1: 7 s so far, at most 293 s more",
        "servers i-0123456789abcdef0 172.31.0.4 us-east-1a ━━━── user data 3 s waits for Consul to join",
        "clients i-0fedcba9876543210            us-east-1a ━──── pending   7 s waits for the instance to run",
        "1 of clients not launched yet",
        "waiting for hosts up: 1 of 1 servers, 0 of 2 clients are up",
    ]


def test_a_narrow_terminal_shows_the_most_important_in_whole_lines(boot: Boot, time: Clock) -> None:
    boot.see([CLIENT, SERVER])
    time.now += 7
    boot.waits("hosts up", "nothing\nwhatever " * 20)
    lines = drawn(boot, 40)
    assert max(map(len, lines)) <= 40
    assert lines[:4] == [
        "example as nt-1",
        "7 s so far, at most 293 s more",
        "i-0123456789abcdef0 booting 7 s",
        "i-0fedcba9876543210 pending 7 s",
    ]
    assert lines[-1].startswith("waiting for hosts up: nothing whatever")
    assert len(lines) == 6


def test_a_terminal_without_unicode_gets_letters_that_it_has(boot: Boot) -> None:
    boot.see([SERVER])
    assert "".join(drawn(boot, 80, ascii_only=True)).isascii()


def test_phases_that_nobody_saw_begin_with_the_one_that_was_seen(boot: Boot, time: Clock) -> None:
    boot.see([CLIENT])
    time.now += 2
    boot.see([replace(CLIENT, state="running", private_ip="172.31.0.5")])
    time.now += 5
    boot.enter_by_address(["172.31.0.5", "172.31.99.9"], NOMAD_READY)
    time.now += 1
    boot.enter(CLIENT.instance_id, USER_DATA)  # it has left that long ago
    (host,) = boot.timeline()
    assert dict(host.entered) == {PENDING: 0, BOOTING: 2, USER_DATA: 7, CONSUL_JOINED: 7, NOMAD_READY: 7}
    assert (host.private_ip, host.phase) == ("172.31.0.5", NOMAD_READY)


def test_hosts_are_ready_with_the_last_phase_of_their_group(time: Clock) -> None:
    roles = Roles(("consul",), ("nomad",), ("clients",))
    boot = Boot("x", Deadline.after(300, clock=time), say=lambda line: None, roles=roles)
    boot.see([replace(SERVER, group="consul"), replace(SERVER, instance_id="i-2", group="nomad")])
    time.now += 9
    boot.all_ready()
    assert [(row.host.group, row.host.phase, row.ready, row.phase_seconds) for row in boot.view().rows] == [
        ("consul", CONSUL_JOINED, True, 9),
        ("nomad", NOMAD_READY, True, 9),
    ]
    assert [row.awaited for row in boot.view().rows] == ["", ""]


def test_an_instance_that_is_replaced_meanwhile_says_so(boot: Boot, time: Clock) -> None:
    boot.see([SERVER])
    time.now += 5
    boot.see([replace(SERVER, state="terminated"), replace(SERVER, instance_id="i-2", private_ip="172.31.0.6")])
    lines = drawn(boot, 120)
    assert "servers i-0123456789abcdef0 172.31.0.4 us-east-1a ━━─── terminated 5 s" in lines
    assert "servers i-2                 172.31.0.6 us-east-1a ━━─── booting    0 s waits for sshd" in lines


def test_a_log_gets_a_line_a_phase_and_one_when_nothing_changes(boot: Boot, time: Clock, said: list[str]) -> None:
    for seen in ("0 of 3", "1 of 3", "2 of 3"):
        time.now += 3
        boot.waits("hosts up", seen)
    assert said == []
    time.now += HEARTBEAT_SECONDS
    boot.waits("hosts up", "2 of 3")
    boot.waits("hosts up", "2 of 3")
    time.now += 1
    with shown(said.append, boot):  # any function can take the lines
        assert boot.ended("hosts up") == 25
    assert said == [" 24.0 s  waiting for hosts up, at most 276 s more: 2 of 3", " 25.0 s  hosts up"]


def test_the_live_area_vanishes_when_all_went_well(boot: Boot) -> None:
    with terminal() as screen, live_progress(screen.file) as progress:
        progress("deploying")
        boot.see([SERVER])
        with shown(progress, boot):
            assert boot.is_shown
            progress("  3.1 s  hosts up")
        progress("[red]done[/red] :smile:")
        lines = screen.close()
    assert b"servers" in screen.raw
    assert lines == [
        "nomad_testkit: deploying",
        "nomad_testkit:   3.1 s  hosts up",
        "nomad_testkit: [red]done[/red] :smile:",
    ]
    assert not screen.hid_its_cursor
    assert not boot.is_shown


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_last_state_stays_when_it_failed(boot: Boot, error: type[BaseException]) -> None:
    with terminal() as screen, live_progress(screen.file) as progress:
        boot.see([SERVER])
        boot.waits("Consul leader", "nobody answers")
        with pytest.raises(error), shown(progress, boot):
            raise error
        progress("destroyed")
        lines = screen.close()
    assert lines[0].startswith("example as nt-1: ")
    assert lines[1].startswith("servers i-0123456789abcdef0 172.31.0.4")
    assert lines[-2:] == ["waiting for Consul leader: nobody answers", "nomad_testkit: destroyed"]
    assert not screen.hid_its_cursor


def test_what_is_printed_meanwhile_stands_above_it(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal() as screen, live_progress(screen.file) as progress:
        monkeypatch.setattr(sys, "stderr", screen.file)
        boot.see([SERVER])
        with shown(progress, boot):
            print("a warning", file=sys.stderr)
        print("after it", file=sys.stderr)
        lines = screen.close()
    assert lines == ["a warning", "after it"]
    assert b"servers" in screen.raw


@pytest.mark.parametrize(("variable", "value"), [("TERM", "dumb"), ("TERM", "unknown"), ("CI", "true")])
def test_lines_alone_where_nothing_can_be_live(
    boot: Boot, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with terminal() as screen, live_progress(screen.file) as progress:
        with shown(progress, boot):
            assert not boot.is_shown
            progress("hosts up")
        screen.close()
    assert screen.raw == b"nomad_testkit: hosts up\r\n"


def test_no_color_means_none(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert colors(boot, color=True) == set()
    monkeypatch.delenv("NO_COLOR")
    assert colors(boot, color=False) == set()
    assert colors(boot, color=True) == {b"33"}  # yellow, for one that boots


def colors(boot: Boot, *, color: bool) -> set[bytes]:
    """Draw a boot once, and tell the numbers of the colors that are in it."""
    boot.see([SERVER])
    with terminal() as screen, live_progress(screen.file, color=color) as progress:
        with shown(progress, boot):
            pass
        screen.close()
    codes = re.findall(rb"\x1b\[([\d;]*)m", screen.raw)
    return {one for code in codes for one in code.split(b";") if len(one) == 2 and one[:1] == b"3"}


@pytest.mark.parametrize("forced", ["FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"])
def test_a_file_is_no_terminal_whatever_the_environment_says(
    boot: Boot, monkeypatch: pytest.MonkeyPatch, forced: str
) -> None:
    monkeypatch.setenv(forced, "1")
    file = io.StringIO()
    with live_progress(file) as progress, shown(progress, boot):
        progress("hosts up")
    assert file.getvalue() == "nomad_testkit: hosts up\n"


def test_quiet_shows_only_how_to_reach_what_is_left_up(boot: Boot) -> None:
    with terminal() as screen, live_progress(screen.file, quiet=True) as progress:
        with shown(progress, boot):
            progress("hosts up")
        progress("# nt-1 is left up\nexport NOMAD_ADDR=x")
        lines = screen.close()
    assert lines == ["# nt-1 is left up", "export NOMAD_ADDR=x"]


def test_a_terminal_that_goes_away_disturbs_nobody(boot: Boot) -> None:
    screen = FakeTerminal()
    file = duplicate(screen.file)
    assert file is not None
    progress = LiveProgress(lambda line: None, lambda: file)
    with shown(progress, boot):
        boot.see([SERVER])
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, file.fileno())
        os.close(full)
        progress("hosts up")
    screen.close()


LIVE = """
@pytest.fixture(scope="session")
def nomad_example():
    replace()
    from nomad_testkit.deployment import lifecycle
    from nomad_testkit.deployment.boot import Boot
    from nomad_testkit.modules.network import Instance
    from nomad_testkit.deployment.progress import shown
    from nomad_testkit.wait import Deadline

    plain = lifecycle.deployed

    @contextmanager
    def deployed(settings, example, *, target, progress):
        boot = Boot("example as nt-1", Deadline.after(300), say=progress, roles=example.roles)
        with shown(progress, boot):
            boot.see([Instance("i-1", "servers", "running", "172.31.0.4", "", "us-east-1a", "ami-1")])
            print("said in the set-up")
            boot.ended("hosts up")
            if "FAIL_DEPLOYMENT" in os.environ:
                raise KeyboardInterrupt
        with plain(settings, example, target=target, progress=progress) as cluster:
            yield cluster
        progress("destroyed")

    lifecycle.deployed = deployed
    return FakeExample()
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    deployments_alone(pytester, monkeypatch)
    pytester.makeconftest(FAKES + LIVE)
    pytester.makepyfile(test_some="def test_first(): pass\n\ndef test_uses_it(nomad_cluster): print('said in it')")
    return pytester


PYTEST = [sys.executable, "-m", "pytest", "-p", "nomad_testkit.plugin", "-p", "no:cacheprovider"]


@pytest.mark.parametrize("capture", ["fd", "no"])
def test_pytest_shows_it_live_and_captures_as_before(project: pytest.Pytester, capture: str) -> None:
    with terminal(columns=120) as screen:
        status = screen.run([*PYTEST, f"--capture={capture}", "-rP"], project.path)
        lines = screen.close()
    assert status == 0
    assert b"servers" in screen.raw
    assert not any("servers" in line for line in lines)
    assert any(line.startswith("nomad_testkit: ") and line.endswith("s  hosts up") for line in lines)
    assert not screen.hid_its_cursor
    assert "nomad_testkit: destroyed" in lines, "not behind the dots"
    captured = lines.index("said in the set-up") > lines.index("test_some.py .") + 3
    assert captured == (capture != "no")


def test_ctrl_c_leaves_the_terminal_in_order(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL_DEPLOYMENT", "1")
    with terminal(columns=120) as screen:
        status = screen.run(PYTEST, project.path)
        lines = screen.close()
    assert status == pytest.ExitCode.INTERRUPTED
    assert sum("servers i-1" in line for line in lines) == 1
    assert any("KeyboardInterrupt" in line for line in lines)
    assert not screen.hid_its_cursor


def test_pytest_that_is_quiet_or_reports_nothing_works(project: pytest.Pytester) -> None:
    assert run(project, "-p", "no:terminal").outlines == []
    result = run(project, "-q")
    assert result.ret == 0
    assert "nomad_testkit" not in result.stdout.str()
    assert log(project) == ["open", "deploy", "destroy", "close"] * 2


def test_records_of_a_live_log_do_not_meet_the_live_area(project: pytest.Pytester) -> None:
    with terminal(columns=120) as screen:
        assert screen.run([*PYTEST, "--log-cli-level=INFO"], project.path) == 0
        lines = screen.close()
    assert b"servers" not in screen.raw
    assert any(line.endswith("s  hosts up") for line in lines)
