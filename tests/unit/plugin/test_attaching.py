"""Attaching tests to what is up: found by its name, of the right topology, held as long as it is used."""

from __future__ import annotations

from pathlib import Path

import pytest
from account_run import EXAMPLE, AccountTarget, launch, left_up

from nomad_testkit.errors import SettingsError
from nomad_testkit.examples.example import Example
from nomad_testkit.plugin.attaching import (
    attached_cluster,
    attached_example,
    attached_run,
    attached_target,
    refuse_topology,
)
from nomad_testkit.runs.run import Run
from nomad_testkit.settings import Settings

DEV = Settings.load(options={"nomad_attach": "dev"})


pytestmark = pytest.mark.usefixtures("account")


def test_it_is_found_with_its_example_and_its_instances_of_now(account: AccountTarget) -> None:
    run = left_up("dev")
    gone = run.description()["hosts"][0]["instance_id"]
    account.client("ec2").terminate_instances(InstanceIds=[gone])
    successor = launch(run, "clients")["instance_id"]
    assert attached_run(DEV) == run
    assert attached_run(Settings.load(options={"nomad_attach": run.run_id})) == run
    assert attached_example(DEV).sizes.nomad_clients == 1
    with attached_target(DEV) as target, attached_cluster(DEV, target) as cluster:
        assert [host.instance_id for host in cluster.clients] == [successor]
        assert len(cluster.servers) == 2
        assert cluster.example is not None
        assert run.used


def test_it_is_held_by_several_at_once_but_not_while_it_is_destroyed() -> None:
    run = left_up("dev")
    with attached_target(DEV), attached_target(DEV):
        assert not run.lock.try_acquire()
    lock = run.lock
    assert lock.try_acquire()
    with pytest.raises(SettingsError, match=r"option --nomad-attach: dev \(nt-.* is being destroyed"):
        attached_target(DEV).__enter__()
    lock.release()
    assert Run.every() == [run]


def test_what_is_not_up_is_refused(account: AccountTarget) -> None:
    with pytest.raises(SettingsError, match="option --nomad-attach: there is no run 'dev'"):
        attached_run(DEV)
    left_up("dev", kept=False)
    with pytest.raises(SettingsError, match="is not left up: who deploys it destroys it"):
        attached_run(DEV)
    account.gone = True
    left_up("cloudless")
    settings = Settings.load(environ={"NOMAD_TESTKIT_ATTACH": "cloudless"})
    with pytest.raises(SettingsError, match=r"TESTKIT_ATTACH: cloudless .* is gone with its embedded EC2"):
        attached_target(settings).__enter__()
    assert not Run.find("cloudless").used


def test_an_example_that_has_changed_too_much_is_refused(tmp_path: Path) -> None:
    left_up("dev", example={"folder": str(tmp_path), "variables": {}})
    with pytest.raises(SettingsError, match=r"the example of dev .* has changed: .*without example.toml"):
        attached_example(DEV)


def test_tests_of_another_topology_are_refused() -> None:
    left_up("dev")
    refuse_topology(DEV, (), "colocated")
    refuse_topology(DEV, ("colocated",), "colocated")
    with pytest.raises(SettingsError) as caught:
        refuse_topology(DEV, ("separate",), "separate")
    folder = Example.load(EXAMPLE).folder
    assert str(caught.value) == (
        f"option --nomad-attach: {Run.find('dev')} is a colocated cluster, deployed from {folder}, but there are tests "
        "marked separate. Leave them out, such as by -m colocated, or attach to a cluster that is separate"
    )
    with pytest.raises(SettingsError, match=r"is a colocated cluster.*marked encrypted"):
        refuse_topology(DEV, ("encrypted",), "encrypted")
