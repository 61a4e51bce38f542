"""What tests without hosts share; boto3 and moto are imported only where a test asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from account_run import AccountTarget


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AccountTarget]:
    from account_run import account_of_its_own

    with account_of_its_own(monkeypatch, tmp_path) as made:
        yield made


@pytest.fixture
def aws_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from aws_user import be_a_user

    be_a_user(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def models_are_read_once() -> Iterator[None]:
    from aws_user import models_read_once

    with models_read_once():
        yield
