"""What the doctor says of a machine's limits, and of a program that PATH lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_testkit import setup
from nomad_testkit.cli import doctor


@pytest.mark.parametrize(
    ("most", "state", "hosts"), [("128", doctor.FOUND, 32), ("36", doctor.FOUND, 9), ("35", doctor.MISSING, 8)]
)
def test_inotify_instances_say_how_many_hosts_fit(tmp_path: Path, most: str, state: str, hosts: int) -> None:
    file = tmp_path / "max_user_instances"
    file.write_text(f"{most}\n")
    found = doctor.inotify(file)
    assert (found.state, found.where) == (state, f"{most}, enough for about {hosts} hosts on this machine")
    assert bool(found.fix) == (state == doctor.MISSING)


@pytest.mark.parametrize(("least", "state"), [(1, doctor.FOUND), (2**62, doctor.MISSING)])
def test_free_space_of_a_folder_that_is_still_to_be_made(tmp_path: Path, least: int, state: str) -> None:
    assert doctor.free_space(tmp_path / "not" / "yet", least).state == state


def test_a_program_that_path_lacks_is_missing_as_for_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sbin" / "nft"
    monkeypatch.setattr(setup, "find_program", lambda _: str(program))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = doctor._package(setup.Need("nftables", program="nft"))
    assert (found.state, found.fix, found.package) == (doctor.MISSING, f"add {program.parent} to PATH", "")
