from __future__ import annotations

from pathlib import Path

import pytest

from nomad_testkit.errors import TestkitError
from nomad_testkit.modules import bundle


def test_finds_the_examples_and_fixtures_of_a_checkout() -> None:
    assert (bundle.examples_dir() / "nomad-consul-colocated-cluster" / "example.toml").is_file()
    assert (bundle.fixtures_dir() / "jobs").is_dir()


def test_looks_into_the_package_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "nomad_testkit"
    (package / "_bundled" / "examples").mkdir(parents=True)
    (tmp_path / "examples").mkdir()
    monkeypatch.setattr(bundle, "_PACKAGE", package)
    assert bundle.examples_dir() == package / "_bundled" / "examples"
    with pytest.raises(TestkitError, match="has no fixtures"):
        bundle.fixtures_dir()


def test_lists_the_host_scripts_with_what_they_share() -> None:
    names = {path.name for path in bundle.host_scripts()}
    assert {"install_consul.py", "install_nomad.py", "run_consul.py", "run_nomad.py", "host_commons.py"} <= names
