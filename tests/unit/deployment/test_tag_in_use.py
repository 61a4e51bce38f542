"""Two deployments with one discovery tag: the second is refused, whether it comes later or at the same moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError
from faulty_api import REFUSED, faults, refusal
from moto_account import OTHER, PUBLIC_KEY, launch, moto_account, of_run
from moto_account import RUN as OWN

from nomad_testkit import Example
from nomad_testkit.deployment.tag_in_use import DiscoveryTag, claim_tags, discovery_tags, refuse_tags_in_use
from nomad_testkit.errors import DeployError, UsageError
from nomad_testkit.runs.journal import Journal
from nomad_testkit.targets.aws import errors
from nomad_testkit.wait import Deadline

TAG = DiscoveryTag("nomad-servers", "shared")
OF_OTHER = {TAG.key: TAG.value, **of_run(OTHER)}


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(errors, "INTERVAL", 0.0)
    with moto_account(monkeypatch) as client:
        yield SimpleNamespace(client=client, region="us-east-1")


def test_a_tag_in_use_is_refused_and_the_other_run_named(target: Any) -> None:
    ids = launch(target.client, OF_OTHER, 5)
    with pytest.raises(UsageError) as caught:
        refuse_tags_in_use([TAG], target, OWN)
    said = str(caught.value)
    assert f"the discovery tag nomad-servers = shared is in use in us-east-1 by the run {OTHER}" in said
    assert sum(one in said for one in ids) == 3
    assert "and 2 more" in said
    assert f"`nomad-testkit down {OTHER}`" in said
    assert "cluster-tag-value" in said


def test_instances_that_no_run_made_count_too(target: Any) -> None:
    (instance_id,) = launch(target.client, {TAG.key: TAG.value})
    with pytest.raises(UsageError, match=rf"instances of no run of nomad-testkit \({instance_id}\)"):
        refuse_tags_in_use([TAG], target, OWN)


@pytest.mark.parametrize(("state", "refused"), [("stop", True), ("terminate", False)])
def test_who_may_come_back_counts(target: Any, state: str, refused: bool) -> None:
    ids = launch(target.client, OF_OTHER)
    getattr(target.client("ec2"), f"{state}_instances")(InstanceIds=ids)
    if refused:
        with pytest.raises(UsageError, match=OTHER):
            refuse_tags_in_use([TAG], target, OWN)
    else:
        refuse_tags_in_use([TAG], target, OWN)


@pytest.mark.parametrize(
    "tags",
    [
        {TAG.key: TAG.value, **of_run(OWN)},
        {TAG.key: "another", **of_run(OTHER)},
        {"nomad-clients": TAG.value, **of_run(OTHER)},
    ],
)
def test_others_are_left_alone(target: Any, tags: dict[str, str]) -> None:
    launch(target.client, tags)
    refuse_tags_in_use([TAG], target, OWN)


def claim(target: Any, run_id: str, folder: Path, tag: DiscoveryTag = TAG) -> Journal:
    journal = Journal(folder / f"{run_id}.jsonl")
    deadline = Deadline.after(5)
    claim_tags([tag], target, run_id, journal, public_key=PUBLIC_KEY, own={}, deadline=deadline)
    return journal


def test_of_two_at_the_same_moment_one_is_refused(target: Any, tmp_path: Path) -> None:
    claim(target, OTHER, tmp_path)
    with pytest.raises(UsageError, match=f"by the run {OTHER}; `nomad-testkit down"):
        claim(target, OWN, tmp_path)
    assert Journal(tmp_path / f"{OWN}.jsonl").left() == []
    # Its destruction finds the claim by the run's tag, and lets the next one in.
    (found,) = target.client("ec2").describe_key_pairs(Filters=[{"Name": "tag:nomad-testkit-run", "Values": [OTHER]}])[
        "KeyPairs"
    ]
    target.client("ec2").delete_key_pair(KeyName=found["KeyName"])
    assert [one.name for one in claim(target, OWN, tmp_path).left()] == [TAG.claim]


def test_a_runs_own_tag_takes_no_claim(target: Any, tmp_path: Path) -> None:
    assert claim(target, OWN, tmp_path, DiscoveryTag(TAG.key, f"auto-join-{OWN}")).left() == []
    assert target.client("ec2").describe_key_pairs()["KeyPairs"] == []


def test_the_tags_of_servers_are_looked_at() -> None:
    example = Example.load("nomad-consul-separate-cluster")
    assert discovery_tags(example, "nt-1") == [
        DiscoveryTag("consul-servers", "auto-join-nt-1"),
        DiscoveryTag("nomad-servers", "auto-join-nt-1"),
    ]


def test_the_constant_tag_of_a_terraform_example_is_looked_at(tmp_path: Path) -> None:
    names = ("asg_name_servers", "asg_name_clients", "num_servers", "num_clients")
    outputs = "".join(f'output "{name}" {{ value = 1 }}\n' for name in names)
    tag = 'variable "cluster_tag_key" { default = "own" }\nvariable "cluster_tag_value" { default = "auto-join" }\n'
    (tmp_path / "main.tf").write_text(outputs + tag)
    example = Example.load(tmp_path)
    assert discovery_tags(example, OWN) == []  # the run gives a value of its own
    assert discovery_tags(example.replace(cluster_tag_value="x"), OWN) == [DiscoveryTag("own", "x")]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('cluster_tag_key = "own"\n  cluster_tag_value = "fixed"', [DiscoveryTag("own", "fixed")]),
        ('nomad_cluster_tag_value = "fixed"\n  nomad_cluster_tag_key = var.key', [DiscoveryTag("k", "fixed")]),
        ('cluster_tag_key = "own"\n  cluster_tag_value = "${var.value}"', [DiscoveryTag("own", "v")]),
        ('cluster_tag_key = "own"\n  # cluster_tag_value = "fixed"', []),
        ('cluster_tag_key = "own"\n  cluster_tag_value = "x-${local.id}"', []),
        ('cluster_tag_key = "own"\n}\nmodule "b" {\n  cluster_tag_value = "fixed"', []),
        ('cluster_tag_key = "own"\n  cluster_tag_value = var.cluster_tag_value', []),  # the run gives its own
    ],
)
def test_what_a_configuration_gives_its_modules_is_looked_at(
    tmp_path: Path, arguments: str, expected: list[DiscoveryTag]
) -> None:
    names = ("asg_name_servers", "asg_name_clients", "num_servers", "num_clients")
    outputs = "".join(f'output "{name}" {{ value = 1 }}\n' for name in names)
    variables = 'variable "key" { default = "k" }\nvariable "value" { default = "v" }\n'
    own = 'variable "cluster_tag_value" { default = "auto-join" }\n' if "var.cluster_tag_value" in arguments else ""
    (tmp_path / "main.tf").write_text(f'{outputs}{variables}{own}module "a" {{\n  source = "./a"\n  {arguments}\n}}\n')
    assert discovery_tags(Example.load(tmp_path), OWN) == expected


def test_a_lost_packet_is_no_end_and_a_refusal_is_told(target: Any) -> None:
    lost: list[Exception] = [ConnectionClosedError(endpoint_url="https://ec2")] * 2
    with faults(target.client, ["ec2"], lambda name, done: lost.pop() if lost and not done else None):
        refuse_tags_in_use([TAG], target, OWN)
    assert lost == []
    with (
        faults(target.client, ["ec2"], lambda name, done: refusal(*REFUSED, name)),
        pytest.raises(DeployError, match="UnauthorizedOperation: not you"),
    ):
        refuse_tags_in_use([TAG], target, OWN)
