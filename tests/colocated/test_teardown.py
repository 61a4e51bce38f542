"""However a run ends, nothing of it is left on this machine, and a person is told what happened."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pytest_runs import Project, PytestRun, project_in, supervisors_of

from nomad_testkit.modules.bundle import examples_dir
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

NothingLeft = Callable[[], None]

WAITING = """
def test_it_waits(nomad_cluster, signs):
    signs.give("running")
    signs.wait("nobody gives this sign")
"""


@pytest.fixture
def project(tmp_path: Path, nothing_left: NothingLeft) -> Iterator[Project]:
    with project_in(tmp_path) as made:
        yield made


def start_deploying(project: Project) -> PytestRun:
    """Start a run, and wait until its hosts boot."""
    run = project.start()
    run.await_line("hosts are booting")
    return run


def start_testing(project: Project) -> PytestRun:
    """Start a run, and wait until a test has a cluster."""
    run = project.start()
    project.await_sign(run, "running")
    return run


def test_after_success_and_a_failing_test(project: Project, nothing_left: NothingLeft) -> None:
    project.write("""
def test_passes(nomad_cluster):
    assert len(nomad_cluster.hosts) == 2

def test_fails(nomad_cluster, signs):
    server = nomad_cluster.servers[0]
    server.run("echo 'encrypt = \\"b2Ygbm8gdXNlIHRvIGFueWJvZHk=\\"' > /opt/nomad/config/own.hcl", sudo=True)
    metadata = "http://169.254.169.254/latest/meta-data/iam/security-credentials"
    token = "$(curl -sfX PUT http://169.254.169.254/latest/api/token -H 'X-aws-ec2-metadata-token-ttl-seconds: 60')"
    get = f'curl -sf -H "X-aws-ec2-metadata-token: {token}"'
    signs.give("credentials", server.run(f"{get} {metadata}/$({get} {metadata}/)").stdout)
    assert nomad_cluster.run_id == "something else"
""")
    status, text = project.run("--junitxml=report.xml")
    nothing_left()
    assert status == 1, text
    assert "1 failed, 1 passed" in text
    assert project.remembered == []
    (run_id,) = re.findall(r"destroyed (nt-\S+) in", text)

    found = re.search(r"evidence: (\S+)", text)
    assert found is not None, text
    evidence = Path(found[1])
    assert evidence.is_relative_to(project.folder / "nomad-artifacts" / run_id)
    assert evidence.name == "test_inner.py-test_fails"
    files = {path.relative_to(evidence).as_posix(): path for path in evidence.rglob("*") if path.is_file()}
    assert "incomplete.txt" not in files, files["incomplete.txt"].read_text()
    assert "journal.jsonl" in files
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    for group in ("servers", "clients"):
        told = {name.partition("/")[2]: path for name, path in files.items() if name.startswith(group)}
        for name, word in {
            "consul-journal.log": "agent: Synced node info",
            "nomad-journal.log": "Nomad agent started",
            "user-data.log": "user data ended with status 0",
            "console.log": "cloud-init",
            "consul-api.json": '"leader": "172.31.',
            "nomad-api.json": '"leader": "172.31.',
        }.items():
            assert word in told[name].read_text(), f"{group} {name}:\n{told[name].read_text()[:2000]}"

    everything = "\n".join(path.read_text() for path in files.values())
    assert "PRIVATE KEY" not in everything + text
    assert "b2Ygbm8gdXNlIHRvIGFueWJvZHk=" not in everything
    (secret,) = re.findall(r'"SecretAccessKey"\s*:\s*"([^"]+)"', (project.folder / "credentials").read_text())
    assert secret not in everything + text

    suite = ElementTree.parse(project.folder / "report.xml").getroot()[0]
    assert {name: suite.attrib[name] for name in ("tests", "failures", "errors")} == {
        "tests": "2",
        "failures": "1",
        "errors": "0",
    }
    assert [[child.tag for child in case] for case in suite] == [[], ["failure"]]


def test_after_a_failing_deployment(project: Project, nothing_left: NothingLeft) -> None:
    shutil.copytree(examples_dir() / "nomad-consul-colocated-cluster", project.folder / "example")
    project.write(
        "#!/bin/bash\nexec >/var/log/user-data.log 2>&1\necho the licence server said no\nexit 1\n",
        "example/user-data-client.sh",
    )
    project.write("def test_a(nomad_cluster):\n    pass\n\ndef test_b(nomad_cluster):\n    pass\n")
    # Longer than this test waits: the error must not need the deadline.
    run = project.start("--nomad-timeout=3600")
    status, text = run.await_end(), run.text
    nothing_left()
    assert status == 1, text
    assert "2 errors" in text
    assert len(run.deployed) == 1
    told = re.search(r"host (i-\w+) \(127\.\S+\) in clients: the user data failed; /var/log/user-data.log ends:", text)
    assert told is not None, text
    assert "    the licence server said no" in text
    found = re.search(r"^evidence: (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    assert "said no" in (Path(found[1]) / f"clients-{told[1]}" / "user-data.log").read_text()
    # In the report of the test that asked for it first; the other's points to that.
    assert text.count("\nverdict: waited for ") == 1
    assert text.count(f"\nevidence: {found[1]}\n") == 1
    assert re.search(r"^no cluster: see test_\w+\.py::test_a$", text, re.MULTILINE), text
    assert project.remembered == []


def test_after_ctrl_c_while_it_deploys(project: Project, nothing_left: NothingLeft) -> None:
    project.write(WAITING)
    run = start_deploying(project)
    run.interrupt()
    status = run.await_end()
    nothing_left()
    assert status == pytest.ExitCode.INTERRUPTED, run.text
    assert f"destroyed {run.deployed[0]} in" in run.text
    assert "KeyboardInterrupt" in run.text
    assert project.remembered == []


def test_after_ctrl_c_twice_while_a_test_runs(project: Project, nothing_left: NothingLeft) -> None:
    project.write(WAITING)
    run = start_testing(project)
    run.interrupt()
    run.await_value("the teardown", lambda: '"destroyed"' in project.journal() or None)
    run.interrupt()
    status = run.await_end()
    nothing_left()
    assert status == pytest.ExitCode.INTERRUPTED, run.text
    assert "SIGINT: destroying the cluster first, which takes a few seconds" in run.text
    assert f"destroyed {run.deployed[0]} in" in run.text
    assert project.remembered == []


def test_after_sigterm_while_a_test_runs(project: Project, nothing_left: NothingLeft) -> None:
    project.write(WAITING)
    run = start_testing(project)
    os.kill(run.process.pid, signal.SIGTERM)
    status = run.await_end()
    nothing_left()
    assert status == pytest.ExitCode.INTERRUPTED, run.text
    assert "SIGTERM" in run.text
    assert f"destroyed {run.deployed[0]} in" in run.text
    assert project.remembered == []


@pytest.mark.parametrize("start", [start_deploying, start_testing])
def test_after_sigkill(start: Callable[[Project], PytestRun], project: Project, nothing_left: NothingLeft) -> None:
    project.write(WAITING)
    killed = start(project)
    killed.kill()
    nothing_left()
    assert project.remembered == killed.deployed  # all that the kernel leaves, and it is in the state folder

    later = start_deploying(project)
    assert project.remembered == later.deployed
    assert f"forgot {killed.deployed[0]}" in later.text
    later.interrupt()
    later.await_end()
    nothing_left()
    assert project.remembered == []


def test_after_the_cloud_itself_was_killed(project: Project, nothing_left: NothingLeft) -> None:
    project.write("""
from nomad_testkit.checks import NodesReady

def test_uses_it(nomad_cluster, signs):
    signs.give("running")
    signs.wait("killed")
    nomad_cluster.require(NodesReady(1), within=2)
""")
    run = start_testing(project)
    warden = project.warden()
    os.kill(supervisors_of(warden)[-1], signal.SIGKILL)
    # The first ends when all of its namespace's processes have: until then an agent may still answer.
    wait_until(
        "the end of the cloud",
        lambda: Pending(f"{alive} are alive") if (alive := supervisors_of(warden)) else Ok(None),
        deadline=Deadline.after(60),
    )
    project.sign("killed")
    status = run.await_end()
    nothing_left()
    print(run.text)
    assert status == 1, run.text
    assert "CheckFailed" in run.text
    assert project.remembered == []
