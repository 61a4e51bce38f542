"""What the tests of Packer's images share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nomad_testkit.deployment.amis import default_template

PROVISIONERS = "  # A fresh instance is reachable"
"""What stands in the bundled template before its provisioners."""


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A copy of the bundled template without its provisioners: its image is Debian's, and has no agents."""
    folder = tmp_path / "template"
    shutil.copytree(default_template(), folder)
    file = folder / "nomad-consul.pkr.hcl"
    kept, found, _ = file.read_text().partition(PROVISIONERS)
    assert found
    file.write_text(kept + "}\n")
    return folder
