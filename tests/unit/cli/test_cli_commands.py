"""The command line without hosts: what is refused and suggested, deployments, AMIs, checks, jobs and completion."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from unittest.mock import Mock

import click
import pytest
from account_run import EXAMPLE, AccountTarget, left_up
from click.shell_completion import ShellComplete
from command_line import call, json_answer

from nomad_testkit.cli import ami as ami_verb
from nomad_testkit.cli import main, status, up
from nomad_testkit.cli.check import CHECKS
from nomad_testkit.cli.group import main as group
from nomad_testkit.errors import DeployError, UsageError
from nomad_testkit.examples.example import Sizes
from nomad_testkit.modules.steps import IMAGE
from nomad_testkit.runs.run import Run
from nomad_testkit.targets.embedded.built_amis import home_of


@pytest.fixture(autouse=True)
def leaders(account: AccountTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_leaders", lambda cluster: {"consul": cluster.servers[0].instance_id, "nomad": None})
    monkeypatch.setattr(status, "agents_of", lambda cluster, leaders: {})


def completed(*words: str) -> list[str]:
    """Complete the last word."""
    shell = ShellComplete(main, {}, "nomad-testkit", "_NOMAD_TESTKIT_COMPLETE")
    return [one.value for one in shell.get_completions(list(words[:-1]), words[-1])]


# -- the group


def test_an_unknown_command_suggests_the_nearest() -> None:
    for arguments, said in (
        (["dwon"], "there is no command 'dwon' in main; did you mean down"),
        (["ami", "biuld"], "there is no command 'biuld' in main ami; did you mean build"),
        (["xyz"], "expected one of ami, bench, check"),
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


# -- deployments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nomad-consul-colocated-clustre"], "did you mean nomad-consul-colocated-cluster"),
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
    settings = up.settings_of({"servers": "1", "var": ("a=1", "b=2"), "ami": None}, example="mine")
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

    monkeypatch.setattr("nomad_testkit.cli.down.destroy_run", destroy)

    def interrupted() -> None:
        with up.left_up() as leave:
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
    (found,) = json_answer("ami", "list")["amis"]
    facts = {"name": "nomad-consul-1", "target": "embedded", "state": "available"}
    assert found == {"ami": ami, "run_id": run.run_id, **facts}
    assert (home_of(ami), home_of("ami-00000000")) == ({**run.description()["target"], "ami": ami}, None)
    assert json_answer("status")["runs"][0]["state"] == "image"
    monkeypatch.setattr(ami_verb, "destroy_run", lambda one: f"{one.run_id} is destroyed")
    assert call("ami", "delete", ami).stdout == f"{run.run_id} is destroyed\n"
    result = call("ami", "delete", ami[:-1])
    assert result.exit_code == 2
    assert f"did you mean {ami}" in result.stderr


# -- checks and jobs


def test_every_check_can_be_made() -> None:
    checks = {name: make(Sizes(3, 3, 6)) for name, make in CHECKS.items()}
    assert len({repr(check) for check in checks.values()}) == len(CHECKS)
    assert call("check", "--list").stdout.split() == list(CHECKS)


# -- completion


def test_a_shell_completes_commands_runs_hosts_checks_and_examples() -> None:
    run = left_up("dev")
    other = left_up()
    client = run.description()["hosts"][0]["instance_id"]
    assert completed("st") == ["status"]
    assert completed("ami", "") == ["build", "delete", "import", "list"]
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
