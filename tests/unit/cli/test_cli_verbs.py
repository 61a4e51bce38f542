"""The command line without hosts: what is scaffolded, listed, forwarded, copied, reached, and in which order."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from account_run import AccountTarget, left_up
from command_line import call, json_answer

from nomad_testkit.cli import logs, status
from nomad_testkit.cli import reach as reach_verb
from nomad_testkit.cli.agents import agents_of
from nomad_testkit.cli.check import CHECKS, Judged, in_order, summary
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import UnitState
from nomad_testkit.errors import HostError
from nomad_testkit.examples.example import Example, Roles, Sizes
from nomad_testkit.wait import Broken, Ok, Pending


@pytest.fixture(autouse=True)
def no_agents(account: AccountTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "agents_of", lambda cluster, leaders: {})


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The programs that this process became."""
    found: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda file, arguments: found.append(list(arguments)))
    return found


# -- init and examples


@pytest.mark.parametrize("example", ["nomad-consul-colocated-cluster", "nomad-consul-separate-cluster"])
@pytest.mark.parametrize(("ci", "place"), [("github", ".github/workflows/nomad.yml"), ("gitlab", ".gitlab-ci.yml")])
def test_init_writes_a_folder_whose_parts_fit(example: str, ci: str, place: str, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "new one"
    result = call("init", str(folder), "--example", example, "--ci", ci)
    assert result.exit_code == 0, result.output
    assert (folder / place).is_file()
    conftest, test = (folder / name for name in ("conftest.py", "test_cluster.py"))
    names: dict[str, Any] = {"__file__": str(conftest)}
    exec(compile(conftest.read_text(), str(conftest), "exec"), names)
    made: Example = names["nomad_example"].__wrapped__()
    assert made.folder == folder / "my-cluster"
    assert (made.sizes.nomad_servers, made.sizes.nomad_clients) == (1, 2)
    compile(test.read_text(), str(test), "exec")


def test_init_overwrites_nothing_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "conftest.py").write_text("mine\n")
    result = call("init", str(folder))
    assert result.exit_code == 2
    assert f"found {folder}/conftest.py, expected a folder without" in result.stderr
    assert [path.name for path in folder.iterdir()] == ["conftest.py"]
    (folder / "conftest.py").unlink()
    (folder / ".github").write_text("a file where a folder is to be\n")
    assert call("init", str(folder)).exit_code == 1
    assert [path.name for path in folder.iterdir()] == [".github"]
    result = call("init", str(folder), "--example", "nomad-consul-seperate-cluster")
    assert "did you mean nomad-consul-separate-cluster?" in result.stderr


def test_examples_are_listed_with_what_they_deploy() -> None:
    found = {one["name"]: one for one in json_answer("examples")["examples"]}
    assert found["nomad-consul-separate-cluster"]["hosts"] == {
        "consul_servers": 3,
        "nomad_servers": 3,
        "nomad_clients": 6,
    }
    assert "nomad-consul-colocated-cluster  9      Nomad and Consul servers" in call("examples").stdout


# -- config


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tox.ini", "[pytest]\nnomad_servers = 2\nnomad_var =\n  a=1\n  secret_key=x\n"),
        ("setup.cfg", "[tool:pytest]\nnomad_servers = 2\nnomad_var =\n  a=1\n  secret_key=x\n"),
        ("pyproject.toml", '[tool.pytest.ini_options]\nnomad_servers = "2"\nnomad_var = ["a=1", "secret_key=x"]\n'),
    ],
)
def test_config_shows_values_and_where_they_are_from(
    file: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).write_text(text)
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    monkeypatch.setenv("NOMAD_TESTKIT_TIMEOUT", "90")
    told = json_answer("config", "show")
    assert told["ini_file"] == str(tmp_path / file)
    found = {one["name"]: (one["value"], one["source"]) for one in told["settings"]}
    assert found == {
        "servers": ("2", f"nomad_servers in {file}"),
        "timeout": ("90", "environment variable NOMAD_TESTKIT_TIMEOUT"),
        "var a": ("1", f"nomad_var in {file}"),
        "var secret_key": ("(not shown)", f"nomad_var in {file}"),
    }
    everything = {one["name"] for one in json_answer("config", "show", "--all")["settings"]}
    assert {"target", "keep"} <= everything


# -- what becomes ssh and scp


def test_exec_gives_each_word_as_it_is(became: list[list[str]]) -> None:
    left_up("dev")
    assert call("exec", "--sudo", "servers-0", "--", "printf", "%s", "a  b", "$HOME", "--json").exit_code == 0
    assert became[0][-2:] == ["--", "sudo -n -- printf %s 'a  b' '$HOME' --json"]


@pytest.mark.parametrize(
    ("given", "forwards"),
    [
        ("4646", "127.0.0.1:4646:localhost:4646"),
        ("8080:8500", "127.0.0.1:8080:localhost:8500"),
        ("5432:172.31.0.9:5433", "127.0.0.1:5432:172.31.0.9:5433"),
    ],
)
def test_ports_are_forwarded_from_this_machine_alone(given: str, forwards: str, became: list[list[str]]) -> None:
    left_up("dev")
    assert call("port-forward", "servers-0", given).exit_code == 0
    assert became[0][became[0].index("-L") + 1] == forwards


@pytest.mark.parametrize("given", ["http", "0", "70000", "1:2:3:4", ":80"])
def test_a_port_that_is_none_is_refused(given: str, became: list[list[str]]) -> None:
    result = call("port-forward", "servers-0", given)
    assert (result.exit_code, became) == (2, [])
    assert f"found '{given}', expected PORT, LOCAL:PORT or LOCAL:ADDRESS:PORT" in " ".join(result.stderr.split())


def test_cp_names_hosts_by_their_addresses(became: list[list[str]]) -> None:
    run = left_up("dev")
    address = run.description()["hosts"][1]["address"]
    assert call("cp", "servers-0:/etc/hosts", "a b", ".").exit_code == 0
    assert became[0][-4:] == ["--", f"admin@{address}:/etc/hosts", "a b", "."]
    for paths in (["a", "b"], ["servers-0:/etc/hosts"]):
        result = call("cp", *paths)
        assert (result.exit_code, "expected" in result.stderr, len(became)) == (2, True, 1)


# -- shell


def test_a_shell_runs_code_with_the_cluster_in_it(capfd: pytest.CaptureFixture[str]) -> None:
    run = left_up("dev")
    result = call("shell", "dev", "-c", "print(nomad_cluster.run_id, len(nomad_cluster.hosts), NodesReady(2))")
    assert (result.exit_code, result.stdout) == (0, f"{run.run_id} 3 NodesReady(count=2)\n")
    for code in ("1 / 0", "this is none", "raise SystemExit(1)"):
        assert call("shell", "--name", "dev", "-c", code).exit_code == 1


# -- reach


def test_reach_tells_which_rules_speak_against_it(account: AccountTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    run = left_up("dev")
    ec2 = account.client("ec2")
    group = ec2.create_security_group(GroupName="closed", Description="lets nothing in")["GroupId"]
    ec2.modify_instance_attribute(InstanceId=run.description()["hosts"][1]["instance_id"], Groups=[group])
    for name in ("_route", "_listener", "_connection"):
        finding = reach_verb.Finding("a connection" if name == "_connection" else name, name != "_connection", "seen")
        monkeypatch.setattr(reach_verb, name, lambda *_, finding=finding: finding)
    told = json_answer("reach", "clients-0", "servers-0:4647", exits=1)
    inbound = next(one for one in told["findings"] if one["what"] == "the inbound rules of servers-0")
    outbound = next(one for one in told["findings"] if one["what"] == "the outbound rules of clients-0")
    assert (inbound["good"], outbound["good"]) == (False, True)
    assert "no rule lets tcp 4647 in from clients-0" in told["verdict"]
    assert told["verdict"].startswith(f"clients-0 does not reach servers-0:4647/tcp: {group} (closed)")


@pytest.mark.parametrize("given", ["servers-0", "servers-0:http", "servers-0:0", "servers-0:80/sctp"])
def test_reach_refuses_what_is_no_port(given: str) -> None:
    left_up("dev")
    result = call("reach", "clients-0", given)
    assert result.exit_code == 2
    assert f"found '{given}', expected HOST:PORT" in result.stderr


# -- logs, status and check


def test_lines_of_several_hosts_come_in_the_order_of_their_time() -> None:
    first = ["2026-01-01T00:00:01.5+0000 a", "  of a", "2026-01-01T00:00:04.0+0000 b"]
    second = ["2026-01-01T00:00:02.0+0000 c"]
    lines = logs._interleaved(["x ", "y "], [iter(first), iter(second)], 100)
    assert [line.rpartition(" ")[2] for line in lines] == ["a", "a", "c", "b"]
    assert [line[0] for line in lines] == ["x", "x", "y", "x"]
    assert logs._interleaved(["x ", "y "], [iter(first), iter(second)], 1) == [f"x {first[2]}"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["logs", "--since", "10"], "found '10', expected a whole number above 0 with s, m, h or d"),
        (["logs", "servers-0", "console", "--since", "10m"], "--since: found the log console"),
        (["logs", "servers-0", "--json", "-f"], "--json: found --follow"),
    ],
)
def test_logs_refuse_what_cannot_be(arguments: list[str], said: str) -> None:
    left_up("dev")
    result = call(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def judged(name: str, verdict: Ok[str] | Pending | Broken) -> Judged:
    return Judged(name, CHECKS[name](Sizes(1, 1, 1)), verdict)


def test_checks_that_fail_come_first_and_their_cause_before_what_follows() -> None:
    rows = in_order(
        [
            judged("leader", Ok("i-1 leads")),
            judged("nomad-client-registered", Pending("missing on clients-0")),
            judged("units-active", Pending("clients-0: nomad is failed; its journal ends:\n    it exited")),
            judged("nodes-ready", Pending("0 are ready")),
        ]
    )
    assert [one.name for one in rows] == ["units-active", "nodes-ready", "nomad-client-registered", "leader"]
    assert "3 of 4 checks fail; units-active: clients-0: nomad is failed\x1b" in summary(rows)
    assert "all 1 checks hold" in summary(rows[3:])


class FakeHost:
    """A host whose agents and systemd say what they are told to."""

    def __init__(self, number: int, group: str, **units: str) -> None:
        self.instance_id, self.private_ip = f"i-{number}", f"10.0.0.{number}"
        self.instance = SimpleNamespace(group=group)
        self.units = units
        members = [{"Addr": f"10.0.0.{one}", "Status": 1} for one in (1, 2, 3)]
        self.consul = SimpleNamespace(members=lambda: members)
        nodes = [
            {"Address": "10.0.0.2", "Status": "ready", "Drain": True},
            {"Address": "10.0.0.3", "Status": "ready", "SchedulingEligibility": "eligible"},
        ]
        servers = [{"Addr": "10.0.0.1", "Status": "alive"}]
        self.nomad = SimpleNamespace(members=lambda: servers, nodes=lambda stale: nodes)

    def connect(self, deadline: object) -> None:
        if self.units.get("ssh") == "dead":
            raise HostError("no answer")

    def unit_states(self, *names: str) -> list[UnitState]:
        return [UnitState(name, self.units.get(name, "active"), "", "success", 0, 0) for name in names]


def test_what_agents_do_is_asked_of_leaders_and_of_each_hosts_systemd() -> None:
    hosts = [FakeHost(1, "s"), FakeHost(2, "c"), FakeHost(3, "c", nomad="inactive"), FakeHost(4, "c", ssh="dead")]
    cluster = SimpleNamespace(
        hosts=hosts, consul_servers=hosts[:1], nomad_servers=hosts[:1], roles=Roles(("s",), ("s",), ("c",))
    )
    found = agents_of(cast(Cluster, cluster), {"consul": "i-1", "nomad": None})
    assert found == {
        "i-1": ["consul server leader", "nomad server alive"],
        "i-2": ["consul client alive", "nomad client draining"],
        "i-3": ["consul client alive", "nomad client stopped"],
        "i-4": ["consul client not there", "nomad client not there"],
    }
