"""What a failing test's report shows of its cluster, read from the evidence that was collected of it.

The verdict, the warnings and errors of the hosts that it names, and what Nomad's scheduler did with the jobs at hand.
Everything is read from files that `diagnostics.collect` has written, in which secrets are hidden already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nomad_testkit.checks.needs import Client, Needs, ready_clients
from nomad_testkit.checks.placement import Evaluation
from nomad_testkit.cluster.discovery import group_names
from nomad_testkit.deployment.evidence import EVIDENCE_NOTE, HOSTS_FILE, INCOMPLETE_FILE, journal_file, mask
from nomad_testkit.errors import TestkitError, said

MOST_HOSTS = 3
LINES_A_HOST = 12
MOST_JOBS = 3
LINES_A_JOB = 25
VERDICT_LINES = 30
_WIDTH = 220
"""Characters of one line of a log."""

_JOURNAL = re.compile(r"^(?P<at>\d{4}-\d\d-\d\dT\S+) \S+ (?P<by>[^\s\[:]+)\S* (?P<text>.*)$")
"""A line of `journalctl -o short-iso-precise`."""
_OWN_TIME = re.compile(r"^\s*\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:?\d\d)\s+")
_WORSE = re.compile(r"\[(?:WARN|ERROR|ERR|CRIT)\]|level=(?:warn|error)|\bpanic\b|\bfatal\b", re.IGNORECASE)
_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[0-9a-f]{8}\b")
_UNIT = re.compile(r"exited|[Ff]ailed|Stopp|Started|restart job")
_WELL = ("running", "complete")


@dataclass(frozen=True, slots=True)
class Window:
    """The time of a test, in seconds since the epoch."""

    since: float
    until: float

    def has(self, at: float) -> bool:
        """Whether something happened in it."""
        return self.since <= at <= self.until


@dataclass(frozen=True, slots=True)
class EvidenceHost:
    """One host of the evidence."""

    instance_id: str
    group: str
    private_ip: str
    address: str
    folder: str
    name: str = ""
    """Its group and its place in it, as `nomad-testkit status` shows it: ``clients-0``."""

    def __str__(self) -> str:
        return f"{self.name} ({self.instance_id}, {self.address})"

    def named_in(self, text: str) -> int | None:
        """Find where a text names it first, by its id or one of its addresses."""
        names = "|".join(re.escape(name) for name in (self.instance_id, self.private_ip, self.address) if name)
        found = re.search(rf"(?<![\w.-])(?:{names})(?![\w-]|\.\d)", text) if names else None
        return found.start() if found else None


def section(folder: Path, error: BaseException, window: Window, *, with_verdict: bool = True) -> str:
    """Say all of it for one failure; without the verdict where that is shown above it. Never raises.

    >>> print(section(folder, error, Window(began, time.time())))  # doctest: +SKIP
    verdict: 1 of 1 checks failed after 5.1 s and 20 tries:
        - NodesReady(2)
            wanted: 2 Nomad clients ready, eligible and of one version, asked on every server
            seen:   1 nodes are ready, asked on i-0a1b (127.31.0.4): missing on i-2c3d (127.31.0.5)
    ...
    """
    text = mask(said(error))
    parts = [_verdict(error, text)] if with_verdict else []
    for look in (partial(_logs, quiet=not isinstance(error, TestkitError)), _jobs):
        try:
            parts += look(folder, text, window)
        except Exception as problem:  # it must never hide the failure that it is to explain
            parts.append(f"(not all of the evidence can be read: {type(problem).__name__}: {problem})")
    parts.append(_where(folder))
    return "\n\n".join(part for part in parts if part)


def _verdict(error: BaseException, text: str) -> str:
    lines = [line for line in text.strip().splitlines() if not EVIDENCE_NOTE.match(line)]
    if not isinstance(error, TestkitError):
        # pytest shows all of it; what counts here is which hosts and jobs it names.
        lines = lines[:1]
    if len(lines) > VERDICT_LINES:
        lines = [*lines[:VERDICT_LINES], f"({len(lines) - VERDICT_LINES} more lines)"]
    name = "" if isinstance(error, TestkitError) else f"{type(error).__name__}: "
    return _block(f"verdict: {name}{lines[0] if lines else '(it says nothing)'}", lines[1:])


def _logs(folder: Path, text: str, window: Window, *, quiet: bool) -> Iterable[str]:
    """Tell what hosts logged; with `quiet` nothing of those that logged nothing, which a plain assert may name."""
    places = _places(folder)
    found = {place: at for place in places if (at := place.named_in(text)) is not None}
    if len(found) > MOST_HOSTS:
        yield f"the verdict names {len(found)} hosts; the first {MOST_HOSTS} of them:"
    chosen = sorted(found, key=lambda place: found[place])[:MOST_HOSTS]
    worst = {place: _warnings(folder, place, window) for place in (chosen or places)}
    if not chosen:
        # It names none: then those that complain most.
        chosen = sorted((place for place in places if worst[place]), key=lambda place: -len(worst[place]))[:MOST_HOSTS]
        if places and not chosen:
            yield "no host's agents logged a warning or an error while the test ran"
    for place in chosen:
        lines = worst[place]
        count = len(lines)
        if not lines and not quiet:
            yield f"{place}: its agents logged no warnings or errors while the test ran"
        if not lines:
            continue
        # Why a unit ended matters more than what its agent said when it came back.
        latest = sorted(range(count), key=lambda number: (lines[number].of_systemd, number))[-LINES_A_HOST:]
        shown = [lines[number].text for number in sorted(latest)]
        which = f", {len(shown)} of {count}" if len(shown) < count else ""
        yield _block(f"{place}: warnings and errors of its agents while the test ran{which}:", shown)


class _Line(NamedTuple):
    text: str
    of_systemd: bool


def _warnings(folder: Path, place: EvidenceHost, window: Window) -> list[_Line]:
    """Read what a host's agents complained of, in the order of time; what is said again and again stands once.

    An agent that starts again says the same of each allocation that it had: that must not drive out why it ended.
    """
    found: dict[tuple[str, str, bool], tuple[float, str, int]] = {}
    for agent in ("consul", "nomad"):
        try:
            lines = (folder / place.folder / journal_file(agent)).read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            matched = _JOURNAL.match(line)
            if matched is None or not window.has(at := _seconds(matched["at"])):
                continue
            message = _OWN_TIME.sub("", matched["text"])
            of_systemd = matched["by"] == "systemd"
            if (_UNIT if of_systemd else _WORSE).search(message):
                key = (agent, _ID.sub("", message), of_systemd)
                found[key] = (at, message, found[key][2] + 1 if key in found else 1)
    return [
        _Line(f"{_clock(at)} {agent}: {_cut(message)}" + (f" ({count} times)" if count > 1 else ""), of_systemd)
        for (agent, _, of_systemd), (at, message, count) in sorted(found.items(), key=lambda item: item[1][0])
    ]


def _jobs(folder: Path, text: str, window: Window) -> Iterable[str]:
    api = _most_knowing(folder)
    evaluations = [one for one in api.get("evaluations", ()) if one.get("JobID")]
    allocations = api.get("allocations", ())
    clients = ready_clients(api.get("nodes", ()))
    known = dict.fromkeys(str(one["JobID"]) for one in (*evaluations, *allocations))
    jobs = [job for job in known if job in text]
    if not jobs:
        recent = (one for one in evaluations if window.has(one.get("CreateTime", 0) / 1e9))
        jobs = list(dict.fromkeys(str(one["JobID"]) for one in recent))
    for job in jobs[:MOST_JOBS]:
        facts: Mapping[str, Any] = next((one for one in api.get("jobs", ()) if one.get("ID") == job), {})
        events = [line for one in evaluations if one["JobID"] == job for line in _of_evaluation(one, facts, clients)]
        for one in allocations:
            if one["JobID"] == job:
                events += _of_allocation(one)
        lines = [f"{_clock(at)} {line}" for at, line in sorted(events, key=lambda event: event[0])]
        left = len(lines) - LINES_A_JOB
        yield _block(f"job {job}:", [f"({left} earlier)", *lines[-LINES_A_JOB:]] if left > 0 else lines)
    if len(jobs) > MOST_JOBS:
        yield f"({len(jobs) - MOST_JOBS} more jobs: {', '.join(jobs[MOST_JOBS:])})"


def _of_evaluation(
    facts: Mapping[str, Any], job: Mapping[str, Any], clients: Sequence[Client]
) -> Iterable[tuple[float, str]]:
    why = f": {facts['StatusDescription']}" if facts.get("StatusDescription") else ""
    line = f"evaluation {facts['ID'][:8]} ({facts.get('TriggeredBy', '')}) is {facts['Status']}{why}"
    at = facts.get("CreateTime", 0) / 1e9
    yield at, line
    groups = {str(one["Name"]): one for one in job.get("TaskGroups") or ()}
    for failure in Evaluation.parse(facts).failures:
        # The jobs' list has no groups: then what is asked for is the job's datacenters.
        needs = Needs.parse(job, groups.get(failure.group, {"Name": failure.group}))
        yield at, f"  not placed: {failure.words(needs, clients)}"


def _of_allocation(facts: Mapping[str, Any]) -> Iterable[tuple[float, str]]:
    name = f"allocation {facts['Name']} on {facts.get('NodeName') or facts.get('NodeID', '')[:8]}"
    status = facts["ClientStatus"]
    why = f": {facts['ClientDescription']}" if facts.get("ClientDescription") else ""
    yield facts.get("ModifyTime", 0) / 1e9, f"{name} is {status}{why}"
    for task, state in (facts.get("TaskStates") or {}).items():
        events = state.get("Events") or ()
        for event in events if status not in _WELL or state.get("Failed") else events[-1:]:
            told = event.get("DisplayMessage") or event.get("Message") or ""
            yield event.get("Time", 0) / 1e9, f"{name}, {task}: {event.get('Type', '')}" + (f": {told}" if told else "")


def _most_knowing(folder: Path) -> Mapping[str, Any]:
    """Read the answers of the host whose Nomad agent knows most evaluations and allocations."""
    best: dict[str, Any] = {}
    for place in _places(folder):
        try:
            told = json.loads((folder / place.folder / "nomad-api.json").read_text())
        except (OSError, ValueError):
            continue
        lists = {key: value for key, value in told.items() if isinstance(value, list)}
        if _events(lists) > _events(best):
            best = lists
    return best


def _events(answers: Mapping[str, Any]) -> int:
    return sum(len(answers.get(key, ())) for key in ("evaluations", "allocations"))


def _where(folder: Path) -> str:
    lines = [f"evidence: {folder.absolute()}"]
    missing = folder / INCOMPLETE_FILE
    if missing.is_file():
        lines.append(f"not all of it could be had, see {missing.name} there")
    return "\n".join(lines)


def _places(folder: Path) -> Sequence[EvidenceHost]:
    try:
        hosts = json.loads((folder / HOSTS_FILE).read_text())
        names = group_names([(facts["instance_id"], facts["group"]) for facts in hosts])
        return [EvidenceHost(**facts, name=names[facts["instance_id"]]) for facts in hosts]
    except FileNotFoundError:
        return []


def _block(head: str, lines: Iterable[str]) -> str:
    return "\n".join([head, *(f"    {line}" for line in lines)])


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[:_WIDTH] + "…"


def _seconds(stamp: str) -> float:
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return 0.0


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]
