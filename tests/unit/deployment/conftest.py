"""What tests of deployments share: an account, and a run in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nomad_testkit.runs.journal import Journal

if TYPE_CHECKING:
    from moto_account import RunInAccount


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, journal: Journal) -> Iterator[RunInAccount]:
    """A run in moto's account, where nothing has to be given time."""
    from moto_account import RunInAccount, moto_account

    for module in ("nomad_testkit.deployment.apply", "nomad_testkit.targets.aws.errors"):
        monkeypatch.setattr(f"{module}.INTERVAL", 0.0)
    with moto_account(monkeypatch) as client:
        yield RunInAccount(client, journal)
