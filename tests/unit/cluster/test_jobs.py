"""Jobs: where their text comes from, what makes them a test's own, and that they are always stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nomad_testkit.cluster.job_files import JobSource, read_source, variables_text
from nomad_testkit.cluster.jobs import Job, prepare, specialize, submitted
from nomad_testkit.errors import AgentApiError, UsageError, WaitTimeout
from nomad_testkit.modules.bundle import fixtures_dir

SPEC: dict[str, Any] = {
    "ID": "web",
    "Name": "web",
    "Datacenters": ["*"],
    "TaskGroups": [
        {
            "Name": "front",
            "Count": 2,
            "Services": [{"Name": "${JOB}"}],
            "Tasks": [{"Name": "server", "Services": [{"Name": "${BASE}-metrics"}]}],
        },
        {"Name": "back", "Count": 1, "Services": None, "Tasks": [{"Name": "queue", "Services": None}]},
    ],
}
NODES = [
    {"Datacenter": "us-east-1b", "Status": "ready"},
    {"Datacenter": "us-east-1a", "Status": "ready"},
    {"Datacenter": "us-east-1c", "Status": "down"},
]


class FakeNomad:
    """Answers as NomadClient does, from memory."""

    address = "http://127.31.16.5:4646"

    def __init__(self, spec: Mapping[str, Any] = SPEC) -> None:
        self.spec = dict(spec)
        self.calls: list[str] = []
        self.variables = ""
        self.statuses: list[str] = ["complete"]
        self.errors: dict[str, list[AgentApiError]] = {}
        self.children: list[list[str]] = [[]]
        """The ids of its children that live, at each time that they are asked for."""

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.errors.get(name):
            raise self.errors[name].pop(0)

    def parse(self, hcl: str, *, variables: str = "") -> dict[str, Any]:
        self._call("parse")
        self.variables = variables
        return self.spec

    def nodes(self, *, stale: bool = False) -> list[dict[str, Any]]:
        return NODES

    def register(self, job: Mapping[str, Any]) -> dict[str, Any]:
        self._call("register")
        return {}

    def get(self, path: str, **params: str) -> list[dict[str, Any]]:
        children = self.children.pop(0) if len(self.children) > 1 else self.children[0]
        other = {"ID": f"{params['prefix']}not-a-child", "ParentID": "", "Stop": False}
        return [other, *({"ID": one, "ParentID": self.spec["ID"], "Stop": False} for one in children)]

    def deregister(self, job_id: str, *, purge: bool = False) -> dict[str, Any]:
        self._call(f"deregister purge={purge}" if "/" not in job_id else f"deregister {job_id} purge={purge}")
        return {}

    def job_allocations(self, job_id: str, *, stale: bool = False) -> list[dict[str, Any]]:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return [{"ID": "a1", "Name": "web.front[0]", "NodeName": "i-1", "ClientStatus": status, "TaskGroup": "front"}]

    def logs(self, alloc_id: str, task: str, *, stream: str = "stdout") -> str:
        return f"{alloc_id} {task} {stream}\n"


def refused(status: int | None) -> AgentApiError:
    return AgentApiError("nomad", "http://x", status, "no")


# -- where it comes from


def test_a_users_own_file_comes_before_a_bundled_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = read_source("batch.nomad.hcl")
    assert Path(found.label) == fixtures_dir() / "jobs" / "batch.nomad.hcl"
    assert 'job "batch"' in found.text
    Path("batch.nomad.hcl").write_text("mine", encoding="utf-8")
    assert read_source("batch.nomad.hcl") == JobSource("batch.nomad.hcl", "mine", Path())
    with pytest.raises(UsageError, match=r"no job file none\.hcl: expected a file at .*none\.hcl or .*fixtures.*none"):
        read_source("none.hcl")


def test_variables_are_written_as_hcl() -> None:
    assert variables_text({"a": 1, "b": True, "c": ["x", {"k": None}]}) == 'a = 1\nb = true\nc = ["x", {"k": null}]\n'
    assert variables_text({"t": "%{if} ${x}"}) == 't = "%%{if} $${x}"\n'
    with pytest.raises(UsageError, match="job variable when is a object; HCL takes strings"):
        variables_text({"when": object()})


# -- what it becomes


def test_a_job_gets_a_name_count_and_datacenters_of_its_own() -> None:
    job = specialize(SPEC, name=None, count=6, datacenters=["a"], suffix="f00")
    assert (job["ID"], job["Name"], job["Datacenters"]) == ("web-f00", "web-f00", ["a"])
    assert [group["Count"] for group in job["TaskGroups"]] == [6, 6]
    assert SPEC["TaskGroups"][0]["Count"] == 2


def test_a_job_without_datacenters_gets_those_of_the_ready_clients_and_its_own_stay() -> None:
    nomad: Any = FakeNomad()
    assert prepare(nomad, "job {}")["Datacenters"] == ["us-east-1a", "us-east-1b"]
    nomad.spec["Datacenters"] = ["dc1"]
    assert prepare(nomad, "job {}")["Datacenters"] == ["dc1"]
    assert prepare(nomad, "job {}", datacenters=["dc2"])["Datacenters"] == ["dc2"]


def test_two_submissions_of_one_file_have_different_names() -> None:
    nomad: Any = FakeNomad()
    first, second = (prepare(nomad, 'variable "message" {}\njob {}', name="mine", message="x") for _ in range(2))
    assert first["ID"] != second["ID"]
    assert first["ID"].startswith("mine-")
    assert nomad.variables == 'message = "x"\n'


def test_a_job_that_nomad_cannot_parse_is_the_users_error_and_another_status_is_not() -> None:
    nomad: Any = FakeNomad()
    nomad.errors["parse"] = [refused(400), refused(500)]
    with pytest.raises(UsageError, match="the given HCL: Nomad cannot parse this job: no"):
        prepare(nomad, "job {")
    with pytest.raises(AgentApiError):
        prepare(nomad, "job {")


def test_a_variable_that_the_job_does_not_declare_is_refused() -> None:
    """Nomad itself would pass over it, and a misspelt name would change nothing."""
    nomad: Any = FakeNomad()
    with pytest.raises(UsageError, match=r"batch\.nomad\.hcl: the job declares message, driver, count, and .* mesage"):
        prepare(nomad, "batch.nomad.hcl", mesage="x")
    with pytest.raises(UsageError, match="declares no variables, and so cannot take x"):
        prepare(nomad, "job {}", x=1)
    assert nomad.calls == []


def test_groups_services_and_logs_of_a_job() -> None:
    nomad: Any = FakeNomad()
    job = Job(nomad, SPEC)
    assert (job.name, job.count, job.groups) == ("web", 3, {"front": 2, "back": 1})
    assert job.services == ("web", "web-front-server-metrics")
    assert job.logs() == {"a1": "a1 server stdout\n"}
    assert job.logs(task="server", stream="stderr") == {"a1": "a1 server stderr\n"}


# -- its end


def test_a_job_is_purged_and_waited_for_at_the_end_of_the_block() -> None:
    nomad: Any = FakeNomad()
    nomad.statuses = ["running", "complete"]
    with submitted(nomad, "job {}") as job:
        assert job.id.startswith("web-")
        assert nomad.calls == ["parse", "register"]
    assert nomad.calls[2:] == ["deregister purge=True"]
    assert nomad.statuses == ["complete"]


@pytest.mark.parametrize("errors", [[], [refused(403)]])
def test_an_error_in_the_block_still_stops_the_job_and_gets_one_of_that_as_a_note(errors: list[AgentApiError]) -> None:
    nomad: Any = FakeNomad()
    nomad.errors["deregister purge=True"] = [*errors]
    with pytest.raises(ZeroDivisionError) as failure, submitted(nomad, "job {}"):
        raise ZeroDivisionError
    assert nomad.calls[-1] == "deregister purge=True"
    notes = getattr(failure.value, "__notes__", [])
    assert len(notes) == len(errors)
    assert all("could not be stopped: nomad at http://x answered 403: no" in note for note in notes)


def test_a_registration_without_an_answer_is_undone_all_the_same() -> None:
    nomad: Any = FakeNomad()
    nomad.errors["register"] = [refused(None)]
    with pytest.raises(AgentApiError), submitted(nomad, "job {}"):
        pytest.fail("the block must not run")
    assert nomad.calls == ["parse", "register", "deregister purge=True"]


@pytest.mark.parametrize(("status", "tries"), [(None, 2), (500, 2), (404, 1)])  # 404: it is gone already
def test_a_server_that_cannot_stop_the_job_now_is_asked_again(status: int | None, tries: int) -> None:
    nomad: Any = FakeNomad()
    nomad.errors["deregister purge=False"] = [refused(status)]
    Job(nomad, SPEC).stop(purge=False)
    assert nomad.calls == ["deregister purge=False"] * tries


@pytest.mark.parametrize("status", ["running", "pending", "unknown"])
def test_a_job_that_does_not_end_is_told_with_what_still_runs(status: str) -> None:
    nomad: Any = FakeNomad()
    nomad.statuses = [status]
    seen = rf"the end of web on http://127\.31\.16\.5:4646; last seen: web\.front\[0\] on i-1 is {status}"
    with pytest.raises(WaitTimeout, match=seen):
        Job(nomad, SPEC).stop(within=0)


@pytest.mark.parametrize("purge", [True, False])
def test_children_are_stopped_after_their_job_those_too_that_it_was_just_starting(purge: bool) -> None:
    nomad: Any = FakeNomad()
    nomad.children = [["web/periodic-1"], ["web/periodic-2"], []]
    Job(nomad, SPEC).stop(purge=purge)
    assert nomad.calls == [
        f"deregister purge={purge}",
        f"deregister web/periodic-1 purge={purge}",
        f"deregister web/periodic-2 purge={purge}",
    ]


def test_allocations_of_a_child_that_was_purged_are_waited_for() -> None:
    """Nomad lists them although it has forgotten the job."""
    nomad: Any = FakeNomad()
    nomad.children = [["web/periodic-1"], []]
    asked: list[str] = []
    running = {"ID": "a2", "Name": "web.front[0]", "NodeID": "n-1", "ClientStatus": "running", "TaskGroup": "front"}

    def job_allocations(job_id: str) -> list[dict[str, Any]]:
        asked.append(job_id)
        return [running] if "/" in job_id and asked.count(job_id) < 3 else []

    nomad.job_allocations = job_allocations
    Job(nomad, SPEC).stop()
    assert asked.count("web/periodic-1") == 3
