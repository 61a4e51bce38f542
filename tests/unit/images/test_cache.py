"""The cache: made once, whole or not at all, proven before use."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from nomad_testkit.errors import CacheError
from nomad_testkit.images.cache import Cache

KEY = {"name": "consul", "version": "1.14.0"}


class Maker:
    """Fills an entry, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, content: Path) -> None:
        self.calls += 1
        (content / "bin").mkdir()
        (content / "bin" / "agent").write_bytes(b"x" * 1000)
        (content / "link").symlink_to("nowhere")
        os.mkfifo(content / "pipe")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def maker() -> Maker:
    return Maker()


def test_an_entry_is_made_once(cache: Cache, maker: Maker) -> None:
    assert cache.find("agents", KEY) is None
    first = cache.get("agents", KEY, maker)
    assert cache.get("agents", KEY, maker) == first == cache.find("agents", KEY)
    assert (first / "bin" / "agent").read_bytes() == b"x" * 1000
    assert maker.calls == 1
    assert first.name == "content"
    assert first.parent.name.startswith("consul-1.14.0-")
    assert first.parent.parent == cache.root / "agents"


def test_another_key_is_another_entry_whatever_its_order(cache: Cache, maker: Maker) -> None:
    assert cache.get("agents", KEY, maker) == cache.get("agents", dict(reversed(KEY.items())), maker)
    assert cache.get("agents", KEY, maker) != cache.get("agents", {**KEY, "version": "1.14.1"}, maker)
    # The same words under other names are told apart too.
    assert cache.get("agents", {"a": "x-y"}, maker) != cache.get("agents", {"a": "x", "b": "y"}, maker)
    assert maker.calls == 4


def test_content_is_passable_for_other_users_whatever_the_umask(cache: Cache, maker: Maker) -> None:
    before = os.umask(0o077)
    try:
        content = cache.get("agents", KEY, maker)
    finally:
        os.umask(before)
    assert stat.S_IMODE(content.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("truncate -s 999 bin/agent", "bin/agent has 999 bytes, made with 1000"),
        ("rm bin/agent", "bin/agent is missing"),
        ("rm link; echo a file > link", "link has type -, made with l"),
        ("truncate -s 5 ../manifest.json", "its manifest cannot be read"),
    ],
)
def test_a_damaged_entry_is_made_again(
    cache: Cache, maker: Maker, caplog: pytest.LogCaptureFixture, damage: str, told: str
) -> None:
    content = cache.get("agents", KEY, maker)
    subprocess.run(["sh", "-c", damage], cwd=content, check=True)
    with caplog.at_level(logging.WARNING):
        assert cache.find("agents", KEY) is None
        assert cache.get("agents", KEY, maker) == content
    assert told in caplog.text
    assert maker.calls == 2
    assert (content / "bin" / "agent").read_bytes() == b"x" * 1000
    assert (content / "link").is_symlink()
    assert_nothing_half_made(cache)


def assert_nothing_half_made(cache: Cache) -> None:
    assert list(cache.root.rglob("*.tmp")) == []


def test_a_maker_that_fails_leaves_nothing_and_a_full_disk_names_the_folder(cache: Cache) -> None:
    def fill(content: Path) -> None:
        (content / "half").write_text("half")
        with Path("/dev/full").open("w") as file:
            file.write("x")

    def fail(content: Path) -> None:
        (content / "half").write_text("half")
        raise FileNotFoundError("mmdebstrap")

    full = rf"the disk is full.*{cache.root}, which has \d+ bytes free.*NOMAD_TESTKIT_CACHE"
    # A maker's error is its own: only the cache's own trouble is a CacheError.
    for make, error, match in ((fill, CacheError, full), (fail, FileNotFoundError, "mmdebstrap")):
        with pytest.raises(error, match=match):
            cache.get("agents", KEY, make)
        assert cache.find("agents", KEY) is None
        assert_nothing_half_made(cache)


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path, maker: Maker) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"file cannot be used.*name another folder in \$NOMAD_TESTKIT_CACHE"):
        Cache(tmp_path / "file").get("agents", KEY, maker)


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_CACHE", str(tmp_path / "named"))
    assert Cache().root == tmp_path / "named"
    monkeypatch.delenv("NOMAD_TESTKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Cache().root == tmp_path / "xdg" / "nomad-testkit"


def test_two_at_once_make_one(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    making, go_on = threading.Event(), threading.Event()
    maker = Maker()

    def make_slowly(content: Path) -> None:
        making.set()
        assert go_on.wait(10)
        maker(content)

    class GoOnWhenOneWaits(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "another run is making" in record.getMessage():
                go_on.set()

    results: list[Path] = []
    first = threading.Thread(target=lambda: results.append(cache.get("agents", KEY, make_slowly)))
    second = threading.Thread(target=lambda: results.append(Cache(cache.root).get("agents", KEY, maker)))
    handler = GoOnWhenOneWaits()
    logger = logging.getLogger("nomad_testkit.images.cache")
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, logger=logger.name):
            first.start()
            assert making.wait(10)
            second.start()
            first.join(10)
            second.join(10)
    finally:
        logger.removeHandler(handler)
    assert len(results) == 2
    assert results[0] == results[1]
    assert maker.calls == 1


def test_what_a_killed_run_left_is_removed_by_the_next_get(cache: Cache, maker: Maker) -> None:
    killed = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from nomad_testkit.images.cache import Cache

        def make(content):
            (content / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

        Cache(Path(sys.argv[1])).get("agents", {"name": "dies"}, make)
        """
    )
    ended = subprocess.run([sys.executable, "-c", killed, str(cache.root)], check=False, timeout=30)
    assert ended.returncode == -9
    assert len(list(cache.root.rglob("*.tmp"))) == 1
    # Another entry's: whoever comes next tidies up.
    cache.get("agents", KEY, maker)
    assert_nothing_half_made(cache)


def test_what_a_living_run_is_making_stays(cache: Cache, maker: Maker) -> None:
    def make(content: Path) -> None:
        cache.get("agents", {"name": "inner"}, maker)
        (content / "still").write_text("here")

    assert (cache.get("agents", KEY, make) / "still").read_text() == "here"
