"""What tests without hosts share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from aws_user import be_a_user, models_read_once


@pytest.fixture
def aws_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    be_a_user(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def models_are_read_once() -> Iterator[None]:
    with models_read_once():
        yield
