"""What a run says to GitHub Actions: an annotation for each failure, and a summary of the step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nomad_testkit.plugin import told_once

_ATTRIBUTE = "nomad_testkit"
"""Of the reports of a session that uses clusters."""


class Failure(NamedTuple):
    """One failing test, with the line to show it at, counted from 1."""

    nodeid: str
    file: str
    line: int
    cause: str


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Annotate failures of clusters and write the step's summary, where GitHub Actions runs this."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    stats: Mapping[str, list[Any]] = terminalreporter.stats
    reports = [one for kind in ("failed", "error") for one in stats.get(kind, ()) if hasattr(one, _ATTRIBUTE)]
    used = any(hasattr(one, _ATTRIBUTE) for kind in stats.values() for one in kind)
    if not used:
        return
    failures = list(_failures(reports, Path(terminalreporter.config.rootpath)))
    for failure in failures:
        terminalreporter.write_line(annotation(failure))
    if place := os.environ.get("GITHUB_STEP_SUMMARY"):
        counts = {kind: len(stats.get(kind, ())) for kind in ("passed", "failed", "error", "skipped")}
        try:
            with Path(place).open("a") as file:
                file.write(summary(counts, failures))
        except OSError as error:
            terminalreporter.write_line(f"nomad_testkit: the step's summary cannot be written: {error}")


def _failures(reports: Iterable[Any], root: Path) -> Iterable[Failure]:
    """List the failures, without those that only point to another."""
    from nomad_testkit.deployment.evidence import mask

    for report in reports:
        crash = getattr(report.longrepr, "reprcrash", None)
        cause = mask(str(crash.message if crash is not None else report.longrepr))
        if told_once.points_elsewhere(cause):
            continue
        file, line, _ = report.location
        path = os.path.relpath(root / file, os.environ.get("GITHUB_WORKSPACE", root))
        yield Failure(report.nodeid, path, (line or 0) + 1, " ".join(cause.split()))


def annotation(failure: Failure) -> str:
    """Write a failure as GitHub's workflow commands have an error.

    >>> annotation(Failure("test_a.py::test_it", "test_a.py", 3, "NodesReady(2): 50% are ready"))
    '::error file=test_a.py,line=3,title=test_a.py%3A%3Atest_it::NodesReady(2): 50%25 are ready'
    """
    return (
        f"::error file={_property(failure.file)},line={failure.line},title={_property(failure.nodeid)}"
        f"::{_data(failure.cause)}"
    )


def summary(counts: Mapping[str, int], failures: Sequence[Failure]) -> str:
    """Write the summary of a step in Markdown."""
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no test ran"
    lines = [f"### nomad_testkit: {told}", ""]
    if failures:
        lines += ["| test | cause |", "|---|---|"]
        lines += [f"| `{_cell(one.nodeid)}` | {_cell(one.cause)} |" for one in failures]
    return "\n".join([*lines, ""])


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
