"""A cache on a disk that is really full."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nomad_testkit.errors import CacheError
from nomad_testkit.images.cache import Cache


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_it_is_told_with_the_remedy_and_nothing_half_made_stays(small_disk: Path) -> None:
    cache = Cache(small_disk)

    def make(folder: Path) -> None:
        (folder / "binary").write_bytes(bytes(4 * 2**20))

    told = rf"the disk is full.*{re.escape(str(small_disk))}, which has \d+ bytes free.*NOMAD_TESTKIT_CACHE"
    with pytest.raises(CacheError, match=told):
        cache.get("agents", {"name": "consul"}, make)
    assert [path for path in small_disk.rglob("*") if path.is_file() and path.stat().st_size] == []
    assert cache.find("agents", {"name": "consul"}) is None

    made = cache.get("agents", {"name": "consul"}, lambda folder: (folder / "binary").write_text("small") and None)
    assert (made / "binary").read_text() == "small"
