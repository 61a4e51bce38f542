"""The page: one file of HTML with its styles and drawings in it, which asks no network for anything."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from nomad_testkit.cluster.timeline import PHASES
from nomad_testkit.errors import SettingsError, TestkitError
from nomad_testkit.report import drawing
from nomad_testkit.report.model import ClusterRecord, RunReport, TestRecord
from nomad_testkit.report.words import lasting, moment

_INSTANCE = re.compile(r"\bi-[0-9a-f]{8,17}\b")
_MOST_FILES = 120
"""Of one failure's evidence, that are named one by one."""


def write(report: RunReport, path: Path) -> Path:
    """Write a report's page, whole or not at all, for its owner alone. Raises TestkitError where it cannot be written.

    >>> write(report, Path("report.html"))  # doctest: +SKIP
    """
    text = render(report, path.absolute().parent)
    try:
        descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
            Path(part).replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(part).unlink()
            raise
    except OSError as error:
        raise TestkitError(f"the report cannot be written to {path}: {error.strerror or error}") from error
    return path


def prepare(path: Path) -> Path:
    """Make the folder of a page, and try whether the page can be written there; gives the path from the root.

    Raises SettingsError.
    """
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise SettingsError(
            f"the report is to be {path}, but nothing can be written into {path.parent}: {error.strerror or error}; "
            "expected a file in a folder that can be written, such as --nomad-report report.html"
        ) from error
    return path


def render(report: RunReport, folder: Path) -> str:
    """Draw a report's page, whose links to evidence are relative to `folder`."""
    hosts = {
        instance_id: label for cluster in report.clusters for instance_id, label in drawing.labels(cluster).items()
    }

    def linked(text: str) -> Markup:
        """Make a link of each instance id that the page knows."""
        parts, last = [Markup()], 0
        for match in _INSTANCE.finditer(text):
            label = hosts.get(match[0])
            link = Markup('<a href="#host-{id}">{id}</a>').format(id=match[0]) if label else escape(match[0])
            parts += [escape(text[last : match.start()]), link]
            last = match.end()
        return Markup().join([*parts, escape(text[last:])])

    def places(text: str) -> list[drawing.HostLabel]:
        """List the hosts that a text names, each once."""
        return [hosts[one] for one in dict.fromkeys(_INSTANCE.findall(text)) if one in hosts]

    return _template().render(
        report=report,
        drawing=drawing,
        verdict=verdict(report),
        files=lambda place: evidence_files(Path(place), folder) if place else None,
        linked=linked,
        places=places,
        hosts=hosts,
        titles=drawing.titles(report.clusters),
        versions={agent: _versions(report, agent) for agent in ("consul", "nomad")},
        phases=PHASES,
        phase_words=phase_words,
        took=took,
        leader_words=leader_words,
        host_rows=host_rows,
        by_file=by_file(report.tests),
        faults=[(test, fault) for test in report.tests for fault in test.faults],
    )


@dataclass(frozen=True)
class Verdict:
    """The run in a sentence, and the colour and the sign that go with it."""

    style: str
    icon: str
    word: str
    sentence: str


def verdict(report: RunReport) -> Verdict:
    """Say what came of a run.

    >>> verdict(RunReport("nothing", 0.0, 1.0)).sentence
    'No test ran'
    """
    bad, total = report.count("failed", "error"), len(report.tests) - report.count("unfinished")
    tests = f"{total} {'test' if total == 1 else 'tests'}"
    if report.outcome == "interrupted":
        after = f"Interrupted after {tests}" if total else "Interrupted before the first test ended"
        return Verdict("amber", "warn", "Interrupted", after + (f", {bad} of them failed" if bad else ""))
    if report.outcome == "failed":
        problems = len(report.problems)
        counted = "The test failed" if total == 1 else f"{bad} of {tests} failed"
        what = counted if bad else f"{problems} {'problem' if problems == 1 else 'problems'}"
        return Verdict("red", "fail", "Red", what)
    if report.outcome == "nothing" or not total:
        return Verdict("amber", "skip", "Empty", "No test ran")
    passed = report.count("passed", "xfailed", "xpassed")
    if passed == total:
        return Verdict("green", "pass", "Green", "The test passed" if total == 1 else f"All {tests} passed")
    return Verdict("green", "pass", "Green", f"{passed} of {tests} passed, {total - passed} skipped")


def by_file(tests: tuple[TestRecord, ...]) -> dict[str, list[TestRecord]]:
    """Group tests by their files, in the order in which they came."""
    found: dict[str, list[TestRecord]] = {}
    for test in tests:
        found.setdefault(test.nodeid.partition("::")[0], []).append(test)
    return found


def phase_words(segments: Sequence[drawing.Segment]) -> str:
    """Say what a line of time shows."""
    return ", ".join(f"{one.name} {lasting(one.seconds)}" for one in segments) or "nothing is known"


def took(test: TestRecord) -> str:
    """Say how long each phase of a test took; what took no time is left out.

    >>> took(TestRecord("a", "passed", setup_seconds=2, call_seconds=0.5))
    '2.0 s set-up, 0.5 s test'
    """
    parts = ((test.setup_seconds, "set-up"), (test.call_seconds, "test"), (test.teardown_seconds, "teardown"))
    return ", ".join(f"{lasting(seconds)} {name}" for seconds, name in parts if seconds >= 0.01) or "no time"


def leader_words(cluster: ClusterRecord) -> str:
    """Say who led when a cluster was ready, and who in the end."""
    named = drawing.labels(cluster)
    first, last = ({agent: _leader(state, agent) for agent in ("Consul", "Nomad")} for state in _ends(cluster))
    if first == last and len(set(last.values())) == 1 and last["Nomad"]:
        return f"{named[last['Nomad']].name} leads Consul and Nomad."
    words = []
    for agent, now in last.items():
        leader = f"{named[now].name} leads {agent}" if now else f"nobody leads {agent}"
        if first[agent] and first[agent] != now:
            leader += f", as {named[first[agent]].name} did at first"
        words.append(leader)
    return "; ".join(words) + "."


def _ends(cluster: ClusterRecord) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return cluster.states[0], cluster.states[-1]


def _leader(state: Mapping[str, Any], agent: str) -> str:
    return next((str(host["instance_id"]) for host in state["hosts"] if agent in host["leads"]), "")


def _versions(report: RunReport, agent: str) -> list[str]:
    return sorted({version for cluster in report.clusters for version in cluster.versions.get(agent, ())})


@dataclass(frozen=True)
class HostRow:
    """One host in words."""

    label: drawing.HostLabel
    zone: str
    private_ip: str
    state: str
    entered: str


def host_rows(cluster: ClusterRecord) -> list[HostRow]:
    """Tell of every host that was ever seen of a cluster what is known of it."""
    seen = {host["instance_id"]: host for state in cluster.states for host in state["hosts"]}
    last = {host["instance_id"] for host in (cluster.states[-1]["hosts"] if cluster.states else ())}
    deployed = {host["instance_id"]: host for host in cluster.timeline}
    rows = []
    for instance_id, label in drawing.labels(cluster).items():
        facts = seen.get(instance_id) or deployed[instance_id]
        words = [", ".join(facts.get("roles", ()))]
        words += [f"{agent} leader" for agent in facts.get("leads", ()) if instance_id in last]
        words += [f"{agent} {facts[agent.lower()]}" for agent in ("Consul", "Nomad") if facts.get(agent.lower())]
        words += ["gone in the end"] if cluster.states and instance_id not in last else []
        entered = deployed.get(instance_id, {}).get("entered", {})
        came = ", ".join(f"{phase} {lasting(at)}" for phase, at in sorted(entered.items(), key=lambda one: one[1]))
        state = "; ".join(filter(None, words)) or "not known"
        rows.append(HostRow(label, facts["zone"], facts["private_ip"], state, came or "unknown"))
    return rows


@dataclass(frozen=True)
class Evidence:
    """A folder of evidence and its files, as links."""

    name: str
    href: str
    files: tuple[tuple[str, str], ...]
    """Names within the folder, each with its link."""
    more: int


def evidence_files(place: Path, folder: Path) -> Evidence:
    """List a folder of evidence, with links that are relative to the page's folder."""

    def link(path: Path) -> str:
        # With the dots first, no name can look like the scheme of an address.
        relative = os.path.relpath(path, folder)
        return quote(relative if relative.startswith("..") else f"./{relative}")

    found = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else []
    files = tuple((str(path.relative_to(place)), link(path)) for path in found[:_MOST_FILES])
    return Evidence(os.path.relpath(place, folder), link(place) + "/", files, max(0, len(found) - _MOST_FILES))


def short(nodeid: str) -> str:
    """Give a test's name without its file.

    >>> short("tests/test_it.py::TestIt::test_forms[exec]")
    'TestIt::test_forms[exec]'
    """
    return nodeid.partition("::")[2] or nodeid


@cache
def _template() -> jinja2.Template:
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: Mapping[str, Any] = {"lasting": lasting, "moment": moment, "short": short}
    environment.filters.update(filters)
    # The styles are ours, and no text of a run is in them.
    environment.globals["style"] = Markup((folder / "page.css").read_text(encoding="utf-8"))  # noqa: S704
    return environment.get_template("page.html.j2")
