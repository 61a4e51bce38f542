"""What a failing test shows: the cause first, its own lines and none of the plugin's; and all of it in JUnit XML."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET

import pytest
from fake_clusters import FAKES, deployments_alone, log, run

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


PAUSED = """
def test_fails(nomad_cluster):
    assert nomad_cluster is None

def test_unrelated():
    raise RuntimeError("unrelated")

def test_later(nomad_cluster):
    pass
"""


@pytest.mark.parametrize(("key", "passed"), [(b"\n", 1), (b"d\n", 0), (b"", 1)])
def test_a_failing_test_is_held_with_its_cluster_until_a_key_is_pressed(
    key: bytes, passed: int, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployments_alone(pytester, monkeypatch)
    pytester.makeconftest(FAKES)
    pytester.makepyfile(test_some=PAUSED)
    command = (sys.executable, "-m", "pytest", "-p", "nomad_testkit.plugin", "-p", "no:cacheprovider", "--nomad-pause")
    result = pytester.run(*command, stdin=key, timeout=60)
    text = result.stdout.str()
    assert text.count("Enter goes on; d and Enter destroys it") == 1
    assert "test_some.py::test_fails failed, and nt-20260101-abcdef is up" in text
    assert text.count("nomad-testkit shell nt-20260101-abcdef") == 1
    result.assert_outcomes(failed=2 if passed else 1, passed=passed)
    assert log(pytester) == ["open", "deploy", "destroy", "close"]
    refused = run(pytester, "--nomad-pause", "-n", "2")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*option --nomad-pause: found -n 2, expected tests in one process*"])


def test_github_gets_an_annotation_for_each_cause_and_a_summary(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployments_alone(pytester, monkeypatch)
    pytester.makeconftest(FAKES)
    pytester.makepyfile(test_some=PAUSED)
    monkeypatch.setenv("FAIL_DEPLOYMENT", "1")
    assert "::error" not in run(pytester).stdout.str()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    lines = [line for line in run(pytester).outlines if line.startswith("::error")]
    assert lines == [
        "::error file=test_some.py,line=4,title=test_some.py%3A%3Atest_unrelated::RuntimeError: unrelated",
        "::error file=test_some.py,line=1,title=test_some.py%3A%3Atest_fails::host i-1: unit consul failed",
    ]
    assert (pytester.path / "summary.md").read_text() == (
        "### nomad_testkit: 1 failed, 2 error\n\n| test | cause |\n|---|---|\n"
        "| `test_some.py::test_unrelated` | RuntimeError: unrelated |\n"
        "| `test_some.py::test_fails` | host i-1: unit consul failed |\n"
    )
