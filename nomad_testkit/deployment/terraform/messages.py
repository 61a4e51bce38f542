"""Summarise the output of Terraform and OpenTofu with ``-json``: one object a line.

Both use the format of https://developer.hashicorp.com/terraform/internals/machine-readable-ui.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_TOLD = ("apply_start", "apply_complete", "apply_errored")
"""The types of messages to show; apply_progress repeats itself every 10 s."""
_MOST_ERRORS = 5
_MOST_LINES = 15
_MOST_CHARACTERS = 300
"""Of one line of an error: the command of a local-exec may be a whole script."""
_LEAST_HIDDEN = 3
"""The shortest secret to redact, in characters: a shorter one would match half of every line."""
HIDDEN = "(hidden)"


@dataclass
class Output:
    """A program's output so far; `secrets` are redacted."""

    secrets: Sequence[str] = ()
    errors: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """All messages as text, for a log."""

    def hear(self, line: str) -> str | None:
        """Parse one line and return the text to show, if any."""
        line = line.rstrip("\r\n")
        message = _message(line)
        if message is None:
            if line.strip():
                self.lines.append(self.hide(line))
            return None
        if message.get("type") == "outputs":  # outputs may hold secrets
            return None
        if "diagnostic" in message:
            self._note(message["diagnostic"])
            return None
        text = self.hide(str(message.get("@message", line)))
        self.lines.append(f"{str(message.get('@timestamp', ''))[11:19]} {text}")
        return text if message.get("type") in _TOLD else None

    def diagnose(self, found: Sequence[Mapping[str, Any]]) -> None:
        """Record the diagnostics of ``validate -json``."""
        for one in found:
            self._note(one)

    def own_words(self) -> str:
        """Return the program's errors, or else its last lines, unchanged."""
        if self.errors:
            more = len(self.errors) - _MOST_ERRORS
            return "\n".join([*self.errors[:_MOST_ERRORS], *([f"and {more} more errors"] if more > 0 else [])])
        lines = plain("\n".join(self.lines)).splitlines()
        # Without -json, errors come last, after actions and warnings.
        first = next((number for number, line in enumerate(lines) if line.startswith("Error: ")), None)
        last = lines[-_MOST_LINES:] if first is None else lines[first : first + 2 * _MOST_LINES]
        return "\n".join(last) or "(nothing)"

    def hide(self, text: str) -> str:
        """Redact every secret."""
        for secret in self.secrets:
            if len(secret) >= _LEAST_HIDDEN:
                text = text.replace(secret, HIDDEN)
        return text

    def _note(self, one: Mapping[str, Any]) -> None:
        told = diagnostic(one, hide=self.hide)
        self.lines.append(told)
        if one.get("severity") == "error":
            self.errors.append(told)


def diagnostic(one: Mapping[str, Any], *, hide: Callable[[str], str] = str) -> str:
    """Format one diagnostic: what, where, and why. `hide` redacts secrets before lines are shortened.

    >>> diagnostic({"severity": "error", "summary": "Missing name", "detail": "Give one.",
    ...             "range": {"filename": "main.tf", "start": {"line": 3}}})
    'Error: Missing name\\n  on main.tf line 3\\n  Give one.'
    """
    lines = [f"{str(one.get('severity', 'error')).capitalize()}: {hide(str(one.get('summary', '')))}"]
    range_, address = one.get("range") or {}, one.get("address")
    place = [f"on {range_['filename']} line {range_.get('start', {}).get('line', '?')}"] if "filename" in range_ else []
    if address:
        place.append(f"in {address}")
    code = hide(str((one.get("snippet") or {}).get("code", ""))).strip()
    if place:
        lines.append("  " + ", ".join(place) + (f": {code}" if code and "\n" not in code else ""))
    detail = hide(str(one.get("detail") or "")).strip().splitlines()
    if len(detail) > _MOST_LINES:
        # Keep the end of a long detail: the last output of a provisioner's command.
        detail = [*detail[:3], "...", *detail[3 - _MOST_LINES :]]
    return "\n".join([*lines, *(f"  {_short(line)}" for line in detail if line.strip())])


def plain(text: str) -> str:
    """Remove colours and box frames from output without ``-json``.

    >>> plain("\\x1b[31m╷\\n│ \\x1b[1mError: no module\\x1b[0m\\n│ \\n╵")
    'Error: no module'
    """
    bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [re.sub(r"^[╷│╵] ?", "", line).rstrip() for line in bare.splitlines()]
    return "\n".join(line for line in lines if line.strip())


def _short(line: str) -> str:
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 3] + "..."


def _message(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and ("@message" in message or "diagnostic" in message) else None
