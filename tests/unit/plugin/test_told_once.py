"""What a failing test shows: the cause first, its own lines and none of the plugin's; and all of it in JUnit XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from fake_clusters import FAKES, deployments_alone, run

TESTS = """
import pytest
from nomad_testkit.checks import NodesReady
from nomad_testkit.errors import UsageError

def refused(nomad_cluster):
    nomad_cluster.submitted("wbe.nomad.hcl").__enter__()

def test_file(nomad_cluster, monkeypatch):
    from nomad_testkit.cluster.cluster import Cluster
    monkeypatch.setattr(Cluster, "nomad", None)
    refused(nomad_cluster)

def test_class(nomad_cluster):
    nomad_cluster.require(NodesReady)

def test_check(nomad_cluster):
    nomad_cluster.require(NodesReady(2), within=0)

@pytest.fixture
def broken(nomad_cluster):
    raise RuntimeError("my own")

def test_fixture(broken):
    pass
"""


def test_errors_show_the_users_lines_and_begin_with_their_cause(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployments_alone(pytester, monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    pytester.makeconftest(FAKES)
    pytester.makepyfile(test_some=TESTS)
    result = run(pytester, "--nomad-artifacts", "evidence", "--junitxml", "junit.xml")
    result.assert_outcomes(failed=3, errors=1)
    head, _, summary = result.stdout.str().partition("= short test summary info =")
    for line in (
        '>       nomad_cluster.submitted("wbe.nomad.hcl").__enter__()',
        ">       nomad_cluster.require(NodesReady)",
        ">       nomad_cluster.require(NodesReady(2), within=0)",
        '>       raise RuntimeError("my own")',
    ):
        assert line in head, head
    assert "/nomad_testkit/" not in head
    assert "direct cause" not in head
    for line in (
        "FAILED test_some.py::test_file - no job file wbe.nomad.hcl: ",
        "FAILED test_some.py::test_class - require(NodesReady): expected a check, found its class",
        "FAILED test_some.py::test_check - NodesReady(count=2): ",
    ):
        assert line in summary, summary

    cases = {case.get("name"): case for case in ET.parse(pytester.path / "junit.xml").iter("testcase")}
    failure = cases["test_check"].find("failure")
    assert failure is not None
    assert str(failure.get("message")).startswith("NodesReady(count=2): ")
    assert "wanted: " in str(failure.text)
    assert "evidence: " in str(failure.text)

    whole = run(pytester, "--full-trace", "-k", "test_class").stdout.str()
    assert "nomad_testkit/cluster/cluster.py" in whole
