"""The command line on a real cluster, which one `up` leaves up for all of these tests, in their order."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result
from pytest_runs import Project, PytestRun, project_in

from nomad_testkit.cli import main
from nomad_testkit.modules.bundle import examples_dir, fixtures_dir
from nomad_testkit.runs.run import Run
from nomad_testkit.settings import Settings
from nomad_testkit.targets import attach_target
from nomad_testkit.targets.embedded.target import agents_of
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

EXAMPLE = "nomad-consul-colocated-cluster"
SECONDS = 60.0


@dataclass
class Shell:
    """Calls commands in this process, or starts them in one of their own."""

    project: Project
    up: PytestRun

    def call(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, arguments)

    def json(self, *arguments: str) -> Any:
        result = self.call(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    def spawn(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "nomad_testkit", *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.spawn(*arguments)
        stdout, stderr = process.communicate(timeout=SECONDS)
        return process.returncode, stdout, stderr

    def hosts(self) -> dict[str, dict[str, Any]]:
        # It ends with 1 where something is down, as just before an instance has a successor.
        (told,) = json.loads(self.call("status", "--json").stdout)["runs"]
        return {host["name"]: host for host in told["hosts"]}


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with project_in(tmp_path_factory.mktemp("command-line")) as project, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("NOMAD_TESTKIT_") and not name.endswith("_CACHE")]:
            patch.delenv(name)
        patch.setenv("NOMAD_TESTKIT_STATE", str(project.state))
        options = ("--servers", "1", "--clients", "1", "--name", "dev", "--artifacts", str(project.folder / "evidence"))
        before = os.umask(0o027)  # as careful users have it: what is written on the hosts is to be as with any other
        try:
            run = project.start_module("nomad_testkit", "up", EXAMPLE, *options)
        finally:
            os.umask(before)
        try:
            assert run.await_end() == 0, run.text
            yield Shell(project, run)
        finally:
            for left in Run.every():
                CliRunner().invoke(main, ["down", left.run_id])


def test_up_tells_how_things_go_and_how_to_use_it(shell: Shell) -> None:
    text = shell.up.text
    (run_id,) = shell.up.deployed
    assert f"dev ({run_id}) is up, with 2 hosts" in text
    assert "Nomad leader" in text
    assert "nomad-testkit ssh servers-0" in text
    assert "destroyed" not in text


def test_status_shows_hosts_states_and_leaders(shell: Shell) -> None:
    (told,) = shell.json("status", "dev")["runs"]
    assert (told["name"], told["state"], told["target"]) == ("dev", "up", "embedded")
    hosts = {host["name"]: host for host in told["hosts"]}
    assert {name: (host["state"], host["roles"]) for name, host in hosts.items()} == {
        "clients-0": ("running", ["nomad client"]),
        "servers-0": ("running", ["consul server", "nomad server"]),
    }
    server = hosts["servers-0"]["instance_id"]
    assert told["leaders"] == {"consul": server, "nomad": server}

    text = shell.call("status").stdout
    row = next(line for line in text.splitlines() if server in line)
    assert row.split()[:3] == ["servers-0", server, "running"]
    assert "consul server leader, nomad server leader" in row
    assert "consul client alive, nomad client ready" in text


def test_ssh_passes_on_output_and_status_by_any_name_of_a_host(shell: Shell) -> None:
    server = shell.hosts()["servers-0"]
    status, stdout, stderr = shell.run("ssh", "servers-0", "hostname; exit 7")
    assert (status, stderr) == (7, "")
    assert stdout == f"ip-{server['private_ip'].replace('.', '-')}\n"
    for name in (server["instance_id"], server["private_ip"], server["address"]):
        # As with ssh, the host's shell has the words.
        assert shell.run("ssh", "--name", "dev", name, "echo", "-n", "'a  b'")[:2] == (0, "a  b")


def test_ssh_without_a_command_is_a_shell_on_a_terminal(shell: Shell) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "nomad_testkit", "ssh", "servers-0"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.write(ours, b"tty; exit 5\n")
    shown = b""
    with suppress(OSError):  # at the end
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert process.wait(SECONDS) == 5, shown
    assert b"/dev/pts/" in shown


def test_an_unknown_host_and_run_suggest_the_nearest(shell: Shell) -> None:
    result = shell.call("ssh", "server-0", "true")
    assert result.exit_code == 2
    assert "there is no host 'server-0' in dev" in result.stderr
    assert "did you mean servers-0" in result.stderr
    result = shell.call("env", "--name", "def")
    assert result.exit_code == 2
    assert "there is no run 'def'" in result.stderr
    assert "did you mean dev" in result.stderr


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("agents", "consul["),
        ("consul", "Synced node info"),
        ("nomad", "Nomad agent started"),
        ("user-data", "user data ended with status 0"),
        ("console", "cloud-init"),
    ],
)
def test_logs_show_what_a_host_has_logged(shell: Shell, log: str, said: str) -> None:
    result = shell.call("logs", "servers-0", log, "--lines", "500")
    assert result.exit_code == 0, result.stderr
    assert said in result.stdout
    assert len(shell.call("logs", "servers-0", log, "-n", "2").stdout.splitlines()) == 2


def test_logs_are_followed_until_they_are_interrupted_and_nothing_stays_on_the_host(shell: Shell) -> None:
    process = shell.spawn("logs", "-f", "servers-0", "user-data", "-n", "1")
    assert process.stdout is not None
    assert process.stdout.readline() == "user data ended with status 0\n"
    assert shell.run("ssh", "servers-0", "echo more | sudo tee -a /var/log/user-data.log")[0] == 0
    assert process.stdout.readline() == "more\n"
    assert shell.run("ssh", "servers-0", "pgrep -a tail")[1].count("tail -n 1 -F /var/log/user-data.log") == 1
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=SECONDS)
    assert (process.returncode, stderr) == (130, "interrupted\n")

    def probe() -> Ok[None] | Pending:
        status, stdout, _ = shell.run("ssh", "servers-0", "pgrep -a tail")
        return Ok(None) if status == 1 else Pending(stdout)

    wait_until("the end of tail on the host", probe, deadline=Deadline.after(SECONDS))


def test_a_console_is_followed_too(shell: Shell) -> None:
    process = shell.spawn("logs", "servers-0", "console", "--follow", "--lines", "1")
    assert process.stdout is not None
    assert process.stdout.readline() != ""
    assert shell.run("ssh", "servers-0", "echo a new line | sudo tee /dev/console")[0] == 0
    timer = threading.Timer(SECONDS, process.kill)
    timer.start()
    assert "a new line" in map(str.rstrip, process.stdout)
    timer.cancel()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 130


@pytest.mark.parametrize("interpreter", ["sh", "bash"])
def test_env_lets_the_agents_own_programs_and_aws_talk_to_it(shell: Shell, interpreter: str) -> None:
    agents = {agent.name: str(agent.path) for agent in agents_of(Settings(), progress=print)}
    boto = (
        "import boto3; ec2 = boto3.client('ec2')\n"
        "for one in ec2.describe_instances()['Reservations']: print(one['Instances'][0]['InstanceId'])"
    )
    script = f"""
        eval "$({sys.executable} -m nomad_testkit env)"
        {agents["nomad"]} node status -json
        {agents["consul"]} catalog nodes
        {sys.executable} -c "{boto}"
        echo "token: ${{NOMAD_TOKEN-none}}"
    """
    # All of these lead elsewhere.
    elsewhere = dict.fromkeys(("NOMAD_ADDR", "CONSUL_HTTP_ADDR", "AWS_ENDPOINT_URL"), "http://127.0.0.1:9")
    elsewhere |= {"NOMAD_TOKEN": "another cluster's", "CONSUL_HTTP_TOKEN": "x", "AWS_PROFILE": "another account's"}
    done = subprocess.run(
        [interpreter, "-euc", script], capture_output=True, text=True, timeout=SECONDS, env={**os.environ, **elsewhere}
    )
    assert done.returncode == 0, done.stderr
    nomad, _, rest = done.stdout.partition("\n]")
    hosts = shell.hosts()
    assert hosts["clients-0"]["instance_id"] in nomad
    for host in hosts.values():
        assert rest.count(host["instance_id"]) == 2  # by consul and by boto3
    assert "token: none" in rest


def test_env_is_told_to_scripts_as_json(shell: Shell) -> None:
    told = shell.json("env")
    server = shell.hosts()["servers-0"]
    assert told["variables"]["NOMAD_ADDR"] == f"http://{server['address']}:4646"
    assert told["variables"]["CONSUL_HTTP_ADDR"] == f"http://{server['address']}:8500"
    assert set(told["files"]) == {"AWS_SECRET_ACCESS_KEY"}


def test_ui_shows_pages_that_answer(shell: Shell) -> None:
    told = shell.json("ui")
    for agent, url in told["urls"].items():
        page = requests.get(url, timeout=10)
        assert (page.status_code, agent in page.text.lower()) == (200, True), url
    server = shell.hosts()["servers-0"]["address"]
    assert f"ssh -N -L 4646:{server}:4646 -L 8500:{server}:8500 " in shell.call("ui").stdout


def test_check_shows_what_was_wanted_and_seen(shell: Shell) -> None:
    result = shell.call("check", "--within", str(SECONDS))
    assert result.exit_code == 0, result.stdout
    assert "leader: ok\n  wanted: one leader, " in result.stdout
    told = shell.json("check", "nodes-ready", "nomad-raft-peers")
    assert told["holds"] is True
    assert [one["name"] for one in told["checks"]] == ["nomad-raft-peers", "nodes-ready"]


def test_a_check_that_fails_ends_with_1_and_an_unknown_one_suggests_the_nearest(shell: Shell) -> None:
    nomad = shell.json("env")["variables"]["NOMAD_ADDR"]
    (node,) = requests.get(f"{nomad}/v1/nodes", timeout=10).json()

    def set_eligibility(word: str) -> None:
        body = {"Eligibility": word}
        requests.post(f"{nomad}/v1/node/{node['ID']}/eligibility", json=body, timeout=10).raise_for_status()

    set_eligibility("ineligible")
    try:
        result = shell.call("check", "leader", "nodes-ready", "--within", "0", "--json")
    finally:
        set_eligibility("eligible")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["holds"] is False
    assert [(one["name"], one["verdict"]) for one in told["checks"]] == [("nodes-ready", "pending"), ("leader", "ok")]
    assert "ineligible" in told["checks"][0]["seen"]

    result = shell.call("check", "node-ready")
    assert result.exit_code == 2
    assert "there is no check 'node-ready'; did you mean nodes-ready" in result.stderr


def test_status_ends_with_1_and_check_names_the_cause_where_an_agent_is_stopped(shell: Shell) -> None:
    assert shell.run("exec", "--sudo", "clients-0", "--", "systemctl", "stop", "nomad")[0] == 0
    try:
        result, checked = shell.call("status", "dev"), shell.call("check", "--within", "0")
    finally:
        assert shell.run("exec", "--sudo", "clients-0", "--", "systemctl", "start", "nomad")[0] == 0
    assert result.exit_code == 1
    assert re.search(r"DOWN  nomad client (stopped|failed|deactivating) on clients-0", result.stdout), result.stdout
    assert checked.exit_code == 1
    assert re.match(r"\d of 15 checks fail; units-active: .*nomad is", checked.stdout), checked.stdout
    assert shell.call("check", "nodes-ready", "units-active", "--within", str(SECONDS)).exit_code == 0


def test_hosts_are_described_copied_from_and_shown_together(shell: Shell, tmp_path: Path) -> None:
    server = shell.hosts()["servers-0"]
    assert shell.run("exec", "servers-0", "printf", "%s|", "a  b", "$HOME") == (0, "a  b|$HOME|", "")
    assert shell.run("cp", "-q", "servers-0:/etc/hostname", str(tmp_path / "name"))[0] == 0
    assert (tmp_path / "name").read_text() == f"ip-{server['private_ip'].replace('.', '-')}\n"
    told = shell.json("describe", "clients-0")
    assert (told["node"]["status"], told["units"][1][:9]) == ("ready", "nomad is ")
    assert "nomad-client" in {one["name"] for one in told["services"]}
    lines = shell.call("logs", "--since", "1h", "-n", "400").stdout.splitlines()
    assert {line.split()[0] for line in lines} == {"servers-0", "clients-0"}
    stamps = [line.split()[1][:19] for line in lines]  # in seconds: a journal's own order is not that of its stamps
    assert stamps == sorted(stamps)
    assert {"launched", "Cluster: Node registered"} <= {one["what"] for one in shell.json("events")["events"]}


def test_a_shell_has_the_cluster_and_ports_are_forwarded(shell: Shell) -> None:
    leader = f"{shell.hosts()['servers-0']['private_ip']}:4647"
    assert shell.run("shell", "dev", "-c", "print(nomad_cluster.nomad.leader())")[:2] == (0, f"{leader}\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = shell.spawn("port-forward", "servers-0", f"{port}:4646")

    def probe() -> Ok[str] | Pending:
        try:
            return Ok(str(requests.get(f"http://127.0.0.1:{port}/v1/status/leader", timeout=5).json()))
        except requests.RequestException as error:
            return Pending(str(error))

    try:
        assert wait_until("the forwarded port", probe, deadline=Deadline.after(SECONDS)) == leader
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)


def test_reach_tells_why_by_rules_listener_and_a_connection(shell: Shell) -> None:
    told = shell.json("reach", "clients-0", "servers-0:4647")
    assert (told["reached"], {one["good"] for one in told["findings"]}) == (True, {True})
    assert shell.json("reach", "servers-0", "clients-0:8301/udp")["reached"] is True
    result = shell.call("reach", "servers-0", "clients-0:9999")
    assert result.exit_code == 1
    assert "no rule lets tcp 9999 in from servers-0" in result.stdout.splitlines()[0]
    assert "nothing listens on tcp 9999" in result.stdout
    # Open, but nobody there: the rules do not speak against it, and the connection does.
    result = shell.call("reach", "clients-0", "servers-0:8600")
    assert result.exit_code == 0, result.stdout


def test_jobs_run_and_are_stopped(shell: Shell) -> None:
    told = shell.json("job", "run", "web.nomad.hcl", "--var", "count=2")
    assert told["failure"] is None
    assert [one["status"] for one in told["allocations"]] == ["running"] * 2
    # Again, with another number: what runs from before counts only as far as it stays.
    told = shell.json("job", "run", "web.nomad.hcl", "--var", "count=1")
    assert [one["status"] for one in told["allocations"] if one["desired"] == "run"] == ["running"]
    told = shell.json("job", "run", "batch.nomad.hcl", "--var", "message=hello")
    assert {one["status"] for one in told["allocations"]} == {"complete"}
    assert shell.json("job", "status")["jobs"][-1]["job"] == "web"
    assert shell.json("job", "status", "web")["not_placed"] == []
    assert any("hello" in one["lines"] for one in shell.json("job", "logs", "batch")["logs"])
    result = shell.call("job", "stop", "wbe")
    assert result.exit_code == 2
    assert "did you mean web" in result.stderr
    result = shell.call("job", "stop", "web", "--purge")
    assert (result.exit_code, result.stdout) == (0, "web is stopped\n")
    result = shell.call("job", "run", "web.nomad.hcl", "--detach")
    assert (result.exit_code, result.stderr) == (0, "")  # without a word of what is waited for
    assert shell.call("job", "stop", "web", "--purge").exit_code == 0


FAILS_LATER = """
variable "tag" {
  type = string
}
variable "command" {
  type = string
}
job "later" {
  meta {
    tag = var.tag
  }
  group "one" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    update {
      min_healthy_time  = "1s"
      healthy_deadline  = "20s"
      progress_deadline = "30s"
      auto_revert       = true
    }
    task "main" {
      driver = "raw_exec"
      config {
        command = var.command
        args    = ["1000"]
      }
    }
  }
}
"""


def test_variables_of_every_kind_and_a_version_that_is_reverted(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    file, values = shell.project.folder / "later.nomad.hcl", shell.project.folder / "values.hcl"
    file.write_text(FAILS_LATER)
    values.write_text('tag = "2"\ncommand = "/bin/sleep"\n')
    monkeypatch.setenv("NOMAD_VAR_command", "/bin/nothing")

    def run(*options: str) -> Result:
        return shell.call("job", "run", str(file), "--timeout", "120", *options)

    first = run("--var-file", str(values), "--var", "tag=1.10")
    assert first.exit_code == 0, first.stderr
    assert json.loads(shell.run("ssh", "servers-0", "curl -s localhost:4646/v1/job/later")[1])["Meta"] == {
        "tag": "1.10"
    }

    stable = "curl -s localhost:4646/v1/job/later | grep -q '\"Stable\":true'"
    wait_until(
        "a version to go back to",
        lambda: Ok(None) if shell.run("ssh", "servers-0", stable)[0] == 0 else Pending("none"),
        deadline=Deadline.after(SECONDS),
    )
    second = run("--var", "tag=2", "--var", "command=/bin/false")
    assert second.exit_code == 1
    assert "deployment failed, reverted to version 0" in second.stderr
    assert "Exit Code: 1" in second.stderr
    near = run("--var", "tga=2")
    assert near.exit_code == 2
    assert "did you mean tag?" in near.stderr
    assert shell.call("job", "stop", "later", "--purge").exit_code == 0


def test_a_job_file_that_is_nearly_right(shell: Shell) -> None:
    result = shell.call("job", "run", "wbe.nomad.hcl")
    assert result.exit_code == 2
    assert "did you mean web.nomad.hcl?" in result.stderr


PERIODIC = """
job "often" {
  type = "batch"
  periodic {
    cron = "*/1 * * * * * *"
  }
  group "one" {
    task "main" {
      driver = "raw_exec"
      config {
        command = "/bin/sleep"
        args    = ["54321"]
      }
    }
  }
}
"""


def test_a_periodic_jobs_children_are_stopped_with_it(shell: Shell) -> None:
    file = shell.project.folder / "often.nomad.hcl"
    file.write_text(PERIODIC)
    assert shell.call("job", "run", str(file)).exit_code == 0
    children = "pgrep -cf '^/bin/sleep 54321$'"
    wait_until(
        "two children",
        lambda: Ok(None) if int(shell.run("ssh", "clients-0", children)[1]) > 1 else Pending("fewer"),
        deadline=Deadline.after(SECONDS),
    )
    result = shell.call("job", "stop", "often", "--purge")
    assert (result.exit_code, result.stdout) == (0, "often is stopped\n")
    assert shell.run("ssh", "clients-0", children)[1] == "0\n"


def test_a_job_that_cannot_be_placed_shows_nomads_reasons(shell: Shell) -> None:
    path = fixtures_dir() / "jobs" / "unplaceable" / "memory.nomad.hcl"
    result = shell.call("job", "run", str(path), "--timeout", "3600")
    assert result.exit_code == 1
    assert "dimension 'memory' exhausted on 1 node" in result.stderr
    assert "nomad-testkit job stop memory" in result.stderr
    assert shell.call("job", "stop", "memory", "--purge").exit_code == 0


ATTACHED = """
import pytest


@pytest.mark.parametrize("number", range(4))
def test_it_uses_what_is_up(number, nomad_cluster, tmp_path):
    assert nomad_cluster.example.variables["num_servers"] == 1
    assert nomad_cluster.servers[0].run("echo used").stdout == "used\\n"
    assert nomad_cluster.nomad.nodes()[0]["Status"] == "ready"


def test_it_waits(nomad_cluster, signs):
    signs.give("attached", nomad_cluster.run_id)
    signs.wait("seen")


@pytest.mark.separate
def test_of_another_topology(nomad_cluster):
    pass
"""


def test_tests_attach_to_it_and_leave_it_up(shell: Shell) -> None:
    project = shell.project
    project.write(ATTACHED)
    run = project.start("--nomad-attach", "dev", "-n", "2", "-m", "not separate", "--nomad-report", "report.html")
    run_id = project.await_sign(run, "attached")
    assert run_id == shell.up.deployed[0]
    refused = shell.call("down", "dev")
    assert refused.exit_code == 1
    assert "is in use: tests are attached to it" in refused.stderr
    assert shell.json("status")["runs"][0]["state"] == "in use"
    project.sign("seen")
    assert run.await_end() == 0, run.text
    assert "5 passed" in run.text
    assert "destroyed" not in run.text
    assert shell.json("status")["runs"][0]["state"] == "up"
    page = (project.folder / "report.html").read_text()
    for words in ("was up before", "left up", shell.hosts()["servers-0"]["instance_id"]):
        assert words in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nomad-attach", "dev", "-m", "separate"], "is a colocated cluster, deployed from .* tests marked separate"),
        (["--nomad-attach", "dev", "--nomad-servers", "3"], "dev is deployed already.*: option --nomad-servers;"),
        (["--nomad-attach", "def"], "option --nomad-attach: there is no run 'def' .*; did you mean dev"),
    ],
)
def test_what_cannot_be_attached_to_is_refused_before_the_first_test(
    shell: Shell, arguments: list[str], said: str
) -> None:
    shell.project.write(ATTACHED)
    status, text = shell.project.run(*arguments)
    assert status == pytest.ExitCode.USAGE_ERROR, text
    assert re.search(said, " ".join(text.split())), text


def test_ssh_to_a_terminated_host_says_so_and_its_successor_gets_a_name(shell: Shell) -> None:
    client = shell.hosts()["clients-0"]
    with attach_target(Run.find("dev").description()["target"]) as target:
        target.client("ec2").terminate_instances(InstanceIds=[client["instance_id"]])

    def probe() -> Ok[dict[str, Any]] | Pending:
        hosts = shell.hosts()
        later = hosts.get("clients-1", {"state": "not launched"})
        if hosts["clients-0"]["state"] == "terminated" and later["state"] == "running":
            return Ok(hosts)
        return Pending(f"{hosts['clients-0']['state']}, its successor {later['state']}")

    hosts = wait_until("another client", probe, deadline=Deadline.after(SECONDS))
    assert hosts["clients-0"]["instance_id"] == client["instance_id"]
    assert "terminated" in hosts["clients-0"]["ended"]
    for name in ("clients-0", client["instance_id"]):
        result = shell.call("ssh", name, "true")
        assert result.exit_code == 1
        assert f"clients-0 ({client['instance_id']}) of dev" in result.stderr
        assert "is terminated: User initiated (20" in result.stderr
    status, stdout, _ = shell.run("ssh", "servers-0", "echo", "up")
    assert (status, stdout) == (0, "up\n")


def test_down_destroys_it_and_its_cloud(shell: Shell) -> None:
    told = Run.find("dev").description()["target"]
    assert Path(told["state_dir"]).exists()
    result = shell.call("down")
    assert result.exit_code == 0, result.stderr
    assert f"{shell.up.deployed[0]} is destroyed: " in result.stdout
    assert not Path(told["state_dir"]).exists()
    assert shell.call("status").stdout == "nothing is up; `nomad-testkit up EXAMPLE` deploys a cluster\n"
    result = shell.call("ssh", "servers-0")
    assert result.exit_code == 1
    assert "no cluster is up" in result.stderr


def test_up_that_fails_destroys_all_of_it(shell: Shell) -> None:
    project = shell.project
    shutil.copytree(examples_dir() / EXAMPLE, project.folder / "example")
    project.write("#!/bin/bash\nexit 1\n", "example/user-data-client.sh")
    # Longer than this test waits: the error must not need the deadline.
    options = ("--servers", "1", "--clients", "1", "--timeout", "3600", "--json")
    run = project.start_module("nomad_testkit", "up", "example", *options)
    assert run.await_end() == 1, run.text
    assert "in clients: the user data failed" in run.text
    (run_id,) = run.deployed
    assert f"evidence of {run_id} is in " in run.text
    assert f"destroyed {run_id} in" in run.text
    assert "Traceback" not in run.text
    assert '"state"' not in run.text
    assert run_id not in project.remembered
