"""What tests of the embedded EC2 share: a cloud's API on fake machines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api_lab import Lab, cloud_lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with cloud_lab() as served:
        yield served
