"""Reports with made figures, for tests of the page: green, red with hostile names, interrupted, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nomad_testkit.cluster.timeline import PHASES
from nomad_testkit.events import CheckEvent, ClusterEvent, Event, FaultEvent
from nomad_testkit.report.collector import Collector, PhaseFacts, as_facts
from nomad_testkit.report.model import RunReport

BEGAN = 1_790_000_000.0
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
HOSTILE = "<script>alert('x')</script>&\"'"
SECRET = "b1gs33cr3t-0123456789abcdef"


def instance(number: int) -> str:
    return f"i-{number:017x}"


def hosts(servers: int = 3, clients: int = 6, before: int = 0) -> list[dict[str, Any]]:
    """The hosts of a colocated cluster, as a state has them; the first server leads both agents."""
    return [
        {
            "instance_id": instance(before + number),
            "group": "servers" if number <= servers else "clients",
            "zone": ZONES[(number - 1) % 3],
            "private_ip": f"172.31.{16 * ((number - 1) % 3)}.{3 + number}",
            "address": f"127.31.{16 * ((number - 1) % 3)}.{3 + number}",
            "roles": ["Consul server", "Nomad server"] if number <= servers else ["Nomad client"],
            "leads": ["Consul", "Nomad"] if number == 1 else [],
            "consul": "alive",
            "nomad": "alive" if number <= servers else "ready",
        }
        for number in range(1, servers + clients + 1)
    ]


def state(found: list[dict[str, Any]], at: float, allocations: int = 14) -> dict[str, Any]:
    clients = [host for host in found if host["group"] == "clients"]
    statuses = ("running", "running", "complete", "failed", "pending", "lost", "complete")
    return {
        "at": at,
        "hosts": found,
        "allocations": [
            {
                "id": f"{number:08x}-0000",
                "name": f"web-3f9a1c.web[{number}]",
                "node": clients[number % len(clients)]["instance_id"],
                "status": statuses[number % len(statuses)],
            }
            for number in range(allocations if clients else 0)
        ],
        "versions": {"consul": ["1.14.0"], "nomad": ["1.6.1"]},
        "problems": [],
    }


def timeline(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    steps = (0.6, 0.9, 5.5, 9.0, 12.5)
    return [
        {key: host[key] for key in ("instance_id", "group", "zone", "private_ip")}
        | {"entered": {phase: at + 0.23 * n for phase, at in zip(PHASES, steps, strict=True)}}
        for n, host in enumerate(found)
    ]


def cluster_events(run_id: str, *, at: float, servers: int = 3, clients: int = 6, before: int = 0) -> list[Event]:
    """The life of a cluster until it is destroyed; `before` hosts are those of others."""
    found = hosts(servers, clients, before)
    timings = {"hosts up": 7.2, "Consul leader": 9.8, "Nomad leader": 11.1, "clients ready": 15.4}
    ready = {"timings": timings, "timeline": timeline(found), "images": ["ami-0123456789abcdef0"], "security": False}
    where = {"example": "nomad-consul-colocated-cluster", "target": "embedded", "region": "us-east-1"}
    return [
        ClusterEvent(run_id, "deploying", where, at),
        ClusterEvent(run_id, "ready", ready, at + 15.4),
        ClusterEvent(run_id, "state", state(found, at + 15.5, 0), at + 15.5),
        ClusterEvent(run_id, "state", state(found, at + 80), at + 80),
        ClusterEvent(run_id, "destroyed", {"seconds": 2.1}, at + 82),
    ]


def check(run_id: str, name: str, wanted: str, seen: str, **more: Any) -> CheckEvent:
    how = {"held": True, "began": BEGAN + 20, "seconds": 0.4, "tries": 1} | more
    return CheckEvent(run_id, name, wanted, seen, **how)


def phases(nodeid: str, events: list[Event], **more: Any) -> list[PhaseFacts]:
    """A test of three phases, whose events come in the second."""
    call: dict[str, Any] = {"outcome": "passed", "seconds": 3.2, "events": [as_facts(event) for event in events]} | more
    return [
        PhaseFacts(nodeid, "setup", "passed", began=BEGAN, seconds=0.1),
        PhaseFacts(nodeid, "call", **call),
        PhaseFacts(nodeid, "teardown", "passed", seconds=0.1),
    ]


def collector(*groups: list[PhaseFacts]) -> Collector:
    made = Collector(began=BEGAN)
    for group in groups:
        for facts in group:
            made.add_phase(facts)
    return made


def formed(run_id: str) -> list[Event]:
    """What the first test of a cluster checks."""
    return [
        check(run_id, "RaftPeers consul", "3 Raft peers of consul, the same on every server", "3 peers on 3 servers"),
        check(run_id, "RaftPeers nomad", "3 Raft peers of nomad, the same on every server", "3 peers on 3 servers"),
        check(run_id, "Leader", "one leader that every server agrees on", f"consul and nomad: {instance(1)}"),
        check(run_id, "NodesReady", "6 nodes ready and eligible", "6 ready", seconds=2.6, tries=9),
    ]


def healing(run_id: str) -> list[Event]:
    """A fault, what healed meanwhile, and what healed after it."""
    began = BEGAN + 40
    led = f"a consul leader instead of {instance(1)}, the same on every server that is left"
    return [
        FaultEvent(run_id, f"kill consul on {instance(1)}", began, began + 9.5, 1.8),
        check(run_id, "LeaderReelected consul", led, f"consul leader is {instance(2)}", began=began + 0.1, seconds=5.9),
        check(run_id, "RaftPeers consul", "3 Raft peers", "3 peers", began=began + 11.4, seconds=3.1, tries=12),
        check(run_id, "Workload", "no acknowledged write lost", "412 writes", began=began - 3, seconds=21.0),
    ]


def green(clusters: int = 1) -> RunReport:
    """Everything passed, on one cluster or several; one test was skipped."""
    made = collector()
    for number in range(1, clusters + 1):
        run_id = f"nt-20260921-{number:06x}"
        sizes = {"servers": 3, "clients": 6} if number == 1 else {"servers": 1, "clients": 2, "before": 10 * number}
        made.add_events([as_facts(event) for event in cluster_events(run_id, at=BEGAN + 3, **sizes)], in_setup=True)
        suite = f"nomad_testkit/suite/test_cluster.py::test_it_forms[{number}]"
        for facts in phases(suite, formed(run_id), run_id=run_id):
            made.add_phase(facts)
        name = f"nomad_testkit/suite/test_faults.py::test_killed_leaders_are_replaced[{number}]"
        properties = [("consul_election_seconds", "5.9")]
        for facts in phases(name, healing(run_id), run_id=run_id, properties=properties, seconds=21.0):
            made.add_phase(facts)
    skipped = "tests/test_more.py::test_skipped"
    made.add_phase(PhaseFacts(skipped, "setup", "skipped", headline="needs a second region"))
    made.add_phase(PhaseFacts(skipped, "teardown", "passed"))
    for facts in phases("tests/test_more.py::test_without_a_cluster", []):
        made.add_phase(facts)
    settings = ["clients=6 (option --nomad-clients)", "target=embedded, region=us-east-1 (default)"]
    return made.report(
        ended=BEGAN + 95, outcome="passed", settings=settings, software={"nomad_testkit": "0.1.0", "pytest": "9.2.0"}
    )


def red(artifacts: Path) -> RunReport:
    """A check failed in a test with hostile names, a deployment failed, a file could not be collected."""
    run_id, lost = "nt-20260921-00000a", "nt-20260921-00000b"
    folder = artifacts / run_id / "test_it"
    (folder / "servers-i-1").mkdir(parents=True)
    (folder / "servers-i-1" / "nomad journal.log").write_text("x")
    (folder / "javascript:alert(1)").write_text("x")
    (artifacts / lost).mkdir()
    events: list[Event] = [
        *cluster_events(run_id, at=BEGAN + 3, servers=1, clients=1),
        check(run_id, HOSTILE, HOSTILE, f"{HOSTILE} on {instance(1)}", held=False, seconds=60.0, tries=240),
        check(run_id, "Leader", "one leader", "one leader"),
        FaultEvent(run_id, f"freeze nomad on {instance(2)}", BEGAN + 30, BEGAN + 33, 2.0, (f"thaw: {HOSTILE}",)),
    ]
    made = collector(
        phases(
            f"tests/test_{HOSTILE}.py::test_it[{HOSTILE}]",
            events,
            outcome="failed",
            run_id=run_id,
            headline=f"CheckFailed: {HOSTILE}\nwanted: x",
            message=f"def test_it():\n> assert {HOSTILE!r}",
            evidence=f"wanted {HOSTILE}",
            artifacts=str(folder),
            worker="gw1",
            properties=[(HOSTILE, HOSTILE)],
        ),
        [
            PhaseFacts(
                "tests/test_b.py::test_broken",
                "setup",
                "failed",
                headline="BrokenError: host i-1: unit consul failed",
                message="BrokenError",
                events=[
                    as_facts(
                        ClusterEvent(lost, "deploying", {"example": HOSTILE, "target": "t", "region": "r"}, BEGAN)
                    ),
                    as_facts(ClusterEvent(lost, "failed", {"error": f"unit consul failed: {HOSTILE}"}, BEGAN + 9)),
                ],
            )
        ],
    )
    made.add_problem(f"tests/test_c.py: SyntaxError {HOSTILE}")
    return made.report(
        ended=BEGAN + 95, outcome="failed", artifacts=artifacts, settings=[f"var x={HOSTILE} (option --nomad-var)"]
    )


def interrupted() -> RunReport:
    """Ctrl-C while the cluster was being deployed."""
    made = collector()
    where = {"example": "nomad-consul-separate-cluster", "target": "embedded", "region": "us-east-1"}
    made.add_events([as_facts(ClusterEvent("nt-20260921-00000c", "deploying", where, BEGAN))])
    made.add_problem("KeyboardInterrupt")
    return made.report(ended=BEGAN + 95, outcome="interrupted")


def without_cluster() -> RunReport:
    """Tests that have nothing to do with clusters."""
    return collector(phases("tests/test_a.py::test_a", [])).report(ended=BEGAN + 4, outcome="passed")
