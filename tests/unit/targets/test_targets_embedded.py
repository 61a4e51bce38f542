"""What a machine lacks is told all at once, each with its remedy, before anything is made."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nomad_testkit.errors import PreflightError
from nomad_testkit.images.cache import Cache
from nomad_testkit.settings import Settings
from nomad_testkit.targets.embedded import image_builder, room
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


MEMORY = "MemTotal:        2000000 kB\nMemAvailable:    1638400 kB\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Give a function that says what the machine has of memory and of inotify instances, of which none are in use."""

    def has(memory: str, inotify: str) -> None:
        for name, text in (("MEMORY", memory), ("INOTIFY", inotify)):
            (tmp_path / name).write_text(text)
            monkeypatch.setattr(room, name, tmp_path / name)
        monkeypatch.setattr(room, "inotify_in_use", lambda: 6)

    return has


@pytest.mark.parametrize(
    ("memory", "inotify", "hosts", "limit"),
    [
        (MEMORY, "128\n", 20, "memory left (1600 MiB, of which a host takes 80)"),
        (MEMORY, "36\n", 7, "fs.inotify.max_user_instances is 36, 6 are in use, a host takes 4"),
        (MEMORY, "5\n", 0, "fs.inotify.max_user_instances is 5, 6 are in use"),
        ("", "128\n", 30, "fs.inotify.max_user_instances is 128"),
    ],
)
def test_the_limit_that_is_reached_first_says_how_many_hosts_fit(
    machine: Callable[[str, str], None], memory: str, inotify: str, hosts: int, limit: str
) -> None:
    machine(memory, inotify)
    found = EmbeddedTarget.most_hosts(None)  # type: ignore[arg-type]
    assert found is not None
    assert found.hosts == hosts
    assert limit in found.limit


def test_a_machine_without_these_files_sets_no_limit(machine: Callable[[str, str], None], tmp_path: Path) -> None:
    machine("", "many")
    assert EmbeddedTarget.most_hosts(None) is None  # type: ignore[arg-type]
    for name in ("MEMORY", "INOTIFY"):
        (tmp_path / name).unlink()
    assert EmbeddedTarget.most_hosts(None) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("memory", "inotify", "what"),
    [
        ("MemAvailable: 81919 kB\n", "128", "room for a single host: memory left (80 MiB"),
        (MEMORY, "9", "room for a single host: inotify instances left"),
    ],
)
def test_nothing_starts_where_not_one_host_fits(
    machine: Callable[[str, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    memory: str,
    inotify: str,
    what: str,
) -> None:
    machine(memory, inotify)
    monkeypatch.setenv("NOMAD_TESTKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_builder, "base", lambda *_: pytest.fail("it began"))
    with (
        pytest.raises(PreflightError, match=re.escape(what)),
        EmbeddedTarget.open(Settings(), progress=print),
    ):
        pass


def test_a_disk_that_is_full_is_named_with_what_would_be_written_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(room, "free_bytes", lambda path: 2**40 if path.name == "artifacts" else 10 * 2**20)
    listed = "\n".join(
        str(one) for one in preflight(Settings(artifacts=tmp_path / "artifacts"), Cache(tmp_path / "cache"))
    )
    assert f"64 MiB free for runs in {tmp_path / 'state'}, found 10 MiB: free some there" in listed
    assert f"1024 MiB free for images in {tmp_path / 'cache'}, found 10 MiB" in listed
    assert "evidence" not in listed


def test_the_inotify_instances_of_this_machine_are_counted() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    before, made = room.inotify_in_use(), [libc.inotify_init1(os.O_CLOEXEC) for _ in range(40)]
    try:
        assert min(made) >= 0
        assert room.inotify_in_use() > before + 20  # others come and go
    finally:
        for descriptor in made:
            os.close(descriptor)


def test_those_of_hosts_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid in ("7", "8"):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "fd/3").symlink_to("anon_inode:inotify")
    monkeypatch.setattr(room, "_PROCESSES", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    monkeypatch.setattr(room, "is_of_a_host", lambda owner: owner == os.getuid())
    assert room.inotify_in_use() == 2
    monkeypatch.setattr(room, "is_of_a_host", lambda owner: False)
    assert room.inotify_in_use() == 0
