"""The command line without hosts: what is chosen, refused, suggested, quoted and told to scripts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import click
import pytest
from account_run import EXAMPLE, AccountTarget, launch, left_up
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from moto import mock_aws

from nomad_testkit import setup, targets
from nomad_testkit.cli import deployment, doctor, hosts, images, jobs, main, status
from nomad_testkit.cli.group import main as group
from nomad_testkit.cli.verification import CHECKS
from nomad_testkit.cluster import Cluster
from nomad_testkit.errors import AgentApiError, DeployError, Missing, UsageError
from nomad_testkit.examples import Sizes
from nomad_testkit.modules.steps import IMAGE
from nomad_testkit.runs import Run
from nomad_testkit.settings import Settings
from nomad_testkit.wait import Broken, Ok, Pending


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AccountTarget]:
    for name in [name for name in os.environ if name.startswith(("NOMAD_", "CONSUL_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path))
    monkeypatch.setenv("NOMAD_TESTKIT_CACHE", str(tmp_path / "cache"))
    made = AccountTarget()
    monkeypatch.setattr(targets, "attach_target", made.attach)
    monkeypatch.setattr(status, "_leaders", lambda cluster: {"consul": cluster.servers[0].instance_id, "nomad": None})
    with mock_aws():
        yield made


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def told(*arguments: str) -> Any:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def completed(*words: str) -> list[str]:
    """Complete the last word."""
    shell = ShellComplete(main, {}, "nomad-testkit", "_NOMAD_TESTKIT_COMPLETE")
    return [one.value for one in shell.get_completions(list(words[:-1]), words[-1])]


# -- the group


def test_an_unknown_command_suggests_the_nearest() -> None:
    for arguments, said in (
        (["dwon"], "there is no command 'dwon' in main; right is perhaps down"),
        (["ami", "biuld"], "there is no command 'biuld' in main ami; right is perhaps build"),
        (["xyz"], "right is one of ami, bench, check"),
    ):
        result = call(*arguments)
        assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


def test_exit_codes_are_told_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    text = call("--help").stdout
    for line in ("0    it is done", "1    something failed", "2    wrong usage", "130  interrupted"):
        assert f"  {line}" in text

    errors: list[tuple[BaseException, int]] = [(UsageError("x"), 2), (DeployError("x"), 1), (KeyboardInterrupt(), 130)]
    for raised, code in errors:
        raised.add_note("and a note")
        monkeypatch.setattr(Run, "every", Mock(side_effect=raised))
        result = call("status")
        assert result.exit_code == code
        assert "and a note" in result.stderr
        assert "Traceback" not in result.output


# -- runs and hosts


def test_a_name_can_be_left_out_where_one_run_is_up() -> None:
    result = call("env")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: no cluster is up; `nomad-testkit up EXAMPLE` deploys one\n",
    )
    first = left_up("dev")
    assert f"there is no host 'servers-9' in {first}" in call("logs", "servers-9").stderr
    second = left_up("test")
    result = call("env")
    assert result.exit_code == 2
    head, _, names = result.stderr.partition("Error: 2 runs are there; name one of them: ")
    assert (head, sorted(names.strip().split(", "))) == ("", sorted([str(first), str(second)]))
    assert told("status", first.run_id)["runs"][0]["name"] == "dev"


def test_status_tells_scripts_of_runs_and_hosts() -> None:
    run = left_up("dev")
    (found,) = told("status")["runs"]
    assert {name: value for name, value in found.items() if name not in ("hosts", "leaders", "example")} == {
        "run_id": run.run_id,
        "name": "dev",
        "state": "up",
        "meaning": None,
        "target": "embedded",
        "endpoint_url": "http://127.31.255.1",
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
        "ended": None,
    }
    assert found["leaders"]["nomad"] is None
    assert "Nomad has no leader" in call("status", "dev").stdout


def test_a_host_keeps_its_name_when_it_has_ended_and_its_successor_gets_the_next(account: AccountTarget) -> None:
    run = left_up()
    before = run.description()["hosts"]
    account.client("ec2").terminate_instances(InstanceIds=[before[1]["instance_id"]])
    successor = launch(run, "servers")
    (found,) = told("status")["runs"]
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
    assert result.exit_code == 0
    assert "dev (nt-" in result.stdout
    assert "): gone (" in result.stdout
    assert call("status", "dev").exit_code == 1
    result = call("env")
    assert result.exit_code == 1
    assert "is gone with its embedded EC2" in result.stderr
    assert "`nomad-testkit down dev` forgets it" in result.stderr


def test_a_run_in_use_is_shown_and_not_destroyed() -> None:
    run = left_up("dev")
    lock = run.lock
    assert lock.try_acquire(shared=True)
    try:
        assert told("status")["runs"][0]["state"] == "in use"
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
    assert became[0][-7:] == [
        *("-i", str(run.key_path), f"admin@{server['address']}"),
        *("ls", "-l", "--name", "a b"),
    ]


@pytest.mark.parametrize("wanted", ["server-0", "servers-7", "nothing-like-it"])
def test_an_unknown_host_is_refused(wanted: str) -> None:
    left_up()
    result = call("ssh", wanted)
    assert result.exit_code == 2
    assert f"there is no host '{wanted}' in nt-" in result.stderr
    assert "servers-0" in result.stderr


def test_what_is_new_on_a_console_of_which_only_the_end_is_kept() -> None:
    assert hosts._added("a\nb\n", "a\nb\nc\n") == "c\n"
    assert hosts._added("a\nb\n", "b\nc\n") == "c\n"
    assert hosts._added("a\n", "z\n") == "z\n"
    assert hosts._added("a\n", "a\n") == ""


# -- addresses


def test_env_is_evaluated_by_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    run = left_up("dev")
    server = run.description()["hosts"][1]["address"]
    monkeypatch.setattr(
        "nomad_testkit.cli.addresses._servers", lambda cluster: {"nomad": f"http://{server}:4646", "consul": "http://x"}
    )
    monkeypatch.setenv("NOMAD_TOKEN", "another cluster's")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    lines = call("env").stdout
    assert lines.splitlines()[0] == "unset NOMAD_TOKEN AWS_PROFILE"
    shell = f'{lines}\necho "$NOMAD_ADDR $AWS_REGION $AWS_ACCESS_KEY_ID ${{NOMAD_TOKEN-none}} ${{AWS_PROFILE-none}}"'
    said = subprocess.run(["sh", "-euc", shell], capture_output=True, text=True, check=True).stdout
    assert said == f"http://{server}:4646 us-east-1 embedded none none\n"
    assert told("env") == {
        "run_id": run.run_id,
        "variables": {
            "NOMAD_ADDR": f"http://{server}:4646",
            "CONSUL_HTTP_ADDR": "http://x",
            "AWS_ENDPOINT_URL": "http://127.31.255.1",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "embedded",
            "AWS_SECRET_ACCESS_KEY": "embedded",
        },
        "files": {},
        "unset": ["NOMAD_TOKEN", "AWS_PROFILE"],
    }


# -- deployments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nomad-consul-colocated-clustre"], "perhaps nomad-consul-colocated-cluster"),
        ([EXAMPLE, "--servers", "none"], "--servers': found 'none', expected a whole number, 1 or more"),
        ([EXAMPLE, "--var", "num_client=1"], "option --var: "),
        ([EXAMPLE, "--name", "nt-mine"], "found 'nt-mine', expected a letter"),
        ([EXAMPLE, "--name", "dev"], "found 'dev', which is the name of nt-"),
        ([EXAMPLE, "--clients", "1", "--var", "num_clients=2"], "1 by option --clients, and 2 by option --var"),
        ([], "Missing argument 'EXAMPLE'"),
    ],
)
def test_up_refuses_bad_input_before_anything_is_made(arguments: list[str], said: str) -> None:
    left_up("dev")
    result = call("up", *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert len(Run.every()) == 1


def test_settings_come_from_options_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_TIMEOUT", "90")
    monkeypatch.setenv("NOMAD_TESTKIT_ATTACH", "dev")  # they say something to pytest only
    monkeypatch.setenv("NOMAD_TESTKIT_KEEP", "true")
    settings = deployment.settings_of({"servers": "1", "var": ("a=1", "b=2"), "ami": None}, example="mine")
    assert (settings.servers, settings.var, settings.example) == (1, {"a": "1", "b": "2"}, "mine")
    assert (settings.timeout, settings.attach, settings.keep) == (90.0, None, False)
    assert settings.source("servers") == "option --servers"


def test_an_interrupt_destroys_what_was_just_left_up(monkeypatch: pytest.MonkeyPatch) -> None:
    run = left_up()
    destroyed: list[str] = []

    def destroy(one: Run) -> str:
        destroyed.append(one.run_id)
        one.forget()
        return "destroyed"

    monkeypatch.setattr("nomad_testkit.cli.teardown.destroy_run", destroy)

    def interrupted() -> None:
        with deployment.left_up() as leave:
            leave(run.run_id)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (destroyed, Run.every()) == ([run.run_id], [])


# -- images


def test_amis_are_listed_and_deleted_by_their_id(account: AccountTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    run = left_up(hosts=[])
    ami = account.client("ec2").register_image(Name="nomad-consul-1")["ImageId"]
    run.journal.record(IMAGE, "nomad-consul-1")
    run.journal.created(IMAGE, "nomad-consul-1", ami)
    (found,) = told("ami", "list")["amis"]
    assert found == {
        "ami": ami,
        "run_id": run.run_id,
        "name": "nomad-consul-1",
        "target": "embedded",
        "state": "available",
    }
    assert (images.home_of(ami), images.home_of("ami-00000000")) == (run, None)
    assert told("status")["runs"][0]["state"] == "image"
    monkeypatch.setattr(images, "destroy_run", lambda one: f"{one.run_id} is destroyed")
    assert call("ami", "delete", ami).stdout == f"{run.run_id} is destroyed\n"
    result = call("ami", "delete", ami[:-1])
    assert result.exit_code == 2
    assert f"right is perhaps {ami}" in result.stderr


# -- checks and jobs


def test_every_check_can_be_made() -> None:
    checks = {name: make(Sizes(3, 3, 6)) for name, make in CHECKS.items()}
    assert len({repr(check) for check in checks.values()}) == len(CHECKS)
    assert call("check", "--list").stdout.split() == list(CHECKS)


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({"why_not": "group 'web': no room"}, Broken("it cannot be placed: group 'web': no room")),
        ({"pending": True}, Pending("the scheduler has not looked at it yet")),
        ({"statuses": ["running"]}, Pending("1 of 2 allocations of group 'web' are running")),
        ({"statuses": ["running", "running"]}, Ok(None)),
        ({"statuses": ["running"], "everywhere": True}, Ok(None)),
        ({"statuses": [], "everywhere": True}, Pending("0 of 1 allocations of group 'web' are running")),
        (
            {"statuses": ["failed"], "status": "dead"},
            Broken("0 of 2 allocations of group 'web' are running; web.web[0] on i-1 is failed: task x: Terminated"),
        ),
    ],
)
def test_a_job_is_judged_by_what_nomad_says(facts: Mapping[str, Any], verdict: object) -> None:
    from nomad_testkit.checks.scheduling import Allocation

    allocations = [
        Allocation(f"a{number}", f"web.web[{number}]", "web", "i-1", "run", one, "task x: Terminated")
        for number, one in enumerate(facts.get("statuses", ()))
    ]
    watched = jobs._Watched(
        facts.get("status", "running"), tuple(allocations), facts.get("why_not"), facts.get("pending", False)
    )
    assert jobs.judged(watched, "running", {"web": 2}, everywhere=facts.get("everywhere", False)) == verdict


# -- doctor


def test_doctor_tells_what_is_missing_with_its_fix_and_fixes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    there: set[str] = set()

    def findings(settings: Settings) -> list[doctor.Finding]:
        nft = doctor.Finding("nft", doctor.MISSING, fix="apt-get install nftables", package="nftables")
        image = doctor.Finding("base image", doctor.LATER, fix="at first use", make=lambda: made.append("image"))
        packer = doctor.Finding("packer", doctor.MISSING, package="packer", optional=True)
        return [doctor.Finding("nft", doctor.FOUND, "/usr/sbin/nft") if "nftables" in there else nft, image, packer]

    monkeypatch.setattr(doctor, "findings", findings)
    result = call("doctor")
    assert result.exit_code == 1
    assert "MISSING  nft\n         apt-get install nftables\nlater    base image\n" in result.stdout
    assert "-        packer\n" in result.stdout
    assert json.loads(call("doctor", "--json").stdout) == {
        "ready": False,
        "findings": [
            {
                "what": "nft",
                "state": "missing",
                "where": None,
                "fix": "apt-get install nftables",
                "optional": False,
            },
            {"what": "base image", "state": "later", "where": None, "fix": "at first use", "optional": False},
            {"what": "packer", "state": "missing", "where": None, "fix": None, "optional": True},
        ],
    }
    monkeypatch.setattr(setup, "install", lambda packages, run, say: there.update(packages))
    result = call("doctor", "--fix")
    assert (result.exit_code, there, made) == (0, {"nftables"}, ["image"])
    assert "everything needed is there" in result.stdout
    call("doctor", "--fix", "--optional")
    assert "packer" in there


def test_doctor_looks_at_the_programs_and_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "find_program", lambda name: None if name == "nft" else f"/bin/{name}")
    monkeypatch.setattr("nomad_testkit.agents.preflight", lambda *_, **__: [Missing("nomad", "name a binary")])
    found = {one.what: one for one in doctor.findings(Settings())}
    assert (found["nft"].state, found["nft"].fix) == ("missing", "apt-get install nftables")
    assert (found["ip"].state, found["ip"].where) == ("found", "/bin/ip")
    assert (found["nomad 1.6.1"].state, found["nomad 1.6.1"].fix) == ("missing", "name a binary")
    assert found["folder for runs"].state == "found"


# -- completion


def test_a_shell_completes_commands_runs_hosts_checks_and_examples() -> None:
    run = left_up("dev")
    other = left_up()
    client = run.description()["hosts"][0]["instance_id"]
    assert completed("st") == ["status"]
    assert completed("ami", "") == ["build", "delete", "list"]
    assert sorted(completed("status", "")) == sorted(["dev", other.run_id])
    assert completed("ssh", "--name", "d") == ["dev"]
    assert completed("ssh", "--name", "dev", "") == ["clients-0", "servers-0", "servers-1"]
    assert completed("ssh", "--name", "dev", client[:-1]) == [client]
    assert completed("ssh", "") == []  # of which run?
    assert completed("check", "nodes") == ["nodes-ready"]
    assert completed("up", "nomad-consul-c") == ["nomad-consul-colocated-cluster"]
    assert completed("logs", "servers-0", "us") == ["user-data"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_what_a_shell_evaluates(shell: str) -> None:
    result = call("completion", shell)
    assert result.exit_code == 0
    assert "_NOMAD_TESTKIT_COMPLETE" in result.stdout
    if shell == "bash":
        script = f"{result.stdout}\ncomplete -p nomad-testkit"
        said = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True).stdout
        assert said.endswith(" nomad-testkit\n")


def test_every_command_has_help() -> None:
    def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield path
        for name, one in getattr(command, "commands", {}).items():
            yield from walk(one, (*path, name))

    for path in walk(group, ()):
        result = call(*path, "--help")
        assert (result.exit_code, "Usage: " in result.stdout) == (0, True), path


def test_a_leader_is_asked_for_until_a_server_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    asked: list[str] = []

    class Agent:
        def __init__(self, name: str, answer: str | None) -> None:
            self.name, self.answer = name, answer

        def leader(self) -> str:
            asked.append(self.name)
            if self.answer is None:
                raise AgentApiError("consul", "http://x", None, "refused")
            return self.answer

    class Host:
        def __init__(self, name: str, answer: str | None) -> None:
            self.instance_id, self.private_ip = name, f"172.31.0.{name[-1]}"
            self.nomad = self.consul = Agent(name, answer)

    found: Any = [Host("i-1", None), Host("i-2", ""), Host("i-3", "172.31.0.2:4647")]
    cluster: Any = type("FakeCluster", (Cluster,), {"consul_servers": found, "nomad_servers": []})
    assert status._leaders(cluster) == {"consul": "i-2", "nomad": None}
    assert asked == ["i-1", "i-2", "i-3"]
