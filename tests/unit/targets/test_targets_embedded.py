"""What a machine lacks is told all at once, each with its remedy, before anything is made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nomad_testkit.errors import PreflightError
from nomad_testkit.images.cache import Cache
from nomad_testkit.settings import Settings
from nomad_testkit.targets.embedded.target import EmbeddedTarget, preflight


def test_all_that_is_missing_is_listed_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    listed = "\n".join(str(one) for one in preflight(Settings(), Cache(tmp_path / "cache")))
    for what, remedy in (
        ("systemd-nspawn", "apt-get install systemd-container"),
        ("nft", "apt-get install nftables"),
        ("mmdebstrap", "apt-get install mmdebstrap"),
        ("root", "run as root, for example with sudo"),
    ):
        assert any(what in line and remedy in line for line in listed.splitlines()), listed


def test_nothing_is_made_on_a_machine_that_lacks_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NOMAD_TESTKIT_CACHE", str(tmp_path / "cache"))
    with (
        pytest.raises(PreflightError, match=r"(?s)systemd-nspawn.*apt-get install systemd-container"),
        EmbeddedTarget.open(Settings(), progress=print),
    ):
        pass
    assert not (tmp_path / "cache").exists()


def test_a_cluster_that_the_memory_cannot_hold_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text
    memory = "MemTotal:        2000000 kB\nMemAvailable:    1638400 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda path: memory if str(path) == "/proc/meminfo" else read(path))
    assert EmbeddedTarget.most_hosts(None) == 20  # type: ignore[arg-type]
