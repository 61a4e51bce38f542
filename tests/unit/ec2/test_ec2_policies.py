"""Policies as AWS evaluates them: what a statement concerns, its conditions, and which of several wins."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nomad_testkit.ec2.api.policies import Answer, Question, answer

ALLOWED, DENIED, UNSAID = Answer.ALLOWED, Answer.DENIED, Answer.UNSAID
INSTANCE = "arn:aws:ec2:us-east-1:123456789012:instance/i-1"
ROLE = "arn:aws:iam::123456789012:role/one"


def document(*statements: dict[str, Any]) -> str:
    whole = [{"Effect": "Allow", "Action": "*", "Resource": "*", **one} for one in statements]
    return json.dumps({"Version": "2012-10-17", "Statement": whole if len(whole) > 1 else whole[0]})


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ({}, ALLOWED),
        ({"Action": "ec2:StopInstances"}, ALLOWED),
        ({"Action": "EC2:stopinstances"}, ALLOWED),
        ({"Action": ["s3:*", "ec2:Stop*"]}, ALLOWED),
        ({"Action": "ec2:StopInstance?"}, ALLOWED),
        ({"Action": "ec2:Stop"}, UNSAID),
        ({"Action": "ec2:StopInstances.*"}, UNSAID),
        ({"NotAction": "iam:*", "Action": None}, ALLOWED),
        ({"NotAction": ["ec2:Stop*"], "Action": None}, UNSAID),
        ({"Resource": "arn:aws:ec2:*:*:instance/*"}, ALLOWED),
        ({"Resource": "arn:aws:ec2:*:*:Instance/*"}, UNSAID),
        ({"Resource": ["arn:aws:ec2:*:*:volume/*", INSTANCE]}, ALLOWED),
        ({"NotResource": INSTANCE, "Resource": None}, UNSAID),
        ({"Effect": "Deny"}, DENIED),
        ({"Effect": "Deny", "Action": "iam:*"}, UNSAID),
    ],
    ids=str,
)
def test_what_a_statement_concerns(statement: dict[str, Any], expected: Answer) -> None:
    whole = {"Effect": "Allow", "Action": "*", "Resource": "*", **statement}
    text = json.dumps({"Statement": {name: value for name, value in whole.items() if value is not None}})
    assert answer([text], Question("ec2:StopInstances", INSTANCE)) is expected


def test_a_denial_wins_and_no_word_is_no_permission() -> None:
    allow, deny = document({}), document({"Effect": "Deny", "Action": "ec2:StopInstances"}, {"Action": "iam:*"})
    assert answer([allow, deny], Question("ec2:StopInstances")) is DENIED
    assert answer([deny, allow], Question("ec2:StopInstances")) is DENIED
    assert answer([allow, deny], Question("ec2:StartInstances")) is ALLOWED
    assert answer([deny], Question("ec2:StartInstances")) is UNSAID
    assert answer([], Question("ec2:StartInstances")) is UNSAID


def test_a_call_without_resources_needs_a_permission_for_all_of_them() -> None:
    question = Question("ec2:DescribeInstances")
    assert answer([document({"Resource": "arn:aws:ec2:*:*:instance/*"})], question) is UNSAID
    assert answer([document({"Resource": ["arn:aws:ec2:*:*:instance/*", "*"]})], question) is ALLOWED


CONTEXT = {
    "aws:RequestTag/run": ("nt-1",),
    "aws:TagKeys": ("run", "name"),
    "aws:username": ("someone",),
    "aws:SourceIp": ("172.31.0.4",),
    "aws:SecureTransport": ("true",),
    "aws:CurrentTime": ("2026-12-01T12:00:00+00:00",),
    "ec2:LaunchTemplate": ("arn:aws:ec2:us-east-1:1:launch-template/lt-1",),
    "number": ("10",),
}


@pytest.mark.parametrize(
    ("operator", "key", "value", "holds"),
    [
        ("Null", "aws:RequestTag/run", "false", True),
        ("Null", "aws:RequestTag/run", True, False),
        ("Null", "aws:ResourceTag/run", "false", False),
        ("Null", "aws:ResourceTag/run", "true", True),
        ("StringEquals", "aws:RequestTag/run", ["nt-2", "nt-1"], True),
        ("StringEquals", "AWS:requesttag/run", "nt-1", True),
        ("StringEquals", "aws:RequestTag/run", "NT-1", False),
        ("StringEqualsIgnoreCase", "aws:RequestTag/run", "NT-1", True),
        ("StringEquals", "aws:ResourceTag/run", "nt-1", False),
        ("StringEqualsIfExists", "aws:ResourceTag/run", "nt-1", True),
        ("StringNotEquals", "aws:RequestTag/run", "nt-1", False),
        ("StringNotEquals", "aws:ResourceTag/run", "nt-1", True),
        ("StringLike", "aws:RequestTag/run", "nt-*", True),
        ("StringLike", "aws:RequestTag/run", "n.-1", False),
        ("StringNotLike", "aws:RequestTag/run", "nt-*", False),
        ("StringEquals", "aws:username", "${aws:username}", True),
        ("StringEquals", "aws:username", "${aws:userid}", False),
        ("ForAllValues:StringEquals", "aws:TagKeys", ["run", "name", "more"], True),
        ("ForAllValues:StringEquals", "aws:TagKeys", ["run"], False),
        ("ForAllValues:StringEquals", "none", ["run"], True),
        ("ForAnyValue:StringEquals", "aws:TagKeys", ["run"], True),
        ("ForAnyValue:StringEquals", "none", ["run"], False),
        ("ArnLike", "ec2:LaunchTemplate", "arn:aws:ec2:*:*:launch-template/*", True),
        ("ArnLike", "ec2:LaunchTemplate", "arn:aws:ec2:*", False),
        ("ArnNotLike", "ec2:LaunchTemplate", "arn:aws:ec2:*:*:launch-template/*", False),
        ("Bool", "aws:SecureTransport", True, True),
        ("Bool", "aws:SecureTransport", "false", False),
        ("IpAddress", "aws:SourceIp", "172.31.0.0/16", True),
        ("IpAddress", "aws:SourceIp", "10.0.0.0/8", False),
        ("NotIpAddress", "aws:SourceIp", "10.0.0.0/8", True),
        ("NumericLessThan", "number", "11", True),
        ("NumericGreaterThanEquals", "number", 10.5, False),
        ("NumericEquals", "aws:username", "1", False),
        ("DateGreaterThan", "aws:CurrentTime", "2026-01-01T00:00:00Z", True),
        ("DateLessThan", "aws:CurrentTime", "2026-01-01T00:00:00Z", False),
        ("NoSuchOperator", "number", "10", False),
    ],
)
def test_conditions(operator: str, key: str, value: Any, holds: bool) -> None:
    text = document({"Condition": {operator: {key: value}}})
    assert answer([text], Question("ec2:StopInstances", INSTANCE, CONTEXT)) is (ALLOWED if holds else UNSAID)


def test_all_conditions_have_to_hold() -> None:
    both = {"StringEquals": {"aws:username": "someone", "number": "11"}, "Null": {"number": "false"}}
    assert answer([document({"Condition": both})], Question("ec2:Stop", INSTANCE, CONTEXT)) is UNSAID
    both["StringEquals"]["number"] = "10"
    assert answer([document({"Condition": both})], Question("ec2:Stop", INSTANCE, CONTEXT)) is ALLOWED


@pytest.mark.parametrize(
    ("principal", "expected"),
    [
        ("*", ALLOWED),
        ({"AWS": "*"}, ALLOWED),
        ({"AWS": ROLE}, ALLOWED),
        ({"AWS": ["123456789012"]}, ALLOWED),
        ({"AWS": "arn:aws:iam::123456789012:root"}, ALLOWED),
        ({"AWS": "arn:aws:iam::999999999999:root"}, UNSAID),
        ({"Service": "ec2.amazonaws.com"}, UNSAID),
        (None, UNSAID),
    ],
)
def test_whom_a_role_trusts(principal: Any, expected: Answer) -> None:
    trust = {"Statement": [{"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}]}
    assert answer([json.dumps(trust)], Question("sts:AssumeRole", ROLE), ROLE) is expected
