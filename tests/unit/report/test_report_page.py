"""The page of a report, parsed: valid, self-contained, escaped, and telling what the run told."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from made_reports import (
    BEGAN,
    HOSTILE,
    check,
    cluster_events,
    collector,
    green,
    hosts,
    instance,
    interrupted,
    phases,
    red,
    state,
    without_cluster,
)

from nomad_testkit.errors import SettingsError, TestkitError
from nomad_testkit.events import CheckEvent, ClusterEvent, Event, FaultEvent
from nomad_testkit.report.collector import PhaseFacts, as_event, as_facts
from nomad_testkit.report.drawing import fault_line, ticks, timeline, topology
from nomad_testkit.report.model import FaultRecord, Healing, RunReport, healed
from nomad_testkit.report.page import prepare, render, verdict, write

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag


REPORTS: dict[str, Callable[[Path], RunReport]] = {
    "green": lambda folder: green(2),
    "red": red,
    "interrupted": lambda folder: interrupted(),
    "without": lambda folder: without_cluster(),
}


def parsed(report: RunReport, folder: Path) -> BeautifulSoup:
    return soup(render(report, folder))


def soup(text: str) -> BeautifulSoup:
    # Imported where it is used: most environments collect this file without its packages.
    from bs4 import BeautifulSoup

    return BeautifulSoup(text, "html5lib")


def words(found: Tag | None) -> str:
    assert found is not None
    return re.sub(r"\s+", " ", found.get_text(" ")).strip()


@pytest.mark.parametrize("name", REPORTS)
def test_the_page_is_valid_and_needs_nothing_else(name: str, tmp_path: Path) -> None:
    import html5lib

    text = render(REPORTS[name](tmp_path / "artifacts"), tmp_path)
    html5lib.HTMLParser(strict=True).parse(text)  # raises for the first thing that is wrong
    page = soup(text)
    assert page.find_all(["script", "iframe", "object", "embed", "form"]) == []
    for element in page.find_all(True):
        for attribute, value in element.attrs.items():
            assert not attribute.startswith("on"), element
            if attribute in ("src", "href", "xlink:href", "action", "srcset", "poster"):
                assert re.match(r"#|\./|\.\./|data:image/svg\+xml,", str(value)), element
    assert "@import" not in text
    assert [part for part in re.findall(r"url\(([^)]*)\)", text) if part[0] != "#"] == []
    policy = page.find("meta", attrs={"http-equiv": "Content-Security-Policy"})
    assert policy is not None
    assert str(policy["content"]).startswith("default-src 'none'")


@pytest.mark.parametrize("name", REPORTS)
def test_everything_has_a_name_and_every_link_a_goal(name: str, tmp_path: Path) -> None:
    page = parsed(REPORTS[name](tmp_path / "artifacts"), tmp_path)
    ids = [str(element["id"]) for element in page.find_all(id=True)]
    assert sorted(ids) == sorted(set(ids))
    for link in page.find_all(["a", "use"], href=re.compile("^#")):
        assert unquote(str(link["href"]))[1:] in ids
    for element in page.find_all(attrs={"aria-labelledby": True}):
        assert set(str(element["aria-labelledby"]).split()) <= set(ids)
    regions = ["header", "nav", "main", "footer"]
    assert [one.name for one in page.find_all(regions)] == regions
    levels = [int(one.name[1]) for one in page.find_all(re.compile("^h[1-6]$"))]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for table in page.find_all("table"):
        assert words(table.caption)
    for drawing in page.find_all("svg"):
        named = drawing.get("role") == "img" and drawing.find("title") is not None
        assert named or drawing.get("aria-hidden") == "true"


def test_a_green_run_at_a_glance(tmp_path: Path) -> None:
    page = parsed(green(1), tmp_path)
    assert words(page.h1) == "3 of 4 tests passed, 1 skipped"
    assert page.title is not None
    assert page.title.get_text() == "Green: 3 of 4 tests passed, 1 skipped | nomad_testkit"
    tiles = [words(tile) for tile in page.select(".tiles li")]
    assert tiles == [
        "3 of 4 tests passed, 1 skipped",
        "7 of 7 checks as wanted",
        "1 cluster of 9 hosts",
        "15.4 s until it was ready",
        "1 fault made and undone",
        "1.6.1 Nomad, with Consul 1.14.0",
    ]
    facts = [words(fact) for fact in page.select("dl.facts div")]
    assert {"Target embedded", "Region us-east-1", "Image ami-0123456789abcdef0", "Hosts 9"} <= set(facts)
    legend = [words(item) for item in page.select(".legend li")]
    assert legend[:4] == [
        "hosts up after 7.2 s",
        "Consul leader after 9.8 s (+2.6 s)",
        "Nomad leader after 11.1 s (+1.3 s)",
        "clients ready after 15.4 s (+4.3 s)",
    ]
    lines = [words(row) for row in page.select("table.lines th[scope=row]")]
    assert lines[:4] == ["servers-0 us-east-1a", "servers-1 us-east-1b", "servers-2 us-east-1c", "clients-0 us-east-1a"]
    zones = [str(zone["aria-labelledby"]) for zone in page.select(".zone svg")]
    assert len(zones) == 3
    described = words(page.select(".zone svg desc")[0])
    assert (
        f"servers-0 ({instance(1)}, Consul and Nomad server), Consul leader, Nomad leader: 0 allocations." in described
    )
    assert len(page.select(".zone rect.alloc")) == 14
    (row,) = page.select("details.test tbody tr:has(th.check:-soup-contains('NodesReady'))")
    cells = ["6 nodes ready and eligible", "6 ready", "every host asked", "2.6 s 9 tries"]
    assert [words(cell) for cell in row.find_all("td")] == cells
    (leader,) = page.select("details.test tbody tr:has(th.check:-soup-contains('Leader')):has(a)")[:1]
    assert words(leader.find_all("td")[2]) == "servers-0"
    healing = [words(one) for one in page.select("article ol li")]
    assert healing[0].startswith("6.0 s after it had begun: a consul leader instead of")
    assert healing[1].startswith("3.2 s after it had been undone: 3 Raft peers")
    assert len(healing) == 2  # the workload was there all along


def test_a_red_run_says_what_where_and_links_the_evidence(tmp_path: Path) -> None:
    page = parsed(red(tmp_path / "artifacts"), tmp_path / "pages" / "deep")
    assert words(page.h1) == "2 of 2 tests failed"
    failed = words(page.select("section[aria-labelledby=failures]")[0])
    errors = ("SyntaxError", "CheckFailed", "BrokenError")
    for expected in (HOSTILE, "unit consul failed", *errors, "1 min 00 s 240 tries"):
        assert expected in failed
    links = [str(link["href"]) for link in page.select("section[aria-labelledby=failures] a") if link["href"][0] != "#"]
    evidence = "../../artifacts/nt-20260921-00000a/test_it/"
    assert links == [
        "../../artifacts/nt-20260921-00000b/",
        evidence,
        f"{evidence}javascript%3Aalert%281%29",
        f"{evidence}servers-i-1/nomad%20journal.log",
    ]
    beside = parsed(red(tmp_path / "again"), tmp_path / "again" / "nt-20260921-00000a" / "test_it")
    assert "./javascript%3Aalert%281%29" in [link["href"] for link in beside.find_all("a")]
    assert "Could not be undone: thaw:" in words(page)


def test_a_check_that_a_test_wants_to_fail_is_not_red(tmp_path: Path) -> None:
    wanted = check("nt-1", "AllocationsRunning", "1 running", "0 running", held=False)
    page = parsed(collector(phases("a::b", [wanted])).report(outcome="passed"), tmp_path)
    assert [words(tile) for tile in page.select(".tiles li")][1] == "1 of 1 checks as wanted"
    (name,) = page.select("th.check")
    assert words(name) == "AllocationsRunning failed, as wanted"
    assert "no" not in name["class"]


def test_hostile_names_are_text(tmp_path: Path) -> None:
    page = parsed(red(tmp_path / "artifacts"), tmp_path)
    assert page.find_all("script") == []
    assert words(page).count(HOSTILE) >= 12
    assert "<script" not in str(page).replace("&lt;script", "")


@pytest.mark.parametrize(
    ("report", "style", "sentence"),
    [
        (RunReport("passed", 0, 1), "amber", "No test ran"),
        (RunReport("nothing", 0, 1), "amber", "No test ran"),
        (RunReport("failed", 0, 1, problems=("a", "b")), "red", "2 problems"),
        *(
            (report, "amber", "Interrupted before the first test ended")
            for report in (
                RunReport("interrupted", 0, 1),
                collector(phases("a::b", [])[:2]).report(outcome="interrupted"),
            )
        ),
        (collector(phases("a::b", [])).report(outcome="passed"), "green", "The test passed"),
        (collector(phases("a::b", []), phases("a::c", [])).report(outcome="passed"), "green", "All 2 tests passed"),
        (collector(phases("a::b", [], outcome="failed")).report(outcome="failed"), "red", "The test failed"),
    ],
)
def test_the_verdict(report: RunReport, style: str, sentence: str) -> None:
    found = verdict(report)
    assert (found.style, found.sentence) == (style, sentence)


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        ("setup failed, teardown passed", "error"),
        ("setup passed, call failed, teardown failed", "failed"),
        ("setup passed, call passed, teardown failed", "error"),
        ("setup passed, call skipped xfail, teardown passed", "xfailed"),
        ("setup passed, call passed xfail, teardown passed", "xpassed"),
        ("setup skipped, teardown passed", "skipped"),
        ("setup passed, call passed", "unfinished"),
        ("setup passed, ??? failed", "failed"),
    ],
)
def test_the_outcome_of_a_test(given: str, outcome: str) -> None:
    told = [phase.split() for phase in given.split(", ")]
    made = collector([PhaseFacts("a::b", phase, result, xfail=bool(xfail)) for phase, result, *xfail in told])
    assert made.report(outcome="passed").tests[0].outcome == outcome


def test_events_are_the_same_after_a_journey_as_json() -> None:
    events: list[Event] = [
        check("nt-1", "Leader", "a leader", "none", held=False),
        FaultEvent("nt-1", "kill", 1.0, 2.0, 0.5, ("left",)),
        ClusterEvent("nt-1", "destroyed", {"seconds": 2.0}, 9.0),
    ]
    assert [as_event(as_facts(event)) for event in events] == events


def test_what_healed_a_fault() -> None:
    def held(name: str, began: float, seconds: float) -> CheckEvent:
        return check("nt-1", name, name, "", began=began, seconds=seconds)

    first, second = FaultEvent("nt-1", "first", 10, 20, 2), FaultEvent("nt-1", "second", 30, 40, 1)
    checks = [
        held("before", 5, 40),
        held("during", 11, 4),
        held("undoing", 21, 1),
        held("after", 22, 3),
        check("nt-1", "never", "", "", began=23, seconds=3, held=False),
        held("second", 30, 5),
        held("later", 50, 2),
    ]
    killed = FaultEvent("nt-1", "kill nomad on i-1", 10, 20, 2)
    (nomad,) = healed([killed], [held("Leader consul", 11, 4), held("x", 12, 1)])
    assert [healing.check for healing in nomad.healed] == ["x"]
    found = [[(one.check, one.seconds, one.since) for one in each.healed] for each in healed([second, first], checks)]
    assert found == [
        [("during", 5.0, "begun"), ("after", 3.0, "undone")],
        [("second", 5.0, "begun"), ("later", 11.0, "undone")],
    ]


def test_lines_stay_within_their_width() -> None:
    (cluster,) = green(1).clusters
    drawn = timeline(cluster)
    assert drawn is not None
    for line in (drawn.phases, *(host.segments for host in drawn.hosts)):
        assert all(one.left >= 0 and one.left + one.width <= 100.01 for one in line)
    names = ["pending", "booting", "user data", "Consul joined", "Nomad ready"]
    assert [one.name for one in drawn.hosts[0].segments] == names
    assert [tick.seconds for tick in ticks(0.4)] == [0, 0.1, 0.2, 0.3, 0.4]
    assert ticks(0) == ()
    instant = fault_line(FaultRecord("nt-1", "stop", 0, 0, 0))
    assert (instant.there.width, instant.undoing.width, instant.marks) == (0, 0, ())
    long = fault_line(FaultRecord("nt-1", "stop", 0, 2, 2, (), (Healing("a", "", 4, "undone"),)))
    assert (long.there.width, long.undoing.left, long.marks[0].left) == (25, 25, 100)


def test_a_topology_without_answers_says_so() -> None:
    events = cluster_events("nt-1", at=BEGAN, servers=1, clients=1)
    silent = [host | {"leads": [], "consul": "failed", "nomad": "down"} for host in hosts(1, 1)]
    problem = "Nomad's leader: no answer within 5 s"
    events[3] = ClusterEvent("nt-1", "state", state(silent, BEGAN, 0) | {"problems": [problem]}, BEGAN)
    report = collector(phases("a::b", events, run_id="nt-1")).report(outcome="passed")
    drawn = topology(report.clusters[0])
    assert drawn is not None
    assert drawn.problems == (problem,)
    badges = {badge.text for zone in drawn.zones for host in zone.hosts for badge in host.badges}
    assert badges == {"Consul: failed", "Nomad: down"}
    assert "nobody leads Consul, as servers-0 did at first" in words(parsed(report, Path("/")))


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = prepare(tmp_path / "new" / "folder" / "report.html")
    assert list(path.parent.iterdir()) == []
    write(without_cluster(), path)
    first = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    write(green(1), path)
    assert path.read_text() != first
    assert list(path.parent.iterdir()) == [path]
    path.unlink()
    path.mkdir()
    with pytest.raises(TestkitError, match=rf"the report cannot be written to {path}: Is a directory"):
        write(green(1), path)
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(SettingsError, match=r"nothing can be written into /proc/none: .*; expected a file in a folder"):
        prepare(Path("/proc/none/report.html"))


def test_a_cluster_of_which_only_the_end_is_known_was_never_deployed(tmp_path: Path) -> None:
    ended: list[Event] = [ClusterEvent("nt-1", "destroyed", {"seconds": 1.0}, BEGAN)]
    page = parsed(collector(phases("a::b", ended)).report(outcome="failed"), tmp_path)
    assert [words(pill) for pill in page.select(".pill")] == ["was never deployed", "destroyed in 1.0 s"]
