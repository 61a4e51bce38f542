"""The time limit of suites: what ends in time is not touched, what does not is interrupted, and then killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

LIMIT = Path(__file__).parents[1] / "support" / "time_limit.py"
PATIENT = """
import os, sys, time
from pathlib import Path
try:
    Path(sys.argv[1]).write_text(str(os.getpid()))
    time.sleep(600)
except KeyboardInterrupt:
    print("cleaned up", flush=True)
    sys.exit(7)
"""
DEAF = PATIENT.replace("import os,", "import signal; signal.signal(2, signal.SIG_IGN)\nimport os,")


def limited(program: str, folder: Path, *, seconds: float = 600, grace: float = 60, prefix: str = "") -> list[str]:
    """The command that runs a program, which writes its process id to a file, under a limit."""
    inner = [sys.executable, "-c", program, str(folder / "pid")]
    code = (
        f"{prefix}import sys; from time_limit import Limited; sys.exit(Limited({inner}, grace={grace}).wait({seconds}))"
    )
    return [sys.executable, "-c", code]


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(LIMIT.parent)},
    )


def pid_in(folder: Path) -> int:
    """Wait until the program runs, and give its process."""
    path = folder / "pid"

    def probe() -> Ok[int] | Pending:
        return Ok(int(text)) if path.exists() and (text := path.read_text()) else Pending("no process yet")

    return wait_until("the program to run", probe, deadline=Deadline.after(60))


def await_gone(pid: int) -> None:
    def probe() -> Ok[None] | Pending:
        try:
            ended = ") Z " in Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            ended = True
        return Ok(None) if ended else Pending("it runs")

    wait_until("the program to end", probe, deadline=Deadline.after(60))


@pytest.mark.parametrize(("code", "expected"), [("pass", 0), ("raise SystemExit(3)", 3)])
def test_the_status_is_the_commands(code: str, expected: int) -> None:
    limited = [sys.executable, str(LIMIT), "60", sys.executable, "-c", code]
    assert subprocess.run(limited, check=False).returncode == expected


@pytest.mark.parametrize(
    ("program", "grace", "said"),
    [(PATIENT, 60, "its 5 s are up: interrupting"), (DEAF, 0.5, "it does not end; killing it")],
)
def test_a_command_whose_time_is_up_is_interrupted_and_killed_where_it_does_not_hear(
    tmp_path: Path, program: str, grace: float, said: str
) -> None:
    process = start(limited(program, tmp_path, seconds=5, grace=grace))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 124
    assert said in output
    assert output.endswith("cleaned up\n") == (program == PATIENT)
    await_gone(pid_in(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("prefix", ["", "import signal; signal.signal(2, signal.SIG_IGN); "])
def test_a_signal_is_passed_on_once_as_an_interrupt(number: signal.Signals, prefix: str, tmp_path: Path) -> None:
    process = start(limited(PATIENT, tmp_path, prefix=prefix))
    pid_in(tmp_path)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (7, "cleaned up\n")


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    command = limited(PATIENT, tmp_path)
    starter = start([sys.executable, "-c", f"import subprocess; subprocess.Popen({command}).wait()"])
    pid = pid_in(tmp_path)
    starter.kill()
    said, _ = starter.communicate(timeout=60)
    assert "whoever started this has ended: interrupting" in said
    assert said.endswith("cleaned up\n")
    await_gone(pid)


def test_killed_it_takes_the_command_with_it(tmp_path: Path) -> None:
    process = start(limited(PATIENT, tmp_path))
    pid = pid_in(tmp_path)
    process.kill()
    process.wait()
    await_gone(pid)
    process.communicate(timeout=60)


def test_a_command_cleans_up_though_nobody_reads_it_any_more(tmp_path: Path) -> None:
    program = PATIENT + "finally:\n    Path(sys.argv[1] + '-cleaned').touch()\n"
    process = start(limited(program.replace("sys.exit(7)", "print('still', flush=True)"), tmp_path))
    pid = pid_in(tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    await_gone(pid)
    assert (tmp_path / "pid-cleaned").exists()


@pytest.mark.parametrize(("left", "said"), [(-1, "no time is left: not running"), (5, "interrupting")])
def test_all_suites_have_one_end(left: float, said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(LIMIT), "600", sys.executable, "-c", PATIENT, str(tmp_path / "pid")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "SUITES_END": str(time.time() + left)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 124
    assert said in done.stdout
    assert (tmp_path / "pid").exists() == (left > 0)
