"""The least IAM policy: it allows what runs were seen to do, nothing else, and only to what is theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nomad_testkit.errors import TestkitError
from nomad_testkit.modules.bundle import examples_dir
from nomad_testkit.targets.aws import policy
from nomad_testkit.targets.aws.policy import DEPLOYING, NeededAction, Whose, least_policy, needs_of, seen_calls

FILES: dict[tuple[Whose, ...], Path] = {
    DEPLOYING: examples_dir() / "nightly" / "iam-policy.json",
    ("packer",): examples_dir() / "nightly" / "iam-policy-packer.json",
    ("terraform",): examples_dir() / "nightly" / "iam-policy-terraform.json",
}
# Of a managed policy, spaces not counted (IAM User Guide, "IAM and AWS STS quotas").
MOST_CHARACTERS = 6144
CREATING = ["CreateLaunchTemplate", "CreateSecurityGroup", "ImportKeyPair", "RunInstances"]
RUNS = (*policy._CREATES, *policy._CHANGES, *seen_calls(*DEPLOYING))
KNOWN = (*RUNS, *seen_calls("terraform"))


def allowed(policy: dict[str, Any]) -> set[str]:
    return {action for statement in policy["Statement"] for action in statement["Action"]}


def kinds_taken(action: str) -> dict[str, set[str]]:
    """List the kinds of resources that an action takes, each with the condition keys that it has for them.

    By the Service Authorization Reference, as policy_sentry has it.
    """
    service, name = action.split(":")
    # Imported here: `pytest -m colocated` collects this file where only the package is installed.
    from policy_sentry.querying.actions import get_action_data

    rows = get_action_data(service, name)
    assert rows, f"AWS has no action {action}"
    taken: dict[str, set[str]] = {}
    for row in rows[service]:
        keys = {key.partition("/")[0] for key in row["condition_keys"]}
        taken[kind_of(row["resource_arn_format"])] = keys
    everywhere = taken.get("*", set())
    return {kind: keys | everywhere for kind, keys in taken.items()}


def kind_of(arn: str) -> str:
    return "*" if arn == "*" else arn.split(":", 5)[5].split("/")[0].split(":")[0]


@pytest.mark.parametrize("whose", FILES, ids="+".join)
def test_the_nightlys_file_is_made_from_the_seen_calls(whose: tuple[Whose, ...]) -> None:
    again = "python -m nomad_testkit iam-policy [--WHAT] > examples/nightly/iam-policy[-WHAT].json"
    made = least_policy(seen_calls(*whose), packer="packer" in whose)
    assert json.loads(FILES[whose].read_text()) == made, f"make it again: {again}"


@pytest.mark.parametrize(("whose", "least"), [(DEPLOYING, 55), (("packer",), 15), (("terraform",), 2)])
def test_the_nightlys_file_allows_every_seen_call(whose: tuple[Whose, ...], least: int) -> None:
    assert len(seen_calls(*whose)) >= least
    assert set(seen_calls(*whose)) - allowed(json.loads(FILES[whose].read_text())) == set()


def test_the_nightlys_file_allows_nothing_that_no_run_makes_or_needs() -> None:
    needed = {need.action for needs in policy.BESIDES.values() for need in needs}
    for whose, file in FILES.items():
        more = allowed(json.loads(file.read_text())) - set(seen_calls(*whose))
        assert more <= (needed if whose == DEPLOYING else set())


def test_it_fits_in_a_managed_policy() -> None:
    assert len(json.dumps(least_policy(RUNS), separators=(",", ":"))) <= MOST_CHARACTERS


def test_only_reading_is_allowed_everywhere_and_without_condition() -> None:
    for need in needs_of(KNOWN):
        if "*" in need.resources:
            assert need.action.partition(":")[2].startswith(policy.READING)
        else:
            assert need.condition or need.sid in ("InVpc", "LaunchFrom")


def test_packer_launches_changes_and_tags_only_for_a_run() -> None:
    by_sid = {need.sid: need.condition for need in needs_of(seen_calls("packer"), packer=True)}
    assert by_sid["Launch"] == by_sid["TagImage"] == {"Null": {"aws:RequestTag/nomad-testkit-run": "false"}}
    assert by_sid["Change"] == by_sid["ImageOf"] == {"Null": {"aws:ResourceTag/nomad-testkit-run": "false"}}


def test_what_terraform_made_is_only_tagged_as_a_runs() -> None:
    conditions = [need.condition for need in needs_of(seen_calls("terraform"))]
    assert conditions == [{"Null": {"aws:RequestTag/nomad-testkit-run": "false"}}] * 2


def test_what_is_changed_bears_the_tag_and_what_is_created_gets_it() -> None:
    own = {"Null": {"aws:ResourceTag/nomad-testkit-run": "false"}}
    new = {"Null": {"aws:RequestTag/nomad-testkit-run": "false"}}
    assert least_policy(["ec2:DeleteVolume", "ec2:ImportKeyPair", "ec2:DeleteSnapshot"])["Statement"] == [
        {
            "Sid": "Change",
            "Effect": "Allow",
            "Action": ["ec2:DeleteSnapshot", "ec2:DeleteVolume"],
            "Resource": ["arn:aws:ec2:*::snapshot/*", "arn:aws:ec2:*:*:volume/*"],
            "Condition": own,
        },
        {
            "Sid": "Create",
            "Effect": "Allow",
            "Action": ["ec2:ImportKeyPair"],
            "Resource": "arn:aws:ec2:*:*:key-pair/*",
            "Condition": new,
        },
        {
            "Sid": "TagWhenCreated",
            "Effect": "Allow",
            "Action": ["ec2:CreateTags"],
            "Resource": "arn:aws:ec2:*:*:key-pair/*",
            "Condition": {"StringEquals": {"ec2:CreateAction": CREATING}},
        },
    ]


def test_a_call_that_is_not_known_is_refused() -> None:
    with pytest.raises(TestkitError, match=r"add them to nomad_testkit.targets.aws.policy: \['s3:DeleteBucket'\]"):
        least_policy(["s3:DeleteBucket", "ec2:DescribeVpcs"])
    with pytest.raises(TestkitError, match="'iam:CreateRole'"):
        least_policy(["iam:CreateRole"], packer=True)


@pytest.mark.parametrize(
    "need", [*needs_of(KNOWN), *needs_of(policy.PACKER, packer=True)], ids=lambda need: f"{need.sid} {need.action}"
)
def test_aws_knows_each_action_its_resources_and_its_conditions(need: NeededAction) -> None:
    taken = kinds_taken(need.action)
    if need.resources == ("*",):
        return
    keys = {key.partition("/")[0] for operator in need.condition.values() for key in operator}
    for resource in need.resources:
        assert kind_of(resource) in taken
        assert keys - taken[kind_of(resource)] == set()


@pytest.mark.parametrize("needs", [needs_of(KNOWN), needs_of(policy.PACKER, packer=True)], ids=["runs", "packer"])
def test_actions_together_in_a_statement_take_none_of_each_others_resources(needs: list[NeededAction]) -> None:
    needs = [need for need in needs if need.sid != "Read"]
    for need in needs:
        together = [other for other in needs if other.sid == need.sid]
        meant = {resource for other in together if other.action == need.action for resource in other.resources}
        all_of_them = {resource for other in together for resource in other.resources}
        taken = kinds_taken(need.action)
        assert {resource for resource in all_of_them if kind_of(resource) in taken} == meant
        assert all(other.condition == need.condition for other in together)
