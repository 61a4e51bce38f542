"""The command line: each module here registers the commands of one topic on the group."""

from __future__ import annotations

from nomad_testkit.cli import (
    addresses,
    completion,
    deployment,
    doctor,
    hosts,
    images,
    jobs,
    measure,
    policy,
    report,
    status,
    teardown,
    verification,
)
from nomad_testkit.cli.group import main

__all__ = [
    "addresses",
    "completion",
    "deployment",
    "doctor",
    "hosts",
    "images",
    "jobs",
    "main",
    "measure",
    "policy",
    "report",
    "status",
    "teardown",
    "verification",
]
