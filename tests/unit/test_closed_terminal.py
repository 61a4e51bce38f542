"""A terminal that is closed ends a deployment as SIGTERM does, and what is said then goes nowhere."""

from __future__ import annotations

import os
import pty
import signal
import sys
from pathlib import Path

import pytest

# It says something during its teardown, to the terminal and to a duplicate of it, as pytest does.
DEPLOYMENT = """
import os, signal, sys, time
from pathlib import Path
from nomad_testkit.deployment.interrupts import deferred, termination_raises

done, how = Path(sys.argv[1]), sys.argv[2]
if how == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
other = os.fdopen(os.dup(1), "w")
try:
    with termination_raises():
        if how == "tearing down":
            try:
                with deferred(print):
                    print("up", flush=True)
                    for _ in range(6000):
                        if done.with_name("closed").exists():
                            break
                        time.sleep(0.01)
                    print("destroying", file=other, flush=True)
                    done.write_text("whole")
            except KeyboardInterrupt as error:
                done.write_text(f"whole, then {error}")
        else:
            print("up", flush=True)
            while not (how == "nohup" and done.with_name("closed").exists()):
                time.sleep(0.01)
            done.write_text("lived on")
except KeyboardInterrupt as error:
    print("destroying", flush=True)
    print("destroying", file=other, flush=True)
    done.write_text(f"destroyed after {error}")
"""


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ("running", "destroyed after SIGHUP"),
        ("tearing down", "whole, then SIGHUP"),
        ("nohup", "lived on"),
    ],
)
def test_a_closed_terminal_destroys_what_is_up(tmp_path: Path, how: str, end: str) -> None:
    done = tmp_path / "done"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", DEPLOYMENT, str(done), how])
    said = b""
    try:
        while b"up\r\n" not in said:
            said += os.read(terminal, 1000)
    finally:
        os.close(terminal)
    (tmp_path / "closed").touch()
    assert os.waitpid(pid, 0)[1] == 0
    assert done.read_text() == end


def test_a_terminal_that_is_open_keeps_what_is_said(tmp_path: Path) -> None:
    done = tmp_path / "done"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", DEPLOYMENT, str(done), "running"])
    said = b""
    while b"up\r\n" not in said:
        said += os.read(terminal, 1000)
    os.kill(pid, signal.SIGHUP)  # as `kill -HUP` does
    while said.count(b"destroying") < 2:
        said += os.read(terminal, 1000)
    os.waitpid(pid, 0)
    os.close(terminal)
    assert done.read_text() == "destroyed after SIGHUP"
