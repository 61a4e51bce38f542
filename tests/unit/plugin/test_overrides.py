"""Options that an overridden fixture would defeat are refused, and those that it honours are not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fake_clusters import deployments_alone, run
from recording_host import RecordingHost

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.examples.example import Roles
from nomad_testkit.plugin.overrides import defeated

CONFTEST = """
import pytest
from nomad_testkit import Example

@pytest.fixture(scope="session")
def nomad_example({arguments}):
    return {example}
"""
COLOCATED, SEPARATE = "nomad-consul-colocated-cluster", "nomad-consul-separate-cluster"
AMI = "ami-0123456789abcdef1"
OWN = 'Example.load("nomad-consul-colocated-cluster").replace(num_clients=0)'


@pytest.fixture(autouse=True)
def alone(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    deployments_alone(pytester, monkeypatch)


@pytest.mark.parametrize(
    "tests", ["def test_it(nomad_example): pass", "def test_it(request): request.getfixturevalue('nomad_example')"]
)
@pytest.mark.parametrize("how", ["option", "environment"])
def test_an_example_that_a_conftest_would_ignore_is_refused(
    how: str, tests: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(CONFTEST.format(arguments="", example=OWN))
    pytester.makepyfile(tests + "\n\ndef test_another(nomad_example): pass")
    given = ["--nomad-example", SEPARATE]
    if how == "environment":
        monkeypatch.setenv("NOMAD_TESTKIT_EXAMPLE", given.pop())
        given.clear()

    result = run(pytester, *given)

    result.assert_outcomes(errors=1, failed=1) if "request" in tests else result.assert_outcomes(errors=2)
    source = "option --nomad-example" if how == "option" else "environment variable NOMAD_TESTKIT_EXAMPLE"
    asked = f"{source}: asked for nomad-consul-separate-cluster, but nomad_example, overridden at "
    result.stdout.fnmatch_lines([f"*{asked}*conftest.py:*, gives */nomad-consul-colocated-cluster"])
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("arguments", "example", "given"),
    [
        ("nomad_example", "nomad_example.replace(num_nomad_clients=1)", ["--nomad-example", SEPARATE]),
        ("", OWN, ["--nomad-example", COLOCATED]),
        ("", OWN, ["-o", "nomad_example=nomad-consul-separate-cluster"]),
        ("", OWN, []),
    ],
)  # fmt: skip
def test_an_override_that_gives_what_is_asked_for_and_what_an_ini_file_says_may_differ(
    arguments: str, example: str, given: list[str], pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(CONFTEST.format(arguments=arguments, example=example))
    pytester.makepyfile("def test_it(nomad_example): pass")

    run(pytester, *given).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("fixture", "value", "given", "refused"),
    [
        ("nomad_ami", "'ami-0123456789abcdef2'", ["--nomad-ami", AMI], "asked for ami-*1, but nomad_ami*gives ami-*2"),
        ("nomad_ami", "'ami-0123456789abcdef1'", ["--nomad-ami", AMI], ""),
        ("nomad_target", "TARGET", ["--nomad-target", "aws"], "*asked for aws*gives embedded"),
        ("nomad_cluster", "CLUSTER", ["--nomad-servers", "3"], "--nomad-servers: asked for 3*gives 0 servers"),
        ("nomad_cluster", "CLUSTER", ["--nomad-clients", "2"], "--nomad-clients: asked for 2*gives 0 clients"),
        ("nomad_cluster", "CLUSTER", ["--nomad-var", "instance_type=t3.large"], "*asked for t3.large*gives t2.micro"),
        ("nomad_cluster", "CLUSTER", ["--nomad-example", SEPARATE], "*asked for nomad-consul-separate*"),
        ("nomad_cluster", "CLUSTER", ["--nomad-example", COLOCATED], ""),
    ],
)  # fmt: skip
def test_every_other_fixture_that_can_be_overridden(
    fixture: str, value: str, given: list[str], refused: str, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(
        "import pytest\nfrom pathlib import Path\nfrom nomad_testkit import Cluster, Example\n"
        "from nomad_testkit.examples.example import Roles\n"
        "roles = Roles(('servers',), ('servers',), ('clients',))\n"
        "CLUSTER = Cluster('nt-20260101-abcdef', None, [], roles, 'admin', Path('key'), "
        "Example.load('nomad-consul-colocated-cluster'))\n"
        "TARGET = type('T', (), {'name': 'embedded'})()\n"
        f"@pytest.fixture(scope='session')\ndef {fixture}():\n    return {value}\n"
    )
    pytester.makepyfile(f"def test_it(request): request.getfixturevalue('{fixture}')")

    result = run(pytester, *given)

    if refused:
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([f"*{refused}*"])
    else:
        result.assert_outcomes(passed=1)


@pytest.mark.parametrize("asked", [2, 4])
def test_a_cluster_of_another_size_is_told_whichever_is_greater(asked: int, tmp_path: Path) -> None:
    hosts = [RecordingHost(number, "servers") for number in (1, 2, 3)]
    cluster = Cluster(
        "nt-1", cast("Any", None), hosts, Roles(("servers",), ("servers",), ()), "admin", tmp_path / "key"
    )
    settings: Any = SimpleNamespace(attach=None, var={}, servers=asked, clients=None, source=lambda name: "option --x")
    told = defeated("nomad_cluster", cluster, settings, "conftest.py:1")
    assert told is not None
    assert told.startswith(f"option --x: asked for {asked}, but nomad_cluster, overridden at conftest.py:1, gives 3 s")
    settings.servers = 3
    assert defeated("nomad_cluster", cluster, settings, "conftest.py:1") is None
