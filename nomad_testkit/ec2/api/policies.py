"""Policies of IAM, evaluated as AWS evaluates them: moto's own evaluator reads neither conditions nor boundaries.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any

ANY = "*"
"""The resource of an action that AWS lets be limited to none."""


@dataclass(frozen=True, slots=True)
class Question:
    """May somebody do an action with a resource, while the keys of conditions have these values?"""

    action: str
    """As ``ec2:RunInstances``."""
    resource: str = ANY
    context: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Answer(Enum):
    """What documents say to a question together."""

    ALLOWED = "allowed"
    DENIED = "explicitDeny"
    UNSAID = "implicitDeny"


def answer(documents: Iterable[str], question: Question, principal: str | None = None) -> Answer:
    """Ask policies, as JSON; `principal` is who asks where they are a resource's own, such as a role's trust policy.

    >>> answer(['{"Statement": {"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*"}}'],
    ...        Question("ec2:DescribeVpcs"))
    <Answer.ALLOWED: 'allowed'>
    """
    found = {
        statement["Effect"]
        for document in documents
        for statement in _statements(document)
        if _applies(statement, question, principal)
    }
    return Answer.DENIED if "Deny" in found else Answer.ALLOWED if "Allow" in found else Answer.UNSAID


def missing_keys(documents: Iterable[str], question: Question) -> list[str]:
    """List the keys that conditions about an action ask for, and that the question does not have."""
    return sorted(
        {
            key
            for document in documents
            for statement in _statements(document)
            if _concerns(statement, "Action", question.action.lower(), None)
            for keys in statement.get("Condition", {}).values()
            for key in keys
            if _values(key, question.context) is None
        }
    )


@lru_cache(256)
def _statements(document: str) -> tuple[dict[str, Any], ...]:
    return tuple(_list(json.loads(document or "{}").get("Statement", [])))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _applies(statement: Mapping[str, Any], question: Question, principal: str | None) -> bool:
    if principal is not None:
        if "NotPrincipal" in statement or not _names(statement.get("Principal"), principal):
            return False
    elif not _concerns(statement, "Resource", question.resource, question.context):
        return False
    return _concerns(statement, "Action", question.action.lower(), None) and all(
        _condition(operator, key, _list(values), question.context)
        for operator, keys in statement.get("Condition", {}).items()
        for key, values in keys.items()
    )


def _names(principals: Any, principal: str) -> bool:
    """Whether a statement names a user, a role or a service; an account stands for all that is in it."""
    if principals == "*":
        return True
    named = [one for kind in ("AWS", "Service") for one in _list((principals or {}).get(kind, []))]
    account = principal.split(":")[4] if principal.startswith("arn:") else None
    return any(one in ("*", principal, account) or (account and one.endswith(f"::{account}:root")) for one in named)


def _concerns(statement: Mapping[str, Any], element: str, value: str, context: Mapping[str, Any] | None) -> bool:
    """Whether an element such as Action, or NotAction, takes a value in."""
    negated = f"Not{element}" in statement
    patterns = _list(statement.get(f"Not{element}" if negated else element, []))
    # Actions are compared whatever their case.
    prepared = (one.lower() if context is None else _with_variables(one, context) for one in patterns)
    return any(_like(one, value) for one in prepared) is not negated


def _with_variables(text: str, context: Mapping[str, Sequence[str]]) -> str:
    """Put values in the place of variables such as ${aws:username}; an unknown one matches nothing."""

    def value(found: re.Match[str]) -> str:
        name, _, default = found[1].partition(",")
        if name in ("*", "?", "$"):
            return name
        values = _values(name.strip(), context)
        return values[0] if values else default.strip().strip("'") or "\0"

    return re.sub(r"\$\{([^}]+)\}", value, text) if "${" in text else text


@lru_cache(4096)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile("".join({"*": ".*", "?": "."}.get(one) or re.escape(one) for one in pattern), re.DOTALL)


def _like(pattern: str, value: str) -> bool:
    return _pattern(pattern).fullmatch(value) is not None


def _values(key: str, context: Mapping[str, Sequence[str]]) -> Sequence[str] | None:
    """Give the values of a key, whose case does not count."""
    found = context.get(key)
    if found is None:
        found = next((values for name, values in context.items() if name.lower() == key.lower()), None)
    return found


def _condition(operator: str, key: str, wanted: list[Any], context: Mapping[str, Sequence[str]]) -> bool:
    qualifier, _, name = operator.rpartition(":")
    values = _values(key, context)
    expected = [_with_variables(_text(one), context) for one in wanted]
    if name == "Null":
        return (values is None) is (expected[0].lower() == "true")
    optional, name = name.endswith("IfExists"), name.removesuffix("IfExists")
    negated = "Not" in name
    compare = _OPERATORS.get(name.replace("Not", "", 1))
    if compare is None:
        return False  # such a statement neither allows nor denies
    if values is None:
        return optional or negated or qualifier == "ForAllValues"

    def holds(value: str) -> bool:
        return any(_compared(compare, one, value) for one in expected) is not negated

    return (all if qualifier == "ForAllValues" else any)(map(holds, values))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _compared(compare: Callable[[str, str], bool], expected: str, value: str) -> bool:
    try:
        return compare(expected, value)
    except ValueError:  # what is no number, no date or no address
        return False


def _arn_like(expected: str, value: str) -> bool:
    """Compare the six parts of ARNs each by itself."""
    parts = list(zip(expected.split(":", 5), value.split(":", 5), strict=False))
    return len(parts) == 6 and all(_like(*one) for one in parts)


def _date(text: str) -> datetime:
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return datetime.fromtimestamp(float(text), UTC)
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "Equals": lambda expected, value: value == expected,
    "LessThan": lambda expected, value: value < expected,
    "LessThanEquals": lambda expected, value: value <= expected,
    "GreaterThan": lambda expected, value: value > expected,
    "GreaterThanEquals": lambda expected, value: value >= expected,
}


def _ordered(name: str, read: Callable[[str], Any]) -> dict[str, Callable[[str, str], bool]]:
    return {
        f"{name}{order}": lambda expected, value, compare=compare: compare(read(expected), read(value))  # type: ignore[misc]
        for order, compare in _ORDERS.items()
    }


_OPERATORS: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda expected, value: expected == value,
    "StringEqualsIgnoreCase": lambda expected, value: expected.lower() == value.lower(),
    "StringLike": _like,
    "ArnEquals": _arn_like,
    "ArnLike": _arn_like,
    "Bool": lambda expected, value: expected.lower() == value.lower(),
    "BinaryEquals": lambda expected, value: expected == value,
    "IpAddress": lambda expected, value: ipaddress.ip_address(value) in ipaddress.ip_network(expected, strict=False),
    **_ordered("Numeric", float),
    **_ordered("Date", _date),
}
"""https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html; those with Not
are the others' opposites."""
