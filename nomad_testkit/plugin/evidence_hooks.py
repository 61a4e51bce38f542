"""What a failing test's report shows of its cluster, whether it failed in its set-up, itself or in its teardown."""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nomad_testkit.errors import said
from nomad_testkit.plugin.session import usable_settings

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster

_CLUSTER = "nomad_cluster"
_began = pytest.StashKey[float]()
"""When the set-up of the test that runs began, or when the cluster that it had to wait for was ready."""
_current = pytest.StashKey[Any]()
"""The value of the fixture, while it is there."""
_users = pytest.StashKey["weakref.WeakSet[pytest.FixtureDef[Any]]"]()
"""The fixtures that have asked for it, by an argument or by `getfixturevalue`, when they were set up."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember when a test began."""
    item.config.stash[_began] = time.time()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Remember the cluster, and that the test begins only now that it is there."""
    before = _CLUSTER in _definitions(request)
    value = yield
    if not before and _CLUSTER in _definitions(request):
        request.config.stash.setdefault(_users, weakref.WeakSet()).add(fixturedef)
    if fixturedef.argname == _CLUSTER:
        request.config.stash[_current] = value
        request.config.stash[_began] = time.time()
    return value


def pytest_fixture_post_finalizer(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """Forget a cluster that has been torn down."""
    if fixturedef.argname == _CLUSTER:
        request.config.stash[_current] = None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the verdict, what the evidence has to say of it and where the evidence is on a failing test's report."""
    report = yield
    if report.failed and call.excinfo is not None and (section := _evidence_section(item, call.excinfo.value)):
        report.sections.append(("nomad_testkit", section))
    return report


def _evidence_section(item: pytest.Item, error: BaseException) -> str | None:
    """Tell what there is to tell; a cluster that is still there is asked, one that could not be made has been."""
    cluster = item.config.stash.get(_current, None) if _uses_the_cluster(item) else None
    if cluster is None and "evidence of " not in said(error):
        return None  # nothing to do with clusters, so nothing is imported for it
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.deployment.evidence import EVIDENCE_NOTE
    from nomad_testkit.report.failure_section import Window, section

    window = Window(item.config.stash.get(_began, 0.0), time.time())
    if noted := EVIDENCE_NOTE.search(said(error)):
        return section(Path(noted[1]), error, window)
    if cluster is None:
        return None
    if not isinstance(cluster, Cluster):
        return "no evidence: nomad_cluster is overridden by something that is no Cluster"
    told = section(_collect(item, cluster), error, window)
    return told if cluster.secrets is None else cluster.secrets.hide(told)


def _uses_the_cluster(item: pytest.Item) -> bool:
    """Tell whether a test has really asked for the cluster, by itself or by a fixture, however: its arguments name
    neither what `getfixturevalue` got nor what the steps of pytest-bdd take.
    """
    definitions = _definitions(getattr(item, "_request", None))
    users = item.config.stash.get(_users, ())
    return _CLUSTER in definitions or any(one in users for one in definitions.values())


def _definitions(request: Any) -> Mapping[str, pytest.FixtureDef[Any]]:
    """Give the fixtures that a test has asked for so far, by their names; pytest tells them nowhere in public."""
    return getattr(request, "_fixture_defs", None) or {}


def _collect(item: pytest.Item, cluster: Cluster) -> Path:
    from nomad_testkit.deployment import evidence
    from nomad_testkit.runs.run import Run

    settings = usable_settings(item.config)
    folder = settings.artifacts / cluster.run_id / re.sub(r"[^\w.-]+", "-", item.nodeid)[-120:].strip("-.")
    journal = next((run.journal for run in Run.every() if run.run_id == cluster.run_id), None)
    return evidence.collect(cluster.hosts, folder, target=cluster.target, journal=journal)
