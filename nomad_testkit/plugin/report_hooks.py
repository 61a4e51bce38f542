"""Collects what happens in a session for its report (--nomad-report) and for the history of runs.

Workers of pytest-xdist hear what happens to clusters; they send it to the controller as an attribute of each test's
report, and what comes after the last one with their output.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nomad_testkit import events
from nomad_testkit.errors import SettingsError, TestkitError
from nomad_testkit.plugin import topologies
from nomad_testkit.plugin.evidence_hooks import cluster_of
from nomad_testkit.plugin.session import CLUSTER_FIXTURES, SETTINGS
from nomad_testkit.settings import Settings

if TYPE_CHECKING:
    from nomad_testkit.report.collector import Collector, EventLog, Facts, PhaseFacts
    from nomad_testkit.report.model import RunOutcome, RunReport

_ATTRIBUTE = "nomad_testkit"
"""Of a TestReport; pytest and pytest-xdist send it on as JSON."""
_LATE = "nomad_testkit_events"
"""The key, in a worker's output, of what was heard after its last test."""
_EVIDENCE = re.compile(r"^evidence: (/.+)$", re.MULTILINE)
_log: pytest.StashKey[EventLog] = pytest.StashKey()
_end = pytest.StashKey[Callable[[], None]]()
_page = pytest.StashKey[Path]()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Refuse a page that cannot be written, before the run; collect, but not in a worker."""
    settings = config.stash[SETTINGS]
    if isinstance(settings, Settings) and settings.report is not None and not config.option.collectonly:
        from nomad_testkit.report.page import prepare

        try:
            config.stash[_page] = prepare(settings.report)
        except SettingsError as error:
            # A variable of the environment alone must not end a run that has nothing to do with clusters.
            if not settings.source("report").startswith("environment"):
                raise pytest.UsageError(str(error)) from error
            config.stash[SETTINGS] = error
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Reporter(config), "nomad_testkit.reporter")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Listen no more."""
    if (end := config.stash.get(_end, None)) is not None:
        del config.stash[_end]
        end()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Listen to what happens to clusters, where any are going to be used."""
    config = session.config
    used = any(topologies.uses(item, *CLUSTER_FIXTURES) for item in session.items)
    if (used or _page in config.stash) and not config.option.collectonly and _log not in config.stash:
        from nomad_testkit.report.collector import EventLog

        config.stash[_log] = EventLog()
        config.stash[_end] = events.listen(config.stash[_log])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put on the report what was heard since the last one; outermost, so that it has what other hooks add to it."""
    report = yield
    if (log := item.config.stash.get(_log, None)) is not None:
        # In its teardown a test has the cluster only among its arguments, if it was the last one to use it.
        cluster = cluster_of(item) or (getattr(item, "funcargs", None) or {}).get("nomad_cluster")
        facts: Facts = {"events": log.take(), "run_id": str(getattr(cluster, "run_id", ""))}
        if _page in item.config.stash:
            facts |= _words(report)
        setattr(report, _ATTRIBUTE, _hidden(facts))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Send the controller what a worker heard after its last test, such as when it was interrupted."""
    try:
        return (yield)
    finally:
        output = getattr(session.config, "workeroutput", None)
        if output is not None and (log := session.config.stash.get(_log, None)) is not None:
            output[_LATE] = _hidden(log.take())


class Reporter:
    """The hooks of the process that knows of all tests: the only one, or the controller of pytest-xdist."""

    def __init__(self, config: pytest.Config) -> None:
        self._config, self._began = config, time.time()
        self._collector: Collector | None = None
        self._uncollected = False
        self._said: list[str] = []

    @property
    def collector(self) -> Collector:
        """What has been collected."""
        if self._collector is None:
            from nomad_testkit.report.collector import Collector

            self._collector = Collector(self._began)
        return self._collector

    @property
    def page(self) -> Path | None:
        """Where the page goes."""
        return self._config.stash.get(_page, None)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a phase of a test."""
        if self.page is not None or hasattr(report, _ATTRIBUTE):
            self.collector.add_phase(_phase(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Add a file that cannot be collected."""
        if report.failed and self.page is not None:
            self._uncollected = True
            self.collector.add_problem(_shown(f"{report.nodeid}\n{report.longreprtext}"))

    def pytest_internalerror(self, excrepr: object) -> None:
        """Add an error of pytest or a plugin of it."""
        if self.page is not None:
            self.collector.add_problem(_shown(str(excrepr)))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Add what a worker heard after its last test, and that it died."""
        if late := getattr(node, "workeroutput", {}).get(_LATE, ()):
            self.collector.add_events(late)
        if error and self.page is not None:
            self.collector.add_problem(_shown(f"worker {node.gateway.id} ended: {error}"))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Write the page and the history; innermost, so that all is torn down and nothing of it is shown yet."""
        try:
            return (yield)
        finally:
            if (log := self._config.stash.get(_log, None)) is not None:
                self.collector.add_events(_hidden(log.take()))
            if self.page is not None or self._collector is not None:
                self._write(self._report(session))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say where the page is, or why it was not written."""
        for line in self._said:
            terminalreporter.write_line(f"nomad_testkit: {line}")

    def _report(self, session: pytest.Session) -> RunReport:
        import importlib.metadata

        settings = self._config.stash[SETTINGS]
        return self.collector.report(
            outcome=self._outcome(session),
            artifacts=settings.artifacts if isinstance(settings, Settings) else None,
            settings=settings.in_force() if isinstance(settings, Settings) else [],
            software={
                "nomad_testkit": importlib.metadata.version("nomad-testkit"),
                "pytest": pytest.__version__,
                "Python": platform.python_version(),
            },
        )

    def _outcome(self, session: pytest.Session) -> RunOutcome:
        status = session.exitstatus
        if status == pytest.ExitCode.INTERRUPTED and not self._uncollected:
            return "interrupted"
        if status == pytest.ExitCode.NO_TESTS_COLLECTED:
            return "nothing"
        return "passed" if status == pytest.ExitCode.OK else "failed"

    def _write(self, report: RunReport) -> None:
        if self.page is not None:
            from nomad_testkit.report import page

            try:
                self._said.append(f"report: {page.write(report, self.page)}")
            except TestkitError as error:
                self._said.append(str(error))
        if report.clusters:
            from nomad_testkit.report import history

            try:
                history.append(history.runs_of(report))
            except TestkitError as error:
                self._said.append(str(error))


def _phase(report: pytest.TestReport) -> PhaseFacts:
    from nomad_testkit.report.collector import PhaseFacts

    # A report without it is one that pytest-xdist made of a test whose worker died.
    facts: Facts | None = getattr(report, _ATTRIBUTE, None)
    if facts is None:
        facts = _words(report)
    return PhaseFacts(
        nodeid=report.nodeid,
        phase=str(report.when),
        outcome=report.outcome,
        xfail=hasattr(report, "wasxfail"),
        began=getattr(report, "start", 0.0),
        seconds=report.duration,
        worker=str(getattr(report, "worker_id", "")).replace("master", ""),
        **facts,
    )


def _words(report: pytest.TestReport) -> Facts:
    """Give what is to be read of a report."""
    facts: Facts = {"properties": [[str(name), str(value)] for name, value in report.user_properties]}
    crash = getattr(report.longrepr, "reprcrash", None)
    sections = [*report.sections, *((one[0], one[1]) for one in getattr(report.longrepr, "sections", ()))]
    said = [text for title, text in sections if title == _ATTRIBUTE]
    if report.failed:
        message = report.longreprtext
        for text in said:  # it stands in a place of its own
            message = re.sub(rf"\n*-* ?{_ATTRIBUTE} ?-*\n{re.escape(text)}", "", message)
        facts["message"] = _shown(message)
        facts["headline"] = _shown(str(crash.message)) if crash else facts["message"]
    elif hasattr(report, "wasxfail"):
        facts["headline"] = _shown(str(report.wasxfail).removeprefix("reason: "))
    elif isinstance(report.longrepr, tuple):
        facts["headline"] = _shown(str(report.longrepr[2]).removeprefix("Skipped: "))
    evidence = "\n".join(said)
    if found := _EVIDENCE.search(evidence) or _EVIDENCE.search(facts.get("message", "")):
        facts["artifacts"] = found[1]
        evidence = evidence.replace(found[0], "").strip()
    facts["evidence"] = _shown(evidence)
    return facts


def _shown(text: str) -> str:
    """Give a text without secrets."""
    from nomad_testkit.deployment.evidence import mask

    return mask(text)


def _hidden(value: Any) -> Any:
    """Give facts without the secrets of the runs of this process."""
    from nomad_testkit.cluster.secrets import hide_all

    if isinstance(value, str):
        return hide_all(value)
    if isinstance(value, dict):
        return {key: _hidden(one) for key, one in value.items()}
    return [_hidden(one) for one in value] if isinstance(value, list) else value
