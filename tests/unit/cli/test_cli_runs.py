"""The command line without hosts: runs and their hosts, how they are named, found, refused and reached."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from account_run import HERE, AccountTarget, launch, left_up
from command_line import call, json_answer
from faulty_api import REFUSED, faults, refusal

from nomad_testkit.cli import logs, status
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.ec2.credentials import Credentials
from nomad_testkit.errors import AgentApiError
from nomad_testkit.runs.run import Run


@pytest.fixture(autouse=True)
def leaders(account: AccountTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_leaders", lambda cluster: {"consul": cluster.servers[0].instance_id, "nomad": None})
    monkeypatch.setattr(status, "agents_of", lambda cluster, leaders: {})


def test_a_name_can_be_left_out_where_one_run_is_up() -> None:
    result = call("env")
    assert result.exit_code == 1
    assert result.stderr == "Error: no cluster is up; `nomad-testkit up EXAMPLE` deploys one\n"
    first = left_up("dev")
    assert f"there is no host 'servers-9' in {first}" in call("logs", "servers-9").stderr
    second = left_up("test")
    result = call("env")
    assert result.exit_code == 2
    head, _, names = result.stderr.partition("Error: 2 runs are there; name one of them: ")
    assert (head, sorted(names.strip().split(", "))) == ("", sorted([str(first), str(second)]))
    assert json_answer("status", first.run_id, exits=1)["runs"][0]["name"] == "dev"


def test_status_tells_scripts_of_runs_and_hosts() -> None:
    run = left_up("dev")
    (found,) = json_answer("status", exits=1)["runs"]
    assert {name: value for name, value in found.items() if name not in ("hosts", "leaders", "example")} == {
        "run_id": run.run_id,
        "name": "dev",
        "state": "up",
        "meaning": None,
        "target": "embedded",
        "endpoint_url": "http://127.31.255.1",
        "expires": None,
        "faults": [],
        "down": ["Nomad has no leader"],
    }
    recorded = run.description()["hosts"]
    servers = [host["instance_id"] for host in recorded if host["group"] == "servers"]
    assert [host["name"] for host in found["hosts"]] == ["clients-0", "servers-0", "servers-1"]
    assert found["hosts"][1] == {
        "name": "servers-0",
        "instance_id": servers[0],
        "group": "servers",
        "state": "running",
        "private_ip": recorded[1]["private_ip"],
        "address": recorded[1]["address"],
        "availability_zone": "us-east-1a",
        "roles": ["consul server", "nomad server"],
        "leads": ["consul"] if found["leaders"]["consul"] == servers[0] else [],
        "does": [],
        "ended": None,
    }
    assert found["leaders"]["nomad"] is None
    assert "Nomad has no leader" in call("status", "dev").stdout


def test_a_host_keeps_its_name_when_it_has_ended_and_its_successor_gets_the_next(account: AccountTarget) -> None:
    run = left_up()
    before = run.description()["hosts"]
    account.client("ec2").terminate_instances(InstanceIds=[before[1]["instance_id"]])
    successor = launch(run, "servers")
    (found,) = json_answer("status", exits=1)["runs"]
    names = {host["name"]: host for host in found["hosts"]}
    assert names["servers-0"]["instance_id"] == before[1]["instance_id"]
    assert names["servers-0"]["ended"].startswith("is terminated: User initiated (20")
    assert names["servers-1"]["instance_id"] == before[2]["instance_id"]
    assert (names["servers-2"]["instance_id"], names["servers-2"]["ended"]) == (successor["instance_id"], None)

    result = call("ssh", "servers-0", "true")
    assert result.exit_code == 1
    assert f"servers-0 ({before[1]['instance_id']}) of {run.run_id} is terminated: User initiated" in result.stderr


def test_a_cloud_that_is_gone_is_told_so(account: AccountTarget) -> None:
    left_up("dev")
    account.gone = True
    result = call("status")
    assert result.exit_code == 1
    assert "dev (nt-" in result.stdout
    assert "): gone (" in result.stdout
    assert call("status", "dev").exit_code == call("status", "--name", "dev").exit_code == 1
    result = call("env")
    assert result.exit_code == 1
    assert "is gone with its embedded EC2" in result.stderr
    assert "`nomad-testkit down dev` forgets it" in result.stderr


def test_an_api_that_refuses_is_told_in_its_words(account: AccountTarget) -> None:
    run = left_up("dev")
    with faults(account.client, ["ec2"], lambda operation, _: refusal(*REFUSED, operation)):
        result = call("status")
        assert (result.exit_code, "dev (nt-" in result.stdout) == (1, True), result.output
        assert "the EC2 API refuses to answer: " in result.stdout
        assert "not you" in result.stdout
        result = call("ssh", "servers-0", "true")
    assert result.exit_code == 1
    assert f"{run}: the EC2 API refuses to answer" in result.stderr
    assert "Traceback" not in result.output


def test_a_run_in_use_is_shown_and_not_destroyed() -> None:
    run = left_up("dev")
    lock = run.lock
    assert lock.try_acquire(shared=True)
    try:
        assert json_answer("status", exits=1)["runs"][0]["state"] == "in use"
        result = call("down")
        assert result.exit_code == 1
        assert "is in use: tests are attached to it" in result.stderr
    finally:
        lock.release()
    assert Run.every() == [run]


def test_ssh_becomes_the_systems_with_the_runs_key(monkeypatch: pytest.MonkeyPatch) -> None:
    run = left_up("dev")
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda file, arguments: became.append([file, *arguments]))
    server = run.description()["hosts"][1]
    for name in ("servers-0", server["instance_id"], server["private_ip"], server["address"]):
        assert call("ssh", "--name", "dev", name, "ls", "-l", "--name", "a b").exit_code == 0
    assert len(became) == 4
    assert all(one == became[0] for one in became)
    assert became[0][:2] == ["ssh", "ssh"]
    assert became[0][-7:-4] == ["-i", str(run.key_path), f"admin@{server['address']}"]
    assert became[0][-4:] == ["ls", "-l", "--name", "a b"]


@pytest.mark.parametrize("wanted", ["server-0", "servers-7", "nothing-like-it"])
def test_an_unknown_host_is_refused(wanted: str) -> None:
    left_up()
    result = call("ssh", wanted)
    assert result.exit_code == 2
    assert f"there is no host '{wanted}' in nt-" in result.stderr
    assert "servers-" in result.stderr


def test_what_is_new_on_a_console_of_which_only_the_end_is_kept() -> None:
    assert logs._added("a\nb\n", "a\nb\nc\n") == "c\n"
    assert logs._added("a\nb\n", "b\nc\n") == "c\n"
    assert logs._added("a\n", "z\n") == "z\n"
    assert logs._added("a\n", "a\n") == ""


def test_env_is_evaluated_by_a_shell(account: AccountTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cloud = tmp_path / "the cloud"
    cloud.mkdir()
    Credentials("AKIAIOSFODNN7EXAMPLE", "hidden").write(cloud / "secret-access-key")
    account.here = {**HERE, "state_dir": str(cloud), "access_key_id": "AKIAIOSFODNN7EXAMPLE"}
    run = left_up("dev", target=account.here)
    server = run.description()["hosts"][1]["address"]
    monkeypatch.setattr(
        "nomad_testkit.cli.env.leading_servers",
        lambda cluster: {"nomad": f"http://{server}:4646", "consul": "http://x"},
    )
    monkeypatch.setenv("NOMAD_TOKEN", "another cluster's")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    lines = call("env").stdout
    assert lines.splitlines()[0] == "unset NOMAD_TOKEN AWS_PROFILE"
    shell = f'{lines}\necho "$NOMAD_ADDR $AWS_REGION $AWS_ACCESS_KEY_ID"'
    shell += ' "$AWS_SECRET_ACCESS_KEY ${NOMAD_TOKEN-none} ${AWS_PROFILE-none}"'
    said = subprocess.run(["sh", "-euc", shell], capture_output=True, text=True, check=True).stdout
    assert said == f"http://{server}:4646 us-east-1 AKIAIOSFODNN7EXAMPLE hidden none none\n"
    assert json_answer("env") == {
        "run_id": run.run_id,
        "variables": {
            "NOMAD_ADDR": f"http://{server}:4646",
            "CONSUL_HTTP_ADDR": "http://x",
            "AWS_ENDPOINT_URL": "http://127.31.255.1",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        },
        "files": {"AWS_SECRET_ACCESS_KEY": f"{cloud}/secret-access-key"},
        "unset": ["NOMAD_TOKEN", "AWS_PROFILE"],
    }


def test_a_leader_is_asked_for_until_a_server_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    asked: list[str] = []

    def host(name: str, answer: str | None) -> Any:
        def leader() -> str:
            asked.append(name)
            if answer is None:
                raise AgentApiError("consul", "http://x", None, "refused")
            return answer

        agent = SimpleNamespace(leader=leader)
        return SimpleNamespace(instance_id=name, private_ip=f"172.31.0.{name[-1]}", nomad=agent, consul=agent)

    found = [host("i-1", None), host("i-2", ""), host("i-3", "172.31.0.2:4647")]
    three = type("ThreeServers", (Cluster,), {"consul_servers": found, "nomad_servers": []})
    assert status._leaders(object.__new__(three)) == {"consul": "i-2", "nomad": None}
    assert asked == ["i-1", "i-2", "i-3"]
