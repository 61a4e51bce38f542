"""What a failing test's report shows: the verdict, the relevant lines of the relevant host, what the scheduler did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nomad_testkit.deployment.evidence import evidence_note
from nomad_testkit.errors import CheckFailed, TestkitError, WaitTimeout
from nomad_testkit.report.failure_section import LINES_A_HOST, LINES_A_JOB, EvidenceHost, Window, section

NOON = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC).timestamp()
DURING = Window(NOON, NOON + 60)
VERDICT = """1 of 1 checks failed after 5.1 s and 20 tries:
- NodesReady(2)
    wanted: 2 Nomad clients ready, eligible and of one version, asked on every server
    seen:   1 nodes are ready, asked on i-1 (127.31.0.4): missing on i-2 (127.31.0.5)"""


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(NOON + seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "+0000")


def line(seconds: float, text: str, by: str = "nomad[300]") -> str:
    return f"{stamp(seconds)} ip-172-31-0-4 {by}:     2026-11-25T12:00:00.000Z {text}"


class Evidence:
    """A folder as `diagnostics.collect` leaves it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: list[dict[str, str]] = []

    def host(self, number: int, group: str, nomad: Sequence[str] = (), consul: Sequence[str] = ()) -> Path:
        """Add a host with the journals of its agents."""
        place = self.folder / f"{group}-i-{number}"
        place.mkdir()
        (place / "nomad-journal.log").write_text("\n".join(nomad))
        (place / "consul-journal.log").write_text("\n".join(consul))
        address = f"31.0.{number + 3}"
        facts = {"private_ip": f"172.{address}", "address": f"127.{address}", "folder": place.name}
        self.hosts.append({"instance_id": f"i-{number}", "group": group, **facts})
        (self.folder / "hosts.json").write_text(json.dumps(self.hosts))
        return place

    def section(self, error: BaseException) -> str:
        return section(self.folder, error, DURING)


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return Evidence(tmp_path)


def test_the_verdict_stands_first_and_where_the_evidence_is_last(evidence: Evidence) -> None:
    lines = evidence.section(CheckFailed(VERDICT)).splitlines()
    assert lines[:4] == [
        "verdict: 1 of 1 checks failed after 5.1 s and 20 tries:",
        "    - NodesReady(2)",
        "        wanted: 2 Nomad clients ready, eligible and of one version, asked on every server",
        "        seen:   1 nodes are ready, asked on i-1 (127.31.0.4): missing on i-2 (127.31.0.5)",
    ]
    assert lines[-1] == f"evidence: {evidence.folder}"


def test_only_the_hosts_that_it_names_and_only_what_they_complained_of_meanwhile(evidence: Evidence) -> None:
    evidence.host(1, "servers", [line(5, "[INFO]  nomad: all is well"), line(-1, "[ERROR] nomad: long ago")])
    evidence.host(
        2,
        "clients",
        nomad=[
            line(1, "[WARN]  client: heartbeat missed"),
            line(2, "[WARN]  client: heartbeat missed"),
            f"{stamp(3)} ip-172-31-0-5 systemd[1]: nomad.service: Main process exited, code=killed, status=9/KILL",
            f"{stamp(3)} ip-172-31-0-5 systemd[1]: nomad.service: Consumed 2.3s CPU time.",
            "-- Boot 0123 --",
        ],
        consul=[line(1.5, "[ERROR] agent: no leader", by="consul[200]")],
    )
    evidence.host(3, "clients", [line(4, "[ERROR] client: nobody asked")])
    text = evidence.section(CheckFailed(VERDICT))
    assert "servers-0 (i-1, 127.31.0.4): its agents logged no warnings or errors while the test ran" in text
    assert text.partition("clients-0 (i-2, 127.31.0.5): ")[2].splitlines()[:4] == [
        "warnings and errors of its agents while the test ran:",
        "    12:00:01.500 consul: [ERROR] agent: no leader",
        "    12:00:02.000 nomad: [WARN]  client: heartbeat missed (2 times)",
        "    12:00:03.000 nomad: nomad.service: Main process exited, code=killed, status=9/KILL",
    ]
    assert "nobody asked" not in text
    assert "long ago" not in text
    assert "Consumed" not in text


def test_where_it_names_no_host_those_that_complain_most(evidence: Evidence) -> None:
    evidence.host(1, "servers", [line(1, "[INFO]  nomad: all is well")])
    for number in (2, 3, 4, 5):
        evidence.host(number, "clients", [line(n, f"[WARN]  client: {n}") for n in range(number)])
    text = evidence.section(AssertionError("assert 1 == 2\n  and more"))
    assert text.startswith("verdict: AssertionError: assert 1 == 2\n\n")
    assert [one for one in ("i-5", "i-4", "i-3", "i-2", "i-1") if f"({one}, " in text] == ["i-5", "i-4", "i-3"]
    assert text.index("(i-5, ") < text.index("(i-4, ")


def test_a_quiet_cluster_says_so(evidence: Evidence) -> None:
    evidence.host(1, "servers", [line(1, "[INFO]  nomad: all is well")])
    assert "no host's agents logged a warning or an error while the test ran" in evidence.section(ValueError("x"))


def test_a_plain_assert_lists_no_host_that_logged_nothing(evidence: Evidence) -> None:
    evidence.host(1, "servers", [line(1, "[INFO]  nomad: all is well")])
    evidence.host(2, "clients", [line(1, "[WARN]  client: heartbeat missed")])
    text = evidence.section(AssertionError("assert ['i-1', 'i-2'] == []"))
    assert "servers-0" not in text
    assert "clients-0 (i-2, 127.31.0.5): warnings and errors" in text


def test_why_a_unit_ended_is_kept(evidence: Evidence) -> None:
    ended = line(1, "nomad.service: Main process exited, code=killed, status=9/KILL", by="systemd")
    evidence.host(1, "clients", [ended, *(line(n, f"[WARN]  nomad: {n}") for n in range(2, 40))])
    shown = evidence.section(TestkitError("i-1 is slow")).splitlines()
    (begin,) = [n for n, text in enumerate(shown) if text.endswith(f"while the test ran, {LINES_A_HOST} of 39:")]
    assert shown[begin + 1].endswith(" nomad: nomad.service: Main process exited, code=killed, status=9/KILL")
    assert [text.rpartition(" ")[2] for text in shown[begin + 2 : begin + 13]] == [str(n) for n in range(29, 40)]


def test_what_is_said_of_each_allocation_stands_once(evidence: Evidence) -> None:
    ids = [f"{n:08x}-3717-8820-403f-065d6da0a476/serve/{n:08x}" for n in range(20)]
    lost = [line(2 + n / 10, f"[ERROR] client.driver_mgr: cannot reattach: task_id={id}") for n, id in enumerate(ids)]
    evidence.host(1, "clients", [line(1, "[ERROR] nomad: it ends"), *lost])
    text = evidence.section(TestkitError("i-1 is slow"))
    assert "[ERROR] nomad: it ends" in text
    assert f"cannot reattach: task_id={ids[-1]} (20 times)" in text


def test_much_is_cut_and_says_how_much(evidence: Evidence) -> None:
    evidence.host(1, "servers", [line(n / 10, f"[WARN]  nomad: {n} " + "x" * 500) for n in range(40)])
    for number in (2, 3, 4):
        evidence.host(number, "servers")
    text = evidence.section(WaitTimeout("no leader on i-4, i-3, i-2, i-1\n" + "more\n" * 50))
    assert "the verdict names 4 hosts; the first 3 of them:" in text
    assert "i-1 in" not in text
    assert "(21 more lines)" in text
    text = evidence.section(TestkitError("i-1 is slow"))
    assert f"while the test ran, {LINES_A_HOST} of 40:" in text
    assert "nomad: 39 xxx" in text
    assert "nomad: 27 xxx" not in text
    assert max(map(len, text.splitlines())) < 300


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("missing on i-2", True),
        ("i-2 (127.31.0.5): refused", True),
        ("http://127.31.0.5:4646 did not answer", True),
        ("peer 172.31.0.5:8300", True),
        ("i-21 and 127.31.0.51 and 172.31.0.5.7 and vi-2", False),
        ("all is well", False),
    ],
)
def test_a_host_is_named_by_its_id_or_an_address(text: str, named: bool) -> None:
    place = EvidenceHost("i-2", "clients", "172.31.0.5", "127.31.0.5", "clients-i-2")
    assert (place.named_in(text) is not None) == named


def ns(seconds: float) -> int:
    return int((NOON + seconds) * 1e9)


def evaluation(job: str, at: float, **facts: Any) -> dict[str, Any]:
    return {"ID": f"{job}-evaluation", "JobID": job, "TriggeredBy": "job-register", "CreateTime": ns(at), **facts}


def allocation(job: str, number: int, status: str, *events: tuple[float, str, str]) -> dict[str, Any]:
    told = [{"Time": ns(at), "Type": kind, "DisplayMessage": message} for at, kind, message in events]
    return {
        "Name": f"{job}.web[{number}]",
        "JobID": job,
        "NodeName": "i-2",
        "ClientStatus": status,
        "ModifyTime": ns(50),
        "TaskStates": {"server": {"Failed": status == "failed", "Events": told}},
    }


COUNTS = {"NodesEvaluated": 2, "NodesFiltered": 0, "NodesExhausted": 2}
METRICS = {**COUNTS, "NodesAvailable": {"us-east-1a": 2}, "DimensionExhausted": {"memory": 2}}


def answers(place: Path, evaluations: list[Any] | str, allocations: list[Any], **others: list[Any]) -> None:
    told = {"evaluations": evaluations, "allocations": allocations, **others}
    (place / "nomad-api.json").write_text(json.dumps(told))


def test_a_job_for_another_datacenter_is_told_from_clients_that_are_not_ready(evidence: Evidence) -> None:
    nowhere = {**METRICS, "NodesAvailable": {"dc9": 0}, "DimensionExhausted": None, "NodesExhausted": 0}
    answers(
        evidence.host(1, "servers"),
        [evaluation("web-1", 1, Status="complete", StatusDescription="", FailedTGAllocs={"web": nowhere})],
        [],
        jobs=[{"ID": "web-1", "Datacenters": ["dc9"]}],
        nodes=[{"Datacenter": "us-east-1a", "Status": "ready", "SchedulingEligibility": "eligible", "Drain": False}],
    )
    text = evidence.section(AssertionError("x"))
    assert "not placed: group 'web': no nodes in datacenters [dc9]; the ready clients are in [us-east-1a]" in text


def test_the_events_of_the_job_at_hand(evidence: Evidence) -> None:
    answers(evidence.host(1, "servers"), "(HTTP 500: no leader)", [])
    answers(
        evidence.host(2, "servers"),
        [
            evaluation("web-1", 1, Status="complete", StatusDescription="", FailedTGAllocs={"web": METRICS}),
            evaluation("old-1", -100, Status="complete"),
            evaluation("", 1, Status="complete", Type="_core"),
        ],
        [
            allocation("web-1", 0, "running", (2, "Received", "received"), (3, "Started", "started")),
            allocation("web-1", 1, "failed", (2, "Received", "received"), (4, "Terminated", "Exit Code: 1")),
        ],
    )
    text = evidence.section(AssertionError("x"))
    assert text.partition("job web-1:\n")[2].partition("\n\n")[0].splitlines() == [
        "    12:00:01.000 evaluation web-1-ev (job-register) is complete",
        "    12:00:01.000   not placed: group 'web': dimension 'memory' exhausted on 2 nodes",
        "    12:00:02.000 allocation web-1.web[1] on i-2, server: Received: received",
        "    12:00:03.000 allocation web-1.web[0] on i-2, server: Started: started",
        "    12:00:04.000 allocation web-1.web[1] on i-2, server: Terminated: Exit Code: 1",
        "    12:00:50.000 allocation web-1.web[0] on i-2 is running",
        "    12:00:50.000 allocation web-1.web[1] on i-2 is failed",
    ]
    assert "old-1" not in text


def test_a_job_that_the_verdict_names_whenever_it_was_submitted(evidence: Evidence) -> None:
    jobs = [evaluation("web-1", -100, Status="complete"), evaluation("other-1", 5, Status="complete")]
    answers(evidence.host(1, "servers"), jobs, [])
    text = evidence.section(CheckFailed("AllocationsRunning(<Job web-1>)"))
    assert "job web-1:" in text
    assert "job other-1:" not in text


def test_many_events_and_jobs_are_cut(evidence: Evidence) -> None:
    events = [(float(n), "Restarting", str(n)) for n in range(50)]
    evaluations = [evaluation(f"web-{n}", 1, Status="complete") for n in range(5)]
    answers(evidence.host(1, "servers"), evaluations, [allocation("web-0", 0, "pending", *events)])
    text = evidence.section(AssertionError("x"))
    assert f"    ({52 - LINES_A_JOB} earlier)" in text
    assert "(2 more jobs: web-3, web-4)" in text


def test_secrets_of_the_verdict_are_hidden_and_evidence_is_named_once(evidence: Evidence) -> None:
    error = CheckFailed('the agent has token = "b1gs33cr3t"')
    error.add_note(evidence_note("nt-1", evidence.folder))
    error.add_note("then the teardown failed: left: i-1")
    text = evidence.section(error)
    assert "b1gs33cr3t" not in text
    assert text.count(str(evidence.folder)) == 1
    assert "    then the teardown failed: left: i-1" in text


@pytest.mark.parametrize("damage", ["[{", "{}", '[{"a": 1}]'])
def test_damaged_evidence_hides_nothing(evidence: Evidence, damage: str) -> None:
    (evidence.folder / "hosts.json").write_text(damage)
    (evidence.folder / "incomplete.txt").write_text("every host: gone\n")
    text = evidence.section(CheckFailed(VERDICT))
    assert text.startswith("verdict: 1 of 1 checks failed")
    assert text.endswith(f"evidence: {evidence.folder}\nnot all of it could be had, see incomplete.txt there")


def test_without_any_evidence_there_is_the_verdict(tmp_path: Path) -> None:
    folder = tmp_path / "nowhere"
    assert section(folder, TestkitError(""), DURING) == f"verdict: (it says nothing)\n\nevidence: {folder}"
