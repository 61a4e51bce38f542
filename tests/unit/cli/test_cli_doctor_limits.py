"""What the doctor says of a machine's limits, and of a program that PATH lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_testkit import setup
from nomad_testkit.cli import doctor
from nomad_testkit.targets.base import Room


@pytest.mark.parametrize(("hosts", "state"), [(9, doctor.FOUND), (8, doctor.MISSING)])
def test_a_limit_says_how_many_hosts_fit(hosts: int, state: str) -> None:
    found = doctor.hosts_that_fit("memory", Room(hosts, "memory left (640 MiB)", "free memory"))
    where = f"enough for about {hosts} more hosts: memory left (640 MiB)"
    assert (found.state, found.where) == (state, where)
    assert found.fix == ("free memory" if state == doctor.MISSING else "")


def test_a_limit_that_cannot_be_read_is_no_reason_to_stop() -> None:
    found = doctor.hosts_that_fit("memory", None)
    assert (found.state, found.optional) == (doctor.MISSING, True)


def test_every_limit_is_looked_at() -> None:
    assert [one.what for one in doctor._limits()][:2] == ["memory", "fs.inotify.max_user_instances"]
    assert sum(one.what.startswith("free space in ") for one in doctor._limits()) == 3


@pytest.mark.parametrize(("least", "state"), [(1, doctor.FOUND), (2**62, doctor.MISSING)])
def test_free_space_of_a_folder_that_is_still_to_be_made(tmp_path: Path, least: int, state: str) -> None:
    assert doctor.free_space(tmp_path / "not" / "yet", least).state == state


def test_a_program_that_path_lacks_is_missing_as_for_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sbin" / "nft"
    monkeypatch.setattr(setup, "find_program", lambda _: str(program))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = doctor._package(setup.Need("nftables", program="nft"))
    assert (found.state, found.fix, found.package) == (doctor.MISSING, f"add {program.parent} to PATH", "")
