"""What the kit does on the encrypted cluster: its evidence and its words for a shell are of use, and show no secret."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from pytest_runs import project_in

from nomad_testkit import Cluster
from nomad_testkit.checks import AutopilotHealthy
from nomad_testkit.cluster.secrets import CA, KIT_CERT, RunSecrets
from nomad_testkit.deployment import evidence
from nomad_testkit.deployment.lifecycle import how_to_reach
from nomad_testkit.runs.run import Run
from nomad_testkit.settings import Settings
from nomad_testkit.targets.embedded.target import agents_of

pytestmark = pytest.mark.encrypted

CONFTEST = """
import json
from pathlib import Path

import pytest

from nomad_testkit import Cluster
from nomad_testkit.targets import attach_target


@pytest.fixture(scope="session")
def nomad_cluster():
    told = json.loads(Path({run_json!r}).read_text())
    with attach_target(told["target"]) as target:
        cluster = Cluster.from_description(told, target=target)
        yield cluster
        cluster.close()
"""
TESTS = """
import logging

import pytest

from nomad_testkit.checks import AllocationsRunning, AutopilotHealthy, NodesReady, UnitsActive
from nomad_testkit.cluster.clients import NomadClient


def test_a_check_fails(nomad_cluster):
    secrets = nomad_cluster.secrets
    host = nomad_cluster.hosts[0]
    token, everything = secrets["nomad-management.token"], dict(secrets.values)
    print(nomad_cluster, secrets, everything, host, host.journal("nomad", 1000), host.journal("consul", 1000))
    logging.getLogger(__name__).error("%r %r", token, secrets)
    nomad_cluster.require(NodesReady(99), within=1)


def test_a_command_fails(nomad_cluster):
    nomad_cluster.servers[0].run("cat /opt/*/config/* /etc/nomad-testkit/*; exit 3", sudo=True)


def test_an_assertion_fails(nomad_cluster):
    assert nomad_cluster.secrets["consul-management.token"] == "another"


def test_a_client_is_refused(nomad_cluster):
    host, secrets = nomad_cluster.servers[0], nomad_cluster.secrets
    NomadClient(f"https://{host.address}:4646", secrets["nomad-management.token"]).nodes()


def test_an_agent_dies(nomad_cluster):
    client = nomad_cluster.clients[0]
    client.run("systemctl kill --signal=SIGKILL nomad; systemctl stop nomad", sudo=True)
    try:
        nomad_cluster.require(UnitsActive(), within=1)
    finally:
        client.run("systemctl start nomad", sudo=True)


def test_a_job_finds_no_room(nomad_cluster):
    nomad_cluster.require(NodesReady(1), within=60)
    with nomad_cluster.submitted("unplaceable/memory.nomad.hcl") as job:
        nomad_cluster.require(AllocationsRunning(job), within=30)


@pytest.fixture
def fails_after(nomad_cluster):
    yield
    nomad_cluster.servers[0].run("cat /opt/*/config/*; exit 3", sudo=True)


def test_a_teardown_fails(fails_after):
    pass


def test_one_more(nomad_cluster):
    pass
"""


@pytest.fixture(scope="module")
def secrets(nomad_cluster: Cluster) -> RunSecrets:
    assert nomad_cluster.secrets is not None
    return nomad_cluster.secrets


@pytest.fixture(scope="module")
def parts(nomad_cluster: Cluster, secrets: RunSecrets) -> frozenset[str]:
    """Every token and gossip key, and every line of every private key, those of the hosts too."""
    texts = [str(value) for name, value in secrets.values.items() if name not in (CA, KIT_CERT)]
    texts += [host.run("cat /opt/*/tls/agent-key.pem", sudo=True).stdout for host in nomad_cluster.hosts]
    lines = {line for text in texts for line in text.splitlines() if line and not line.startswith("-----")}
    assert len(lines) == 2 + 5 + 3 + 3 * 2 * len(nomad_cluster.hosts)
    for line in lines:  # each is found where it stands
        assert shown(lines, {"planted": f"one\ntoken={line};\n"}) == ["planted: token=SECRET;"]
    return frozenset(lines)


def shown(parts: Iterable[str], texts: dict[str, str]) -> list[str]:
    """List the lines that a secret stands in, with something else in its place."""
    secret = re.compile("|".join(map(re.escape, parts)))
    lines = ((name, line) for name, text in texts.items() for line in text.splitlines() if secret.search(line))
    return [f"{name}: {secret.sub('SECRET', line)[:300]}" for name, line in lines]


def read_all(folder: Path, *, but: Path | None = None) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file() and (but is None or but not in path.parents)]
    return {str(path.relative_to(folder)): path.read_text(errors="replace") for path in paths}


def test_evidence_is_complete_and_shows_no_secret(
    nomad_cluster: Cluster, parts: frozenset[str], tmp_path: Path
) -> None:
    nomad_cluster.require(AutopilotHealthy(), within=60)  # before, its answer has another status
    run = Run.find(nomad_cluster.run_id)
    folder = evidence.collect(
        nomad_cluster.hosts, tmp_path / "evidence", target=nomad_cluster.target, journal=run.journal
    )
    texts = read_all(folder)
    assert "incomplete.txt" not in texts, texts["incomplete.txt"]
    for host in nomad_cluster.hosts:
        place = f"{host.instance.group}-{host.instance_id}"
        for agent in ("consul", "nomad"):
            answers = json.loads(texts[f"{place}/{agent}-api.json"])
            refused = {name: answer for name, answer in answers.items() if "answered" in str(answer)}
            # What only servers answer, an agent that is none passes on.
            assert refused == {}
        config = texts[f"{place}/consul-config.json"]
        assert '"encrypt": "(hidden)"' in config
        assert '"verify_server_hostname": true' in config
    assert shown(parts, texts) == []


def test_the_runs_folder_shows_no_secret_and_is_its_owners_alone(
    nomad_cluster: Cluster, parts: frozenset[str], secrets: RunSecrets
) -> None:
    folder = Run.find(nomad_cluster.run_id).folder
    assert secrets.folder.parent == folder
    assert {path.stat().st_mode & 0o077 for path in folder.rglob("*")} == {0}
    assert shown(parts, read_all(folder, but=secrets.folder)) == []


def test_instances_and_their_user_data_show_no_secret(nomad_cluster: Cluster, parts: frozenset[str]) -> None:
    ec2 = nomad_cluster.target.client("ec2")
    texts: dict[str, str] = {}
    for host in nomad_cluster.hosts:
        attribute = ec2.describe_instance_attribute(InstanceId=host.instance_id, Attribute="userData")
        user_data = base64.b64decode(attribute["UserData"]["Value"]).decode()
        assert "run-consul" in user_data
        texts |= {f"user data of {host}": user_data, f"console of {host}": nomad_cluster.target.console(host.instance)}
    assert shown(parts, texts) == []


def test_logs_and_command_lines_on_the_hosts_show_no_secret(nomad_cluster: Cluster, parts: frozenset[str]) -> None:
    looks = {
        "journal": "journalctl --no-pager -o short",
        "logs": "find /var/log -type f -not -path '*/journal/*' -exec cat {} +",
        "command lines": "cat /proc/[0-9]*/cmdline 2>/dev/null; true",
        "units": "systemctl show consul nomad; systemctl cat consul nomad",
    }
    texts = {
        f"{name} on {host}": host.run(command, sudo=True).stdout
        for host in nomad_cluster.hosts
        for name, command in looks.items()
    }
    assert all("run-consul" in text for name, text in texts.items() if name.startswith("logs"))
    assert shown(parts, texts) == []


def test_nobody_else_on_the_hosts_can_read_a_secret(nomad_cluster: Cluster, parts: frozenset[str]) -> None:
    patterns = "/root/patterns"
    stranger = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    search = (
        f"mkdir -p /run/search && mount -t tmpfs tmpfs /run/search && install -m 0644 {patterns} /run/search/patterns;"
        f" {stranger} find /etc /opt /run /tmp /var /home -xdev -type f -readable -size -5M"
        " -not -path '/run/search/*' -exec grep -laF -f /run/search/patterns {} + 2>/dev/null;"
        f" umount /run/search; rm -rf /run/search {patterns}"
    )
    planted = "/opt/nomad/planted"
    for host in nomad_cluster.hosts:
        host.put(f"token = {next(iter(parts))}\n", planted, mode=0o644, sudo=True)
        for left in ([planted], []):
            host.put("\n".join(parts) + "\n", patterns, mode=0o600, sudo=True)
            assert host.run(search, sudo=True, check=False).stdout.splitlines() == left
            host.run(f"rm -f {planted}", sudo=True)


def test_what_is_said_of_a_kept_cluster_works_in_a_shell_and_shows_no_secret(
    nomad_cluster: Cluster, parts: frozenset[str], nomad_settings: Settings
) -> None:
    told = how_to_reach(Run.find(nomad_cluster.run_id))
    assert shown(parts, {"what is said": told}) == []
    exports = "\n".join(line for line in told.splitlines() if line.startswith("export "))
    agents = {agent.name: str(agent.path) for agent in agents_of(nomad_settings, progress=lambda line: None)}
    commands = (
        f"{agents['nomad']} node status -json\n{agents['consul']} catalog nodes\n{agents['consul']} acl token list"
    )
    done = subprocess.run(["bash", "-euc", f"{exports}\n{commands}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for host in nomad_cluster.hosts:
        assert host.instance_id in done.stdout


def test_a_failing_test_shows_no_secret_in_its_output_reports_and_evidence(
    nomad_cluster: Cluster, parts: frozenset[str], tmp_path: Path
) -> None:
    run_json = Run.find(nomad_cluster.run_id).folder / "run.json"
    with project_in(tmp_path) as project:
        project.write(CONFTEST.format(run_json=str(run_json)), "conftest.py")
        project.write(TESTS)
        loud = ("-vv", "-rA", "--showlocals", "--capture=no", "--full-trace", "--log-level=DEBUG", "--log-file=log.txt")
        status, said = project.run(*loud, "--junitxml=report.xml", "-o", "junit_logging=all")
    assert status == 1, said
    assert "6 failed, 2 passed, 1 error" in said
    assert "(hidden)" in said
    texts = read_all(project.folder)
    assert {"log.txt", "report.xml", "output-0.txt"} <= set(texts)
    evidence = {name for name in texts if name.startswith("nomad-artifacts/")}
    assert len([name for name in evidence if name.endswith("consul-config.json")]) == 7 * len(nomad_cluster.hosts)
    assert shown(parts, texts) == []

    sections = re.findall(r"^-+ nomad_testkit -+$\n(.*?^evidence: \S+$)", said, re.MULTILINE | re.DOTALL)
    told = {text.rpartition("/test_inner.py-")[2]: text for text in sections}
    assert len(told) == 7
    (client,), servers = nomad_cluster.clients, nomad_cluster.servers
    died = told["test_an_agent_dies"]
    assert re.search(r"^E +nomad_testkit\.errors\.CheckFailed: \w+\(.*, after \d+ s$", said, re.MULTILINE), said
    assert re.search(
        rf"^clients-0 \({client.instance_id}, {client.address}\): warnings and errors of its agents.*\n"
        r"(    .*\n)*    [\d:.]+ nomad: nomad\.service: Main process exited, code=killed",
        died,
        re.MULTILINE,
    ), died
    # On a busy machine servers may warn too, but no host is listed without a line of its own.
    assert not re.search(r"^\S+ \(i-\w+, [\d.]+\): warnings and errors.*\n(?!    )", died, re.MULTILINE), died
    no_room = told["test_a_job_finds_no_room"]
    assert re.search(
        r"^job memory-\w+:\n    [\d:.]+ evaluation \w+ \(job-register\) is complete$", no_room, re.MULTILINE
    )
    assert "not placed: group 'group': dimension 'memory' exhausted on 1 node" in no_room
    assert re.search(rf"^E +nomad_testkit\.errors\.CommandFailed: {servers[0].address}: `cat /opt/", said, re.MULTILINE)
