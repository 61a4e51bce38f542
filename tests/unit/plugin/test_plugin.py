"""The plugin as pytest runs it: settings, laziness, sharing by workers, evidence, and what its import costs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from fake_clusters import FAKES, deployments_alone, log, run

from nomad_testkit.ec2.machines import isolation
from nomad_testkit.plugin import weaknesses
from nomad_testkit.settings import table


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    deployments_alone(pytester, monkeypatch)
    pytester.makeconftest(FAKES)
    pytester.makepyfile(
        test_some="""
        import pytest

        def test_uses_it(nomad_cluster):
            assert nomad_cluster.run_id == "nt-20260101-abcdef"

        def test_uses_it_too(nomad_cluster):
            pass

        @pytest.mark.colocated
        def test_fails(nomad_cluster):
            assert nomad_cluster.hosts == ["one"]

        def test_unrelated():
            pass
        """
    )
    return pytester


@pytest.mark.parametrize(("args", "worker"), [((), ""), (("-n", "2"), " [[]gw?]")])
def test_one_cluster_a_session_that_workers_share(project: pytest.Pytester, args: tuple[str, ...], worker: str) -> None:
    result = run(project, *args)
    result.assert_outcomes(passed=3, failed=1)
    assert log(project) == ["open", "deploy", "destroy", "close"]
    result.stdout.fnmatch_lines([f"nomad_testkit{worker}: ready after 0.0 s"])
    assert not args or list((project.path / "state" / "shared").iterdir()) == []


@pytest.mark.parametrize("args", [("--collect-only",), ("-m", "separate"), ("test_some.py::test_unrelated", "-n", "1")])
def test_nothing_is_deployed_that_is_not_used(project: pytest.Pytester, args: tuple[str, ...]) -> None:
    result = run(project, *args)
    assert result.ret in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    assert log(project) == []
    assert not (project.path / "state").exists()


def test_workers_share_a_failure(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL_DEPLOYMENT", "1")
    result = run(project, "-n", "2")
    result.assert_outcomes(passed=1, errors=3)
    assert log(project) == ["open", "deploy", "close"]
    _is_told_once(result)


def _is_told_once(result: pytest.RunResult) -> None:
    """One test tells what happened, and each of the two others in one line which that is."""
    head, _, summary = result.stdout.str().partition("= short test summary info =")
    assert head.count("host i-1: unit consul failed") == 1
    assert head.splitlines().count("evidence: /somewhere") == 1
    assert "hookimpl" not in head
    pointers = re.findall(r"^no cluster: see test_some\.py::(\w+)$", head, re.MULTILINE)
    assert len(pointers) == 2
    assert len(set(pointers)) == 1
    assert f"ERROR test_some.py::{pointers[0]} - host i-1: unit" in summary


@pytest.mark.parametrize("args", [(), ("-n", "2")])
def test_what_failed_is_not_deployed_again_for_a_rerun(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    monkeypatch.setenv("FAIL_DEPLOYMENT", "1")
    result = run(project, "--reruns", "2", *args)
    result.assert_outcomes(passed=1, errors=3)
    assert "6 rerun" in result.stdout.str()
    assert log(project) == ["open", "deploy", "close"]
    _is_told_once(result)


def test_a_test_that_fails_itself_is_rerun_with_the_same_cluster(project: pytest.Pytester) -> None:
    run(project, "--reruns", "2").assert_outcomes(passed=3, failed=1)
    assert log(project) == ["open", "deploy", "destroy", "close"]


def test_what_asks_for_the_cluster_late_gets_evidence_and_what_does_not_gets_none(project: pytest.Pytester) -> None:
    (project.path / "steps.feature").write_text("Feature: steps\n  Scenario: late\n    Then it fails\n")
    project.makepyfile(
        test_some="""
        import pytest
        from pytest_bdd import scenarios, then

        scenarios("steps.feature")

        @then("it fails")
        def it_fails(nomad_cluster):
            raise RuntimeError("step")

        @pytest.fixture(scope="module")
        def late(request):
            return request.getfixturevalue("nomad_cluster")

        @pytest.fixture
        def broken():
            raise RuntimeError("broken")

        @pytest.mark.separate  # what it asks for is not what the next test asks for
        def test_unrelated():
            raise RuntimeError("unrelated")

        def test_by_name(request):
            request.getfixturevalue("nomad_cluster")
            raise RuntimeError("by name")

        def test_first(request):
            request.getfixturevalue("late")

        def test_by_a_fixture_that_is_there(late):
            raise RuntimeError("fixture")

        def test_by_the_name_of_a_fixture(request):
            request.getfixturevalue("late")
            raise RuntimeError("its name")

        def test_unrelated_too(request):
            raise RuntimeError("unrelated")

        @pytest.mark.usefixtures("nomad_cluster")
        def test_by_its_mark():
            raise RuntimeError("mark")
        """
    )
    result = run(project, "--nomad-artifacts", "evidence")
    result.assert_outcomes(passed=1, failed=7)
    told = {line.rpartition("/")[2] for line in result.outlines if line.startswith("evidence: ")}
    assert told == {
        f"test_some.py-test_{name}"
        for name in ("late", "by_name", "by_a_fixture_that_is_there", "by_the_name_of_a_fixture", "by_its_mark")
    }


@pytest.mark.parametrize("args", [(), ("-n", "2")])
def test_a_failing_test_names_its_evidence(project: pytest.Pytester, args: tuple[str, ...]) -> None:
    result = run(project, *args, "--nomad-artifacts", "evidence", "-k", "fails")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*- nomad_testkit -*", "evidence: */evidence/nt-20260101-abcdef/*test_fails"])
    (folder,) = (project.path / "evidence" / "nt-20260101-abcdef").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_failing_fixtures_name_the_evidence_too(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_some="""
        import pytest

        def test_unrelated():
            raise RuntimeError("unrelated")

        @pytest.fixture
        def fails_before(nomad_cluster):
            raise RuntimeError("before")

        @pytest.fixture
        def fails_after(nomad_cluster):
            yield
            raise RuntimeError("after")

        def test_before(fails_before):
            pass

        def test_after(fails_after):
            pass

        @pytest.mark.xfail(strict=True)
        def test_expected(nomad_cluster):
            raise RuntimeError("expected")

        def test_other(fails_after):  # the last one: when its teardown is told, the cluster is gone
            pass
        """
    )
    result = run(project, "--nomad-artifacts", "evidence")
    result.assert_outcomes(passed=2, errors=3, xfailed=1, failed=1)
    told = [line for line in result.outlines if line.startswith(("E       RuntimeError: ", "evidence: "))]
    folder = project.path / "evidence" / "nt-20260101-abcdef"
    assert told == [
        "E       RuntimeError: before",
        f"evidence: {folder}/test_some.py-test_before",
        "E       RuntimeError: after",
        f"evidence: {folder}/test_some.py-test_after",
        "E       RuntimeError: after",
        "E       RuntimeError: unrelated",
    ]
    assert {path.name for path in folder.iterdir()} == {"test_some.py-test_before", "test_some.py-test_after"}


@pytest.mark.parametrize(
    ("args", "ini", "mark", "said"),
    [
        (["--nomad-timeout", "soon"], "", "", "*option --nomad-timeout: found 'soon', expected a number of seconds*"),
        ([], "nomad_region = mars", "", "*nomad_region in tox.ini: found 'mars', expected an AWS region*"),
        (["--nomad-example", "nowhere"], "", "", "*option --nomad-example: there is no example at */nowhere*"),
        (
            ["--nomad-example", "nomad-consul-colocated-cluster"],
            *("", "separate", "*/example.toml: found a colocated cluster: *right for tests marked separate is *"),
        ),
        *(
            (
                ["--nomad-var", "num_client=1", "--nomad-servers", "1"],
                *(
                    "",
                    mark,
                    f"*option --nomad-var: */nomad-consul-{mark}-cluster/*variable num_client: *did you mean num_*",
                ),
            )
            for mark in ("colocated", "separate")
        ),
    ],
)
def test_a_setting_that_cannot_be_used_is_a_usage_error(
    project: pytest.Pytester, args: list[str], ini: str, mark: str, said: str
) -> None:
    if mark:
        (project.path / "conftest.py").unlink()
        project.makepyfile(test_some=f"import pytest\n@pytest.mark.{mark}\ndef test_it(nomad_cluster): pass")
    project.makeini(f"[pytest]\n{ini}\n")
    result = run(project, *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])
    assert log(project) == []


def test_a_wrong_variable_ends_only_runs_that_use_clusters(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_TARGET", "gcp")
    run(project, "-k", "unrelated").assert_outcomes(passed=1, deselected=3)
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*environment variable NOMAD_TESTKIT_TARGET: found 'gcp', expected one of embedded*"])


def test_the_header_shows_what_is_in_force_and_where_it_came_from(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makeini("[pytest]\nnomad_var =\n    cluster_name=mine\n    num_clients=1\n")
    monkeypatch.setenv("NOMAD_TESTKIT_VAR", "num_clients=2;vpc_id=vpc-1")
    result = run(project, "-k", "unrelated", "--nomad-timeout", "90", "--nomad-var", "vpc_id=vpc-2")
    header = [line for line in result.outlines if line.startswith("nomad_testkit: ") and "root on a host" not in line]
    assert header == [
        "nomad_testkit: var vpc_id=vpc-2 (option --nomad-var)",
        "nomad_testkit: var num_clients=2 (environment variable NOMAD_TESTKIT_VAR)",
        "nomad_testkit: var cluster_name=mine (nomad_var in tox.ini)",
        "nomad_testkit: timeout=90 (option --nomad-timeout)",
        (
            "nomad_testkit: target=embedded, region=us-east-1, election_timeout=30, heal_timeout=120, "
            "fault_time=30, keep=off, pause=off, "
            "artifacts=nomad-artifacts, consul_version=1.14.0, nomad_version=1.6.1 (default)"
        ),
    ]


@pytest.mark.parametrize("lacking", ["", "a tmpfs cannot be mounted with other owners"])
def test_the_header_says_what_root_on_a_host_is(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "missing_isolation", lambda *folders: lacking)
    expected = f"root on a host is root on this machine: {lacking} (see nomad-testkit doctor)"
    assert weaknesses() == ([expected] if lacking else [])


def test_an_example_of_the_conftest_gets_the_settings_too(project: pytest.Pytester) -> None:
    conftest = """
        @pytest.fixture(scope="session")
        def nomad_example():
            replace()
            from nomad_testkit import Example
            return Example.load("nomad-consul-colocated-cluster").replace(num_clients=3)
        """
    project.makeconftest(FAKES + "\n".join(line[8:] for line in conftest.splitlines()))
    project.makepyfile(
        test_some="""
        def test_sizes(nomad_cluster):
            variables = nomad_cluster.example.variables
            assert (variables["num_servers"], variables["num_clients"]) == (1, 3)
        """
    )
    run(project, "--nomad-servers", "1").assert_outcomes(passed=1)
    result = run(project, "--nomad-servers", "2")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["option --nomad-servers: */example.toml: variable num_servers: found the integer 2;*"])
    assert "Traceback" not in result.stdout.str()
    assert log(project) == ["open", "deploy", "destroy", "close", "open", "close"]


def test_markers_and_options_are_known(project: pytest.Pytester) -> None:
    run(project, "--strict-markers", "-k", "unrelated").assert_outcomes(passed=1, deselected=3)
    markers = run(project, "--markers").stdout
    markers.fnmatch_lines(["@pytest.mark.colocated: *", "@pytest.mark.separate: *"])
    run(project, "--help").stdout.fnmatch_lines(["nomad_testkit: *", "*--nomad-target=NAME*", "*--nomad-keep*"])
    help_text = run(project, "--help").stdout.str()
    group = help_text.split("nomad_testkit: clusters of Nomad and Consul:")[1].split("\n\n")[0]
    assert {f"{setting.option}" for setting in table()} == set(re.findall(r"^  (--nomad-[a-z-]+)", group, re.MULTILINE))


def test_loading_the_plugin_imports_nothing_heavy() -> None:
    code = """
import sys
import pytest, _pytest.config, _pytest.pytester
pytest.console_main
before = set(sys.modules)
import nomad_testkit.plugin
for name in nomad_testkit.plugin.pytest_plugins:
    __import__(name)
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - set(sys.stdlib_module_names) - {"nomad_testkit"}))
print(*sorted(name for name in sys.modules if name.startswith("nomad_testkit")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    third_party, own = done.stdout.splitlines()
    assert third_party == ""
    hooks = (
        "ci_hooks evidence_hooks fixtures overrides pausing report_hooks session told_once "
        "topologies xdist_credentials xdist_hooks"
    )
    plugin = ("plugin", *(f"plugin.{name}" for name in hooks.split()))
    modules = ("errors", "events", *plugin, "settings", "settings.values")
    assert own.split() == ["nomad_testkit", *(f"nomad_testkit.{name}" for name in modules)]
