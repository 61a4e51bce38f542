"""Holds a failing test while its cluster is up, for a person to look into it: --nomad-pause, and beside --pdb."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from nomad_testkit.plugin.evidence_hooks import cluster_of
from nomad_testkit.plugin.session import SETTINGS, begin_line
from nomad_testkit.settings import Settings

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster

_QUESTION = "Enter goes on; d and Enter destroys it and ends the run: "


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Refuse to hold tests in workers, which have no terminal."""
    settings = config.stash[SETTINGS]
    if isinstance(settings, Settings) and settings.pause and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError(
            f"{settings.source('pause')}: found -n {config.option.numprocesses}, expected tests in one process: its "
            "workers have no terminal; leave out one of the two"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_exception_interact(node: Any, call: pytest.CallInfo[Any], report: pytest.TestReport) -> None:
    """Say how to enter the cluster of a test that failed, and hold it there until a key is pressed."""
    config: pytest.Config = node.config
    settings = config.stash[SETTINGS]
    pauses = isinstance(settings, Settings) and settings.pause
    if not isinstance(node, pytest.Item) or not (pauses or config.getoption("usepdb", False)):
        return
    cluster = cluster_of(node)
    if cluster is None or not hasattr(cluster, "run_id"):
        return
    reporter = config.pluginmanager.getplugin("terminalreporter")
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend(in_=True)
    try:
        begin_line(reporter)
        for line in ways_in(node.nodeid, cluster):
            reporter.write_line(line)
        reporter.flush()
        if pauses and asks_to_end():
            node.session.shouldstop = "the run was ended at a failing test"
    finally:
        if capture is not None:
            capture.resume()


def ways_in(test: str, cluster: Cluster) -> Sequence[str]:
    """Say how another terminal enters the hosts and the APIs of a cluster."""
    from nomad_testkit.cluster.discovery import group_names

    run_id = cluster.run_id
    names = group_names([(host.instance_id, host.instance.group) for host in cluster.hosts])
    hosts = [f"  nomad-testkit ssh --name {run_id} {names[host.instance_id]}  # {host}" for host in cluster.hosts]
    return [
        f"nomad_testkit: {test} failed, and {run_id} is up; in another terminal:",
        f"  nomad-testkit status {run_id}",
        *hosts,
        f'  eval "$(nomad-testkit env --name {run_id})"  # for nomad, consul and aws',
        f"  nomad-testkit ui --name {run_id}  # the addresses of the APIs' pages",
        f"  nomad-testkit shell {run_id}  # Python with nomad_cluster in it",
    ]


def asks_to_end() -> bool:
    """Wait for a key of the user; whether it ends the run. A standard input that has ended goes on."""
    print(_QUESTION, end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("d", "q")
