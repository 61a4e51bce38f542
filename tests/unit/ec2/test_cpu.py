"""CPU-seconds by owner, read from a folder that looks like /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nomad_testkit.cli.bench.deploy import since
from nomad_testkit.ec2.cpu import ENDED, cpu_by_owner

TICKS = os.sysconf("SC_CLK_TCK")


def put(folder: Path, comm: str, own: int, reaped: int = 0) -> None:
    """Write the stat of a process or thread that has used `own` seconds, and its reaped children `reaped`."""
    folder.mkdir(parents=True)
    (folder / "stat").write_text(f"1 ({comm}) S {' '.join('0' * 10)} {own * TICKS} 0 {reaped * TICKS} 0 20 0 1")


@pytest.mark.parametrize(
    ("comm", "expected"),
    [
        ("consul", {"agents: consul": 5}),
        ("nomad", {"agents: nomad": 5}),
        ("systemd", {"hosts: systemd": 2, ENDED: 3}),
        ("systemd-journal", {"hosts: systemd": 2, ENDED: 3}),
        ("systemd-nspawn", {"cloud: systemd-nspawn": 5}),
        ("sshd", {"hosts: sshd": 5}),
        ("a) S (b", {"other processes": 5}),
    ],
)
def test_a_process_belongs_to_whom_its_name_says(tmp_path: Path, comm: str, expected: dict[str, float]) -> None:
    put(tmp_path / "7", comm, 2, 3)
    assert cpu_by_owner(tmp_path, cloud=1, threads={}) == expected


def test_the_clouds_own_process_is_split_by_thread(tmp_path: Path) -> None:
    put(tmp_path / "1", "python3", 10, 4)
    for thread, seconds in ((1, 1), (2, 2), (3, 3), (4, 1)):
        put(tmp_path / "1/task" / str(thread), "python3", seconds)
    names = {1: "MainThread", 2: "machine i-1", 3: "machine i-2", 4: "Thread-9 (process_request_thread)"}
    assert cpu_by_owner(tmp_path, cloud=1, threads=names) == {
        "cloud: MainThread": 1,
        "cloud: machines' threads": 5,
        "cloud: requests' threads": 1,
        "cloud: ended threads": 3,
        "cloud: its commands, ended": 4,
    }


def test_reads_the_real_proc() -> None:
    assert sum(cpu_by_owner().values()) > 0


def test_only_what_a_deployment_used_itself_counts() -> None:
    assert since({"a": 2.0, "gone": 1.0, "less": 3.0}, {"a": 5.0, "new": 1.0, "less": 1.0}) == {
        "a": 3.0,
        "new": 1.0,
        "less": 0.0,
    }
