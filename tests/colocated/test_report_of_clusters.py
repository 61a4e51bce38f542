"""The page and the history of a run with two clusters, shared by workers of pytest-xdist; one of them has secrets."""

from __future__ import annotations

import html
import json
import re
import sqlite3
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_runs import SECONDS, Project, project_in

COLOCATED = """
import pytest
from nomad_testkit.checks import BatchCompleted, Leader, NodesReady

pytestmark = pytest.mark.colocated

def test_forms(nomad_cluster):
    nomad_cluster.require(Leader(), NodesReady(1), within=60)

def test_runs(nomad_cluster):
    with nomad_cluster.submitted("batch.nomad.hcl", message="hello") as job:
        nomad_cluster.require(BatchCompleted(job, output="hello"), within=60)

def test_heals(nomad_cluster, nomad_faults):
    with nomad_faults.stop("nomad", nomad_cluster.clients[0]):
        pass
    nomad_cluster.require(NodesReady(1), within=60)
"""
ENCRYPTED = """
import json
import pytest
from nomad_testkit.checks import RaftPeers

pytestmark = pytest.mark.encrypted

def test_shows_a_secret(nomad_cluster, signs):
    values = {name: str.__str__(value) for name, value in nomad_cluster.secrets.values.items()}
    signs.give("secrets", json.dumps(values))
    token = values["nomad-management.token"]
    assert token == "another"

def test_demands_too_much(nomad_cluster):
    nomad_cluster.require(RaftPeers(3), within=1)
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with project_in(tmp_path) as made:
        yield made


def test_one_page_for_all_clusters_and_workers(project: Project) -> None:
    project.write(COLOCATED, "test_colocated.py")
    project.write(ENCRYPTED, "test_encrypted.py")
    arguments = ("-n2", "--nomad-report", "out/report.html", "--junitxml", "junit.xml", "--nomad-artifacts", "evidence")
    status, said = project.run(*arguments, within=2 * SECONDS)  # two clusters
    assert status == 1, said
    assert "2 failed, 3 passed" in said
    assert (project.remembered, project.shared) == ([], [])
    page = (project.folder / "out" / "report.html").read_text()
    text = html.unescape(re.sub(r"\s+", " ", re.sub(r"<(style|svg).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)))
    first, second = sorted(re.findall(r'<h2 id="cluster-(nt-[\w-]+)">([^<]+)</h2>', page), key=lambda one: one[1])
    assert (first[1], second[1]) == ("nomad-consul-colocated-cluster", "nomad-consul-encrypted-cluster")
    for expected in (
        "2 of 5 tests failed",
        "clusters of 4 hosts",
        "1.6.1 Nomad, with Consul 1.14.0",
        "servers-0 leads Consul and Nomad.",
        "stop nomad on",
        "failed: test_shows_a_secret",
        "passed: test_heals",
        "exactly the 3 servers as Raft peers",
        "the cluster has 1 consul servers",
    ):
        assert expected in text, expected
    assert page.count("destroyed in") == 2
    assert len(re.findall(r'aria-label="(?:servers|clients)-0: [^"]*booting [\d.]+ s, user data', page)) == 4
    assert re.search(r'href="\.\./evidence/nt-[\w-]+/test_encrypted[^"]*/"', page)
    assert re.search(r'<rect class="alloc complete"', page)

    values = json.loads((project.folder / "secrets").read_text())
    secret = {name: value for name, value in values.items() if name not in ("ca.pem", "kit.pem")}
    assert "nomad-management.token" in secret
    for name, value in secret.items():
        for line in value.splitlines():
            assert line.startswith("-----") or line not in page, name
    for name in ("nomad-management.token", "consul-management.token"):
        assert secret[name][:8] not in page  # nor as pytest shortens it

    (suite,) = ET.parse(project.folder / "junit.xml").getroot().iter("testsuite")
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5",
        "failures": "2",
        "errors": "0",
        "skipped": "0",
    }
    with sqlite3.connect(project.state / "history.sqlite3") as connection:
        runs = dict(connection.execute("SELECT run_id, outcome FROM runs").fetchall())
        phases = connection.execute("SELECT count(*) FROM figures WHERE kind = 'phase'").fetchone()
    connection.close()
    assert runs == {first[0]: "passed", second[0]: "failed"}
    assert phases == (8,)
