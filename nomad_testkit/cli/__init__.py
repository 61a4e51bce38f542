"""The command line: each module here registers the commands of one topic on the group."""

from __future__ import annotations

from nomad_testkit.cli import (
    addresses,
    bench,
    check,
    completion,
    doctor,
    down,
    hosts,
    images,
    jobs,
    policy,
    report,
    status,
    up,
)
from nomad_testkit.cli.group import main

__all__ = [
    "addresses",
    "bench",
    "check",
    "completion",
    "doctor",
    "down",
    "hosts",
    "images",
    "jobs",
    "main",
    "policy",
    "report",
    "status",
    "up",
]
