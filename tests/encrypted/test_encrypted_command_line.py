"""The command line on the encrypted cluster: its words for a shell and a browser are of use, and show no secret."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from nomad_testkit import Cluster
from nomad_testkit.cli import main
from nomad_testkit.cluster.secrets import CA, CONSUL_MANAGEMENT, KIT_CERT, KIT_KEY, NOMAD_MANAGEMENT
from nomad_testkit.settings import Settings
from nomad_testkit.targets.embedded.target import agents_of

pytestmark = pytest.mark.encrypted


def shown(cluster: Cluster, *arguments: str) -> str:
    """Call a command, and see that it shows no secret."""
    result = CliRunner().invoke(main, [*arguments, "--name", cluster.run_id])
    assert result.exit_code == 0, result.output
    assert cluster.secrets is not None
    assert cluster.secrets.hide(result.output) == result.output
    return result.stdout


def test_env_lets_the_agents_own_programs_in(nomad_cluster: Cluster, nomad_settings: Settings) -> None:
    exports = shown(nomad_cluster, "env")
    agents = {agent.name: str(agent.path) for agent in agents_of(nomad_settings, progress=print)}
    script = f"{exports}\n{agents['nomad']} node status -json\n{agents['consul']} catalog nodes"
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for host in nomad_cluster.hosts:
        assert host.instance_id in done.stdout

    secrets = nomad_cluster.secrets
    assert secrets is not None
    told = json.loads(shown(nomad_cluster, "env", "--json"))
    assert told["files"]["NOMAD_TOKEN"] == str(secrets.folder / NOMAD_MANAGEMENT)
    assert told["files"].keys() == {"NOMAD_TOKEN", "AWS_SECRET_ACCESS_KEY"}
    assert told["variables"]["NOMAD_CACERT"] == str(secrets.folder / CA)
    assert told["variables"]["CONSUL_HTTP_TOKEN_FILE"] == str(secrets.folder / CONSUL_MANAGEMENT)


def test_ui_names_what_a_browser_needs(nomad_cluster: Cluster) -> None:
    secrets = nomad_cluster.secrets
    assert secrets is not None
    told: dict[str, Any] = json.loads(shown(nomad_cluster, "ui", "--json"))
    cert = (told["client_certificate"], str(secrets.folder / KIT_KEY))
    for url in told["urls"].values():
        assert url.startswith("https://")
        assert requests.get(url, verify=told["ca"], cert=cert, timeout=10).status_code == 200
    assert set(told["tokens"]) == {"nomad", "consul"}
    assert all(Path(path).stat().st_mode & 0o077 == 0 for path in told["tokens"].values())
    text = shown(nomad_cluster, "ui")
    assert str(secrets.folder / KIT_CERT) in text
    assert f"Nomad lets in who has the token in {secrets.folder / NOMAD_MANAGEMENT}" in text


def test_logs_checks_and_jobs_work_through_tls_and_acls(nomad_cluster: Cluster) -> None:
    group = nomad_cluster.servers[0].instance.group
    assert "Nomad agent started" in shown(nomad_cluster, "logs", f"{group}-0", "nomad", "-n", "2000")
    checks = json.loads(shown(nomad_cluster, "check", "leader", "nodes-ready", "consul-registered", "--json"))
    assert checks["holds"] is True
    done = json.loads(shown(nomad_cluster, "job", "run", "batch.nomad.hcl", "--var", "message=hi", "--json"))
    assert {one["status"] for one in done["allocations"]} == {"complete"}
    assert "is stopped" in shown(nomad_cluster, "job", "stop", "batch", "--purge")


def test_ssh_logs_in_with_the_runs_key(nomad_cluster: Cluster) -> None:
    command = [sys.executable, "-m", "nomad_testkit", "ssh", "--name", nomad_cluster.run_id]
    server = nomad_cluster.servers[0]
    done = subprocess.run([*command, server.private_ip, "hostname"], capture_output=True, text=True, timeout=60)
    assert done.stdout == server.run("hostname").stdout, done.stderr
