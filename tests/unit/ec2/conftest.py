"""What tests of the embedded EC2 share: a cloud's API on fake machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from api_lab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    from api_lab import cloud_lab  # which imports moto

    with cloud_lab() as served:
        yield served
