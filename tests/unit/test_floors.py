"""The lowest boto3 that is declared knows every call and parameter that is sent."""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import botocore.session
from botocore import xform_name
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
SERVICES = ("autoscaling", "ec2", "iam", "pricing", "service-quotas", "sts")
NEEDED = {"1.40.0": ("ec2", "TerminateInstances", "SkipOsShutdown")}
"""What came late to boto3's models, by the first version that has it; its versions and botocore's go together."""


def members() -> dict[str, set[str]]:
    """Give the parameters of each method of the clients, over all services."""
    session = botocore.session.get_session()
    found: dict[str, set[str]] = {}
    for service in SERVICES:
        model = session.get_service_model(service)
        for name in model.operation_names:
            shape = model.operation_model(name).input_shape
            found.setdefault(xform_name(name), set()).update(shape.members if shape else ())
    return found


def test_the_floor_of_boto3_has_what_came_late() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (boto3,) = [one for one in map(Requirement, project["dependencies"]) if one.name == "boto3"]
    (floor,) = [Version(one.version) for one in boto3.specifier if one.operator == ">="]
    assert floor >= max(map(Version, NEEDED))
    known = members()
    for _, action, parameter in NEEDED.values():
        assert parameter in known[xform_name(action)]


def test_every_call_and_parameter_is_in_the_models() -> None:
    known = members()
    recorded = json.loads((ROOT / "fixtures/recorded/aws-calls.json").read_text())
    seen = {xform_name(call.partition(":")[2]) for calls in recorded.values() for call in calls}
    assert sorted(seen - known.keys()) == []
    sent = set()
    for file in (ROOT / "nomad_testkit").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in known:
                names = {one.arg for one in node.keywords if one.arg and one.arg[0].isupper()}
                sent |= {(node.func.attr, name) for name in names}
    assert ("terminate_instances", "SkipOsShutdown") in sent
    assert sorted(f"{method}({name}=)" for method, name in sent if name not in known[method]) == []
