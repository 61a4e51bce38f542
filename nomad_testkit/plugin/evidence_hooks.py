"""What a failing test's report shows of its cluster, whether it failed in its set-up, itself or in its teardown."""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nomad_testkit.errors import TestkitError, headline, said
from nomad_testkit.plugin import told_once
from nomad_testkit.plugin.session import SHARING, usable_settings

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster

_CLUSTER = "nomad_cluster"
_began = pytest.StashKey[float]()
"""When the set-up of the test that runs began, or when the cluster that it had to wait for was ready."""
_current = pytest.StashKey[Any]()
"""The value of the fixture, while it is there."""
_tellers = pytest.StashKey[dict[str, str]]()
"""Which test tells of each reason, where no worker has anything in common with others."""
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
    """Remember the cluster, and that the test begins only now that it is there; mark an error that many will raise."""
    __tracebackhide__ = True
    before = _CLUSTER in _definitions(request)
    try:
        value = yield
    except Exception as error:
        told_once.mark(error, fixturedef.argname)
        raise
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
    """Put the verdict, what the evidence has to say of it and where the evidence is on a failing test's report.

    What our own errors say is all that there is to say: none of the plugin's code is shown below the user's.
    """
    has_users_code = told_once.hide_internals(call, item.config)
    report = yield
    if not report.failed or call.excinfo is None:
        return report
    error = call.excinfo.value
    shared = told_once.shared_failure(error)
    if shared is not None and (teller := _teller(item, shared[1])) != item.nodeid:
        report.longrepr = told_once.message(f"{shared[0]}: see {teller}")
        return report
    alone = not has_users_code or (shared is not None and told_once.is_ours(error))
    told = _evidence_section(item, error, with_verdict=alone) or ""
    if alone:
        report.longrepr = told_once.message(told or _shown(said(error)), headline=_shown(headline(error)))
        return report
    if isinstance(error, TestkitError):
        told_once.with_headline(report.longrepr, _shown(headline(error)))
    add: Callable[[str, str], None] | None = getattr(report.longrepr, "addsection", None)
    if told and add is not None:  # so that it is in JUnit XML too
        add(told_once.SECTION, told)
    elif told:
        report.sections.append((told_once.SECTION, told))
    return report


def _teller(item: pytest.Item, reason: str) -> str:
    """Name the test that tells of a failure which several have."""
    sharing = item.config.stash.get(SHARING, None)
    if sharing is not None:
        return sharing.teller(reason, item.nodeid)
    return item.config.stash.setdefault(_tellers, {}).setdefault(reason, item.nodeid)


def _shown(text: str) -> str:
    from nomad_testkit.cluster.secrets import hide_all
    from nomad_testkit.deployment.evidence import mask

    return mask(hide_all(text))


def _evidence_section(item: pytest.Item, error: BaseException, *, with_verdict: bool) -> str | None:
    """Tell what there is to tell; a cluster that is still there is asked, one that could not be made has been."""
    cluster = cluster_of(item)
    if cluster is None and "evidence of " not in said(error):
        return None  # nothing to do with clusters, so nothing is imported for it
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.deployment.evidence import EVIDENCE_NOTE
    from nomad_testkit.report.failure_section import Window, section

    window = Window(item.config.stash.get(_began, 0.0), time.time())
    if noted := EVIDENCE_NOTE.search(said(error)):
        return section(Path(noted[1]), error, window, with_verdict=with_verdict)
    if cluster is None:
        return None
    if not isinstance(cluster, Cluster):
        return "no evidence: nomad_cluster is overridden by something that is no Cluster"
    told = section(_collect(item, cluster), error, window, with_verdict=with_verdict)
    return told if cluster.secrets is None else cluster.secrets.hide(told)


def cluster_of(item: pytest.Item) -> Any:
    """Give the cluster that a test has used, however it got it, while it is there; else None."""
    return item.config.stash.get(_current, None) if _uses_the_cluster(item) else None


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
