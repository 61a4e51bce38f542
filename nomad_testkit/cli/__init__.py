"""The command line: each module here registers the commands of one topic on the group."""

from __future__ import annotations

from nomad_testkit.cli import measure, policy, teardown
from nomad_testkit.cli.group import main

__all__ = ["main", "measure", "policy", "teardown"]
