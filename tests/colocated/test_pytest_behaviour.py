"""How pytest's own options treat a cluster: one for all workers, none that is not used, and one that is kept."""

from __future__ import annotations

import os
import re
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_runs import Project, holder_of, project_in

NothingLeft = Callable[[], None]

SAYS_WHICH = """
import os
import pytest
from nomad_testkit.checks import NoFailedMembers

@pytest.mark.parametrize("number", range({count}))
def test_it(number, nomad_cluster, signs):
    worker = os.environ.get("PYTEST_XDIST_WORKER", "one")
    assert nomad_cluster.nomad.leader()
    assert nomad_cluster.servers[0].run("hostname").stdout.startswith("ip-172-31-")
    signs.give(f"used-{{number}}", f"{{worker}} {{os.getpid()}} {{nomad_cluster.run_id}}")
    signs.wait("go")
    nomad_cluster.require(NoFailedMembers(), within=60)  # exactly its own hosts, whatever else is up
"""


@pytest.fixture
def project(tmp_path: Path, nothing_left: NothingLeft) -> Iterator[Project]:
    with project_in(tmp_path) as made:
        yield made


def uses(project: Project) -> list[tuple[str, int, str]]:
    """List the tests that have used a cluster: the worker's name and process, and the cluster's run."""
    words = [path.read_text().split() for path in sorted(project.folder.glob("used-?"))]
    return [(worker, int(pid), run_id) for worker, pid, run_id in words]


def test_two_workers_share_one_cluster(project: Project, nothing_left: NothingLeft) -> None:
    project.write(SAYS_WHICH.format(count=2))
    run = project.start("-n2")
    run.await_value("both workers to use it", lambda: len(uses(project)) == 2 or None)
    assert len(project.remembered) == 1
    project.sign("go")
    assert run.await_end() == 0, run.text
    nothing_left()
    assert {worker for worker, _, _ in uses(project)} == {"gw0", "gw1"}
    (run_id,) = {run_id for _, _, run_id in uses(project)}
    assert run.deployed == [run_id]
    assert re.findall(r"destroyed (nt-\S+) in", run.text) == [run_id]
    assert "2 passed" in run.text
    assert (project.remembered, project.shared) == ([], [])


def test_a_killed_worker_takes_no_cluster_from_the_others(project: Project, nothing_left: NothingLeft) -> None:
    project.write(SAYS_WHICH.format(count=4))
    run = project.start("-n2")
    run.await_value("both workers to use it", lambda: len(uses(project)) == 2 or None)
    (shared,) = (project.state / "shared").iterdir()
    (place,) = shared.glob("cluster-*")
    maker = holder_of(place / "owner.lock")
    assert maker in {pid for _, pid, _ in uses(project)}
    os.kill(maker, signal.SIGKILL)
    project.sign("go")
    assert run.await_end() == 1, run.text
    nothing_left()
    assert re.search(r"worker 'gw\d' crashed while running", run.text), run.text
    assert "1 failed, 3 passed" in run.text
    assert {worker for worker, _, _ in uses(project)} == {"gw0", "gw1", "gw2"}
    assert len({run_id for _, _, run_id in uses(project)}) == 1
    assert (project.remembered, project.shared) == ([], [])


def test_nothing_is_deployed_that_is_not_used(project: Project, nothing_left: NothingLeft) -> None:
    project.write("""
def test_fails_without_it():
    assert not "fails"

def test_passes_without_it():
    pass

def test_uses_it(nomad_cluster):
    pass
""")
    for arguments, status, outcome in (
        (["--collect-only"], 0, "3 tests collected"),
        (["--collect-only", "-n2"], 0, "3 tests collected"),
        (["-k", "passes_without_it"], 0, "1 passed, 2 deselected"),
        (["-x"], 1, "1 failed"),
        (["--lf"], 1, "1 failed"),
    ):
        found, text = project.run(*arguments)
        assert found == status, text
        assert outcome in text, text
        assert "starting the embedded EC2" not in text, text
        assert not project.state.exists(), arguments
    nothing_left()


def test_two_sessions_at_once_one_of_which_is_kept(project: Project, tmp_path: Path, nothing_left: NothingLeft) -> None:
    (tmp_path / "other").mkdir()
    with project_in(tmp_path / "other") as other:
        other.state = project.state  # as two sessions of one user have it
        runs = {}
        for each, arguments in ((project, ["--nomad-keep"]), (other, [])):
            topology = "colocated" if each is project else "separate"
            each.write(SAYS_WHICH.format(count=1) + f"\npytestmark = pytest.mark.{topology}\n")
            runs[each] = each.start(*arguments)
        for each, run in runs.items():
            run.await_value("a cluster", lambda each=each: uses(each) or None)  # type: ignore[misc]
        for each, run in runs.items():
            each.sign("go")
            assert run.await_end() == 0, run.text
            assert "1 passed" in run.text
        ((_, _, kept),), ((_, _, gone),) = uses(project), uses(other)
        assert kept != gone
        assert project.remembered == [kept]  # the second session took nothing from the first
        text = runs[project].text

    assert f"# {kept} is left up" in text
    addresses = dict(re.findall(r"^export (\w+)=(http://127\.\S+)$", text, re.MULTILINE))
    assert set(addresses) == {"NOMAD_ADDR", "CONSUL_HTTP_ADDR", "AWS_ENDPOINT_URL"}
    for name in ("NOMAD_ADDR", "CONSUL_HTTP_ADDR"):
        with urllib.request.urlopen(f"{addresses[name]}/v1/status/leader", timeout=20) as answer:
            assert answer.read().startswith(b'"172.31.')
    key = re.search(r"^ssh .* -i (\S+) admin@127\.\S+  # i-\w+ in servers$", text, re.MULTILINE)
    assert key is not None, text
    assert Path(key[1]).stat().st_mode & 0o777 == 0o600

    assert f"\npython -m nomad_testkit down {kept}\n" in text
    down = project.start_module("nomad_testkit", "down", kept)
    assert down.await_end() == 0, down.text
    assert f"{kept} is destroyed" in down.text
    nothing_left()
    assert project.remembered == []
