"""The life of a cluster: plan, apply, wait until it is ready, lend it, destroy it and prove that nothing is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nomad_testkit.cluster import Cluster

if TYPE_CHECKING:
    from nomad_testkit.examples import Example
    from nomad_testkit.model import Progress
    from nomad_testkit.settings import Settings
    from nomad_testkit.targets.base import Target


@contextmanager
def deployed(settings: Settings, example: Example, *, target: Target, progress: Progress) -> Iterator[Cluster]:
    """Deploy an example, lend the cluster that it makes, and destroy it.

    Raises DeployError, BrokenError and WaitTimeout when it does not get ready, with a note that names the folder
    with the evidence, and TeardownError when something is left.
    """
    raise NotImplementedError
    yield
