"""The host scripts run on a host's own Python, which may be as old as 3.8."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nomad_testkit.faults import delay_packets
from nomad_testkit.modules.bundle import host_scripts

ON_HOSTS = [*host_scripts(), Path(delay_packets.__file__)]


def vermin(*paths: Path) -> subprocess.CompletedProcess[str]:
    # Annotations are not evaluated (`from __future__ import annotations`), so they may be newer.
    options = ["--target=3.8-", "--no-eval-annotations", "--no-parse-comments", "--no-tips", "--violations"]
    return subprocess.run(
        [sys.executable, "-c", "import vermin; vermin.main()", *options, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("path", ON_HOSTS, ids=lambda path: path.name)
def test_a_host_script_needs_no_newer_python(path: Path) -> None:
    ended = vermin(path)
    assert ended.returncode == 0, ended.stdout


def test_what_is_newer_is_found(tmp_path: Path) -> None:
    (tmp_path / "newer.py").write_text("print('x'.removeprefix('x'))\n")
    ended = vermin(tmp_path / "newer.py")
    assert ended.returncode != 0
    assert "removeprefix" in ended.stdout
