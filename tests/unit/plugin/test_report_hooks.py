"""What pytest writes with --nomad-report: in one process and by workers, when it fails, when it is interrupted."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_clusters import deployments_alone, run

from nomad_testkit.report.history.store import RunHistory

if TYPE_CHECKING:
    from bs4 import BeautifulSoup

CONFTEST = """
import os
import time

import pytest
from made_reports import SECRET, check, cluster_events, instance

from nomad_testkit.events import ClusterEvent, FaultEvent, emit

@pytest.fixture(scope="session")
def nomad_cluster(tmp_path_factory):
    from nomad_testkit.cluster.secrets import RunSecrets

    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw9")
    run_id = f"nt-20260101-00000{worker[2]}"
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "nomad-management.token").write_text(SECRET)
    RunSecrets.load(folder)
    events = cluster_events(run_id, at=time.time(), servers=1, clients=1)
    emit(events[0])
    if os.environ.get("FAIL"):
        emit(ClusterEvent(run_id, "failed", {"error": f"unit consul failed with {SECRET}"}))
        raise RuntimeError("unit consul failed")
    if os.environ.get("INTERRUPT") == "deployment":
        raise KeyboardInterrupt
    for event in events[1:4]:
        emit(event)
    cluster = type("FakeCluster", (), {"run_id": run_id})()
    yield cluster
    emit(events[4])
"""
TESTS = """
import os
import time

import pytest
from made_reports import SECRET, check, instance

from nomad_testkit.events import FaultEvent, emit

def test_forms(nomad_cluster, record_property):
    record_property("token", SECRET)
    seen = f"leader is {instance(1)}, by {SECRET}"
    emit(check(nomad_cluster.run_id, "Leader", "one leader", seen, began=time.time()))

def test_heals(nomad_cluster):
    now = time.time()
    emit(FaultEvent(nomad_cluster.run_id, f"kill nomad on {instance(1)}", now - 9, now - 2, 1.0))
    emit(check(nomad_cluster.run_id, "LeaderReelected nomad", "a new leader", "led", began=now - 8, seconds=2.0))

def test_fails(nomad_cluster):
    how = {"held": False, "began": time.time(), "seconds": 60.0}
    emit(check(nomad_cluster.run_id, "RaftPeers", "3 <b>peers</b>", "1 peer", **how))
    assert SECRET == "<script>alert(1)</script>"

@pytest.mark.skip(reason="no second region")
def test_skipped():
    pass

@pytest.mark.xfail(reason="known")
def test_known():
    assert False

def test_unrelated():
    if os.environ.get("INTERRUPT") == "test":
        raise KeyboardInterrupt
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    deployments_alone(pytester, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "support"))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=TESTS)
    return pytester


def page(project: pytest.Pytester, name: str = "report.html") -> BeautifulSoup:
    from bs4 import BeautifulSoup

    path = project.path / name
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.glob(f".{path.name}*")] == []
    return BeautifulSoup(path.read_text(), "html5lib")


def text(found: BeautifulSoup) -> str:
    return re.sub(r"\s+", " ", found.body.get_text(" ") if found.body else "")


def headline(found: BeautifulSoup) -> str:
    assert found.h1 is not None
    return str(found.h1.get_text())


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_the_page_the_history_and_junit_tell_the_same(project: pytest.Pytester, workers: tuple[str, ...]) -> None:
    arguments = ("--nomad-report", "out/deep/report.html", "--junitxml", "junit.xml", "-o", "junit_family=xunit1")
    result = run(project, *arguments, *workers)
    result.assert_outcomes(passed=3, failed=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines([f"nomad_testkit: report: {project.path}/out/deep/report.html"])
    found = page(project, "out/deep/report.html")
    shown = text(found)
    assert headline(found) == "1 of 6 tests failed"
    for expected in (
        "failed: test_fails",
        "passed: test_forms",
        "skipped: test_skipped no second region",
        "failed, as expected: test_known",
        "2 of 3 checks as wanted",
        "kill nomad on i-00000000000000001",
        "ready after 15.4 s",
        "destroyed in 2.1 s",
        "3 <b>peers</b>",
        "<script>alert(1)</script>",
    ):
        assert expected in shown, expected
    healed = found.select_one("article[aria-labelledby='fault-1'] li")
    assert healed is not None
    assert re.match(r"3\.\d s after it had begun: a new leader", healed.get_text())
    assert found.find_all("script") == []
    raw = (project.path / "out/deep/report.html").read_text()
    assert "b1gs33cr3t" not in raw
    assert "(hidden)" in raw

    used = {"gw9"} if not workers else {"gw0", "gw1"}
    runs = RunHistory(project.path / "state" / "history.sqlite3").last()
    assert {one.run_id for one in runs} <= {f"nt-20260101-00000{worker[2]}" for worker in used}
    assert min(one.outcome for one in runs) == "failed"
    healing: dict[str, float] = {}
    for one in runs:
        healing |= one.healing
        assert one.phases["clients ready"] == 15.4
    assert healing["kill nomad: LeaderReelected nomad"] == pytest.approx(3.0, abs=0.1)

    (suite,) = ET.parse(project.path / "junit.xml").getroot().iter("testsuite")
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "6", "failures": "1", "errors": "0", "skipped": "2"}
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert set(cases) == {"test_forms", "test_heals", "test_fails", "test_skipped", "test_known", "test_unrelated"}
    assert cases["test_fails"].find("failure") is not None


def test_without_a_cluster_there_is_a_page_and_no_history(project: pytest.Pytester) -> None:
    run(project, "--nomad-report", "report.html", "-k", "unrelated").assert_outcomes(passed=1, deselected=5)
    found = page(project)
    assert headline(found) == "The test passed"
    assert "No test of this run deployed a cluster." in text(found)
    assert not (project.path / "state").exists()


def test_nothing_is_written_where_tests_are_only_listed(project: pytest.Pytester) -> None:
    assert run(project, "--nomad-report", "report.html", "--collect-only").ret == pytest.ExitCode.OK
    assert [path.name for path in project.path.iterdir() if path.suffix == ".html" or path.name == "state"] == []


@pytest.mark.parametrize("moment", ["test", "deployment"])
def test_an_interrupted_run_says_so(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    monkeypatch.setenv("INTERRUPT", moment)
    result = run(project, "--nomad-report", "report.html")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    found = page(project)
    if moment == "test":
        assert headline(found) == "Interrupted after 5 tests, 1 of them failed"
        assert "destroyed in 2.1 s" in text(found)  # told when the session had ended already
    else:
        assert headline(found) == "Interrupted before the first test ended"
        assert "its deployment was interrupted" in text(found)


def test_a_failed_deployment_is_shown(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "1")
    run(project, "--nomad-report", "report.html", "-k", "forms").assert_outcomes(errors=1, deselected=5)
    found = page(project)
    assert headline(found) == "The test failed"
    assert "The deployment of nomad-consul-colocated-cluster failed" in text(found)
    assert "unit consul failed with (hidden)" in text(found)
    assert [one.outcome for one in RunHistory(project.path / "state" / "history.sqlite3").last()] == ["not ready"]


def test_what_fails_outside_of_tests_is_shown(project: pytest.Pytester) -> None:
    project.makepyfile(test_broken="import nothing_of_that_name")
    result = run(project, "--nomad-report", "report.html", "-k", "unrelated")
    assert result.ret in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.TESTS_FAILED)
    found = page(project)
    assert headline(found) == "1 problem"
    assert "No module named 'nothing_of_that_name'" in text(found)


def test_a_worker_that_dies_is_shown(project: pytest.Pytester) -> None:
    project.makepyfile(test_it="import os\n\ndef test_dies():\n    os.kill(os.getpid(), 9)\n")
    run(project, "--nomad-report", "report.html", "-n", "1").assert_outcomes(failed=1)
    found = page(project)
    assert headline(found) == "The test failed"
    assert "crashed while running 'test_it.py::test_dies'" in text(found)


def test_a_page_that_cannot_be_written_fails_before_the_run(project: pytest.Pytester) -> None:
    result = run(project, "--nomad-report", "/proc/none/report.html")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*report is to be /proc/none/report.html, but nothing can be written into*: *; expected a file in a folder*"]
    )
    assert "PASSED" not in result.stdout.str()
    assert not (project.path / "state").exists()


def test_one_that_only_the_environment_names_ends_no_unrelated_run(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_REPORT", "/proc/none/report.html")
    run(project, "-k", "unrelated").assert_outcomes(passed=1, deselected=5)
    result = run(project, "-k", "forms")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "nothing can be written into /proc/none" in result.stderr.str() + result.stdout.str()


def test_a_damaged_history_breaks_no_run(project: pytest.Pytester) -> None:
    path = project.path / "state" / "history.sqlite3"
    path.parent.mkdir()
    path.write_bytes(b"x" * 5000)
    result = run(project, "-k", "forms")
    result.assert_outcomes(passed=1, deselected=5)
    result.stdout.fnmatch_lines([f"nomad_testkit: the history of runs in {path} is damaged: *move it away with*"])
    assert "report:" not in result.stdout.str()
