"""What the fixtures give that deploy clusters of a test's own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from nomad_testkit import Cluster, Example

Deploy = Callable[..., AbstractContextManager[Cluster]]
Variant = Callable[..., Example]
