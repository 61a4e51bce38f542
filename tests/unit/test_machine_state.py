"""What could be left behind is looked at while it still goes away."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from nomad_testkit.cli.bench import machine_state


def test_a_folder_that_vanishes_while_it_is_looked_at_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path))
    run, journal = tmp_path / "runs" / "nt-20261125-abcdef", tmp_path / "runs" / "other" / "journal.jsonl"
    for folder in (run, journal.parent):
        folder.mkdir(parents=True)
    journal.touch()
    scandir = os.scandir

    def scan(path: Any) -> Any:
        if Path(path) == run:
            run.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    found = [one for one in machine_state._files() if Path(one).is_relative_to(tmp_path)]
    assert sorted(found) == sorted(str(one) for one in (run, journal.parent, journal))
