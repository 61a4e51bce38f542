"""The command line, called in this process."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from nomad_testkit.cli import main


def call(*arguments: str) -> Result:
    """Call the command line."""
    return CliRunner().invoke(main, arguments)


def json_answer(*arguments: str, exits: int = 0) -> Any:
    """Call a command that is to end with a code, 0 for success, and give what it tells scripts."""
    result = call(*arguments, "--json")
    assert result.exit_code == exits, result.output
    return json.loads(result.stdout)
