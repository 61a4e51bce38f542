"""Destroying what a run created, by tag and by journal, and proving that nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nomad_testkit.journal import Journal
    from nomad_testkit.model import Progress
    from nomad_testkit.wait import Deadline


def sweep(
    client: Callable[[str], Any],
    run_id: str,
    journal: Journal | None,
    *,
    deadline: Deadline,
    progress: Progress | None = None,
) -> list[str]:
    """Destroy everything that bears the run's tag. Raises TeardownError."""
    raise NotImplementedError
