"""What tests of deployments share: an account, and a run in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto_account import RunInAccount, moto_account

from nomad_testkit.deployment import apply as applying
from nomad_testkit.runs.journal import Journal
from nomad_testkit.targets.aws import errors


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, journal: Journal) -> Iterator[RunInAccount]:
    """A run in moto's account, where nothing has to be given time."""
    for module in (errors, applying):
        monkeypatch.setattr(module, "INTERVAL", 0.0)
    with moto_account(monkeypatch) as client:
        yield RunInAccount(client, journal)
