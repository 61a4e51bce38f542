"""Tests for several topologies in one session: a cluster for each, only where it is used, and never by turns."""

from __future__ import annotations

import pytest
from fake_clusters import FAKES, deployments_alone, log, run

CONFTEST = (
    FAKES
    + """
@pytest.fixture(scope="session")
def nomad_example(nomad_topology):
    replace()
    return FakeExample(nomad_topology)

@pytest.fixture
def told(nomad_cluster, request):
    say(f"{os.environ.get('PYTEST_XDIST_WORKER', 'one')} {nomad_cluster.example.name}")
"""
)
TESTS = """
import pytest

@pytest.mark.separate
def test_apart(told):
    pass

@pytest.mark.nomad_topology("colocated", "separate")
class TestBoth:
    @pytest.mark.parametrize("number", [1, 2])
    def test_first(self, number, told, request):
        marks = {mark.name for mark in request.node.iter_markers()}
        assert {"colocated", "separate"} & marks == {request.node.callspec.id.split("-")[0]} & {"colocated", "separate"}

    def test_second(self, told):
        pass

@pytest.mark.colocated
def test_together(told):
    pass

def test_without_a_mark(told):
    pass

def test_unrelated():
    pass
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    deployments_alone(pytester, monkeypatch)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_some=TESTS)
    return pytester


def cluster_of(topology: str, uses: int) -> list[str]:
    return ["deploy", *[f"one {topology}"] * uses, "destroy"]


def test_each_topology_has_a_cluster_one_after_the_other(project: pytest.Pytester) -> None:
    run(project).assert_outcomes(passed=10)
    assert log(project) == ["open", *cluster_of("colocated", 5), *cluster_of("separate", 4), "close"]


@pytest.mark.parametrize(
    ("expression", "topology", "uses"),
    [("colocated", "colocated", 4), ("separate", "separate", 4), ("not separate", "colocated", 5)],
)
def test_only_the_topology_that_is_chosen_is_deployed(
    project: pytest.Pytester, expression: str, topology: str, uses: int
) -> None:
    run(project, "-m", expression)
    assert log(project) == ["open", *cluster_of(topology, uses), "close"]


def test_each_topology_has_a_worker_of_its_own(project: pytest.Pytester) -> None:
    run(project, "-m", "colocated or separate", "-n", "2").assert_outcomes(passed=8)
    lines = log(project)
    workers = {line for line in lines if line.startswith("gw")}
    assert len(workers) == 2
    assert {line.split()[1] for line in workers} == {"colocated", "separate"}
    assert {line.split()[0] for line in workers} == {"gw0", "gw1"}
    others = sorted(line for line in lines if line not in workers)
    assert others == ["close", *["deploy"] * 2, *["destroy"] * 2, "open"]
    assert list((project.path / "state" / "shared").iterdir()) == []


def test_workers_share_the_cluster_of_the_only_topology(project: pytest.Pytester) -> None:
    run(project, "-m", "colocated", "-n", "2").assert_outcomes(passed=4)
    lines = log(project)
    assert {line for line in lines if line.startswith("gw")} == {"gw0 colocated", "gw1 colocated"}
    assert lines.count("deploy") == 1


@pytest.mark.parametrize(
    ("args", "used"), [(("-n", "2"), "loadgroup"), (("-n", "2", "--dist", "load"), "load"), ((), "no")]
)
def test_who_chooses_how_to_distribute_is_obeyed(project: pytest.Pytester, args: tuple[str, ...], used: str) -> None:
    project.makeconftest(
        """
def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.write_line(f"dist is {config.option.dist}")
"""
    )
    result = run(project, *args, "-k", "unrelated")
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"dist is {used}"])


@pytest.mark.parametrize("own", ["faults", "operations"])
def test_what_changes_a_cluster_is_chosen_by_its_own_mark_alone(project: pytest.Pytester, own: str) -> None:
    project.makepyfile(
        test_some=f"""
import pytest

@pytest.mark.{own}
@pytest.mark.nomad_topology("colocated", "separate")
def test_it(nomad_cluster):
    pass
"""
    )
    run(project, "test_some.py", "-m", "colocated or separate").assert_outcomes(deselected=2)
    run(project, "test_some.py", "-m", own).assert_outcomes(passed=2)


def test_groups_of_the_users_own_stay(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_some="""
import pytest

@pytest.mark.xdist_group("mine")
@pytest.mark.nomad_topology("colocated", "separate")
def test_it(told):
    pass
"""
    )
    run(project, "-n", "2").assert_outcomes(passed=2)
    assert {line.split()[0] for line in log(project) if line.startswith("gw")} in ({"gw0"}, {"gw1"})


def test_the_tests_of_a_dead_worker_are_run_by_another(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_some="""
import os
import pytest

@pytest.mark.nomad_topology("colocated", "separate")
@pytest.mark.parametrize("number", range(4))
def test_it(number, told, nomad_topology):
    if (number, nomad_topology) == (1, "separate"):
        os._exit(1)
"""
    )
    result = run(project, "-n", "2")
    result.assert_outcomes(passed=7, failed=1)
    result.stdout.fnmatch_lines(["*worker 'gw?' crashed while running *test_it[[]*separate*"])
    assert list((project.path / "state" / "shared").iterdir()) == []


def test_an_example_of_another_topology_is_refused_before_it_is_deployed(project: pytest.Pytester) -> None:
    # As in a conftest.py that chooses an example whatever is asked for.
    project.makeconftest(CONFTEST.replace("FakeExample(nomad_topology)", 'FakeExample("separate")'))
    result = run(project)
    result.assert_outcomes(passed=5, errors=5)
    result.stdout.fnmatch_lines(
        [
            (
                "separate/example.toml: found a separate cluster: Consul servers in servers, Nomad servers in "
                "nomad_servers; right for tests marked colocated is a colocated one. Run with -m separate instead, or "
                "let the fixture nomad_example take nomad_topology and return an example of each."
            )
        ]
    )
    assert log(project) == ["open", *cluster_of("separate", 4), "close"]


def test_an_unknown_topology_is_a_usage_error(project: pytest.Pytester) -> None:
    for marker, found in (('"colocate"', "'colocate'"), ("", "none")):
        project.makepyfile(
            test_some=f"""
import pytest

@pytest.mark.nomad_topology({marker})
def test_it(nomad_cluster):
    pass
"""
        )
        result = run(project)
        said = f"*test_it: the marker nomad_topology has {found}; expected any of colocated, separate, encrypted*"
        result.stdout.fnmatch_lines([said])
        assert result.ret != 0
    assert log(project) == []


LATE = """
import pytest
from pytest_bdd import given, scenarios

scenarios("steps.feature")

@given("a cluster")
def a_cluster(told):
    pass

@pytest.fixture
def later(request):
    return lambda: request.getfixturevalue("told")

def test_together(request):
    request.getfixturevalue("told")

@pytest.mark.separate
def test_by_its_name(request):
    request.getfixturevalue("told")

@pytest.mark.nomad_topology("separate")
def test_by_a_fixture(later):
    later()

@pytest.mark.separate
def test_unrelated(request):
    pass

def test_together_again(told):
    pass
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_gets_the_cluster_late_gets_that_of_its_mark(project: pytest.Pytester, workers: str) -> None:
    (project.path / "steps.feature").write_text("Feature: late\n  @separate\n  Scenario: apart\n    Given a cluster\n")
    project.makepyfile(test_some=LATE)
    run(project, "-n", workers).assert_outcomes(passed=6)
    used = [line.split()[1] for line in log(project) if " " in line]
    assert sorted(used) == ["colocated"] * 2 + ["separate"] * 3
    assert log(project).count("deploy") == 2


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_topology_that_there_is_not_is_told_in_one_line(project: pytest.Pytester, workers: str) -> None:
    project.makepyfile(test_some=TESTS.replace('"colocated", "separate")', '"colocated", "sepparate")'))
    said = run(project, "-n", workers, "test_some.py").stdout.str()
    assert "the marker nomad_topology has 'sepparate'; expected any of colocated, separate, encrypted" in said
    assert "Traceback" not in said
    assert "_manager.py" not in said


@pytest.mark.parametrize("workers", ["0", "2"])
def test_bad_input_is_an_error_of_usage_with_workers_too(project: pytest.Pytester, workers: str) -> None:
    project.makeconftest("")
    project.makepyfile(test_some="def test_it(nomad_cluster): pass")
    ran = run(project, "-n", workers, "--nomad-example", "nowhere")
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    said = ran.stdout.str() + ran.stderr.str()
    assert said.count("there is no example at ") == 1
    assert "crashed" not in said
    assert "INTERNALERROR" not in said
    assert "Traceback" not in said
