"""Jobs of a test: submitted from HCL under a name of their own, and gone when the test is over."""

from __future__ import annotations

import copy
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_testkit.cluster.job_files import explain_files, read_source, variables_of, with_files
from nomad_testkit.errors import AgentApiError, UsageError
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    from nomad_testkit.cluster.clients.nomad import NomadClient

Json = dict[str, Any]

STOP_WITHIN = 60.0
_ENDED = ("complete", "failed", "lost")


class Job:
    """One job in Nomad, in the JSON form that was registered.

    >>> with submitted(host.nomad, "web.nomad.hcl", count=6) as job:  # doctest: +SKIP
    ...     job.id
    'web-3f9a1c'
    """

    def __init__(self, nomad: NomadClient, spec: Mapping[str, Any]) -> None:
        self.nomad, self.spec = nomad, dict(spec)
        self.id = str(spec["ID"])
        self._stopped: list[str] = []  # its children, which a purge makes Nomad forget before their allocations end

    @property
    def name(self) -> str:
        """Its name, which `submitted` makes the same as its id; the bundled jobs name their service after it."""
        return str(self.spec["Name"])

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    @property
    def version(self) -> int | None:
        """Which of the job's versions this is, where `spec` is Nomad's own answer, of `NomadClient.job`; else None."""
        return int(self.spec["Version"]) if self.spec.get("JobModifyIndex") else None

    @property
    def groups(self) -> dict[str, int]:
        """The task groups and how many allocations each is to have."""
        return {str(group["Name"]): int(group["Count"]) for group in self.spec["TaskGroups"]}

    @property
    def count(self) -> int:
        """How many allocations the job is to have in all."""
        return sum(self.groups.values())

    @property
    def datacenters(self) -> tuple[str, ...]:
        """The Nomad datacenters that the job may run in."""
        return tuple(self.spec["Datacenters"])

    @property
    def services(self) -> tuple[str, ...]:
        """The names of its services as Consul knows them, with ``${JOB}`` and its like filled in."""
        return tuple(
            self._fill(str(service["Name"]), str(group["Name"]), task)
            for group in self.spec["TaskGroups"]
            for owner, task in [(group, None), *((one, str(one["Name"])) for one in group["Tasks"])]
            for service in owner.get("Services") or ()
        )

    def _fill(self, name: str, group: str, task: str | None) -> str:
        """Fill in what Nomad's service block documentation lists for `name`."""
        job = str(self.spec["Name"])
        base = "-".join(part for part in (job, group, task) if part)
        for key, value in {"JOB": job, "TASKGROUP": group, "TASK": task or "", "BASE": base}.items():
            name = name.replace(f"${{{key}}}", value)
        return name

    def evaluations(self) -> list[Json]:
        """List its evaluations. Raises AgentApiError."""
        return self.nomad.job_evaluations(self.id)

    def allocations(self) -> list[Json]:
        """List its allocations, those that ended too. Raises AgentApiError."""
        return self.nomad.job_allocations(self.id)

    def logs(self, *, task: str | None = None, stream: str = "stdout") -> dict[str, str]:
        """Read back what its allocations have written, by allocation id; of one task or of all, joined.

        Raises AgentApiError.
        """
        tasks = {
            str(group["Name"]): [str(one["Name"]) for one in group["Tasks"] if task in (None, one["Name"])]
            for group in self.spec["TaskGroups"]
        }
        return {
            alloc["ID"]: "".join(
                self.nomad.logs(alloc["ID"], name, stream=stream) for name in tasks.get(alloc["TaskGroup"], ())
            )
            for alloc in self.allocations()
        }

    def children(self) -> list[Json]:
        """List the jobs that a periodic or parameterized one has started (GET /v1/jobs). Raises AgentApiError."""
        return [one for one in self.nomad.get("/v1/jobs", prefix=f"{self.id}/") if one.get("ParentID") == self.id]

    def stop(self, *, purge: bool = True, within: float | Deadline = STOP_WITHIN) -> None:
        """Deregister the job, and wait until none of its allocations runs; `within` is in seconds.

        First the job itself, so that it starts no more children, then those of a periodic or parameterized one. Raises
        AgentApiError, and WaitTimeout that names what still runs.
        """
        deadline = within if isinstance(within, Deadline) else Deadline.after(within)
        wait_until(f"deregistration of {self.id}", lambda: self._deregister(self.id, purge), deadline=deadline)
        wait_until(f"the end of {self.id}", lambda: self._ended(purge), deadline=deadline, where=self.nomad.address)

    def _deregister(self, job_id: str, purge: bool) -> Ok[None] | Pending:
        try:
            self.nomad.deregister(job_id, purge=purge)
        except AgentApiError as error:
            # Without a leader, or while the server restarts, another try may succeed; a refusal may not.
            if error.status is None or error.status >= 500:
                return Pending(str(error))
            if error.status != 404:
                raise
        return Ok(None)

    def _ended(self, purge: bool) -> Ok[None] | Pending:
        """Look whether all is over; a child that lives is stopped, one that was just being started too."""
        try:
            children = self.children()
            alive = [str(one["ID"]) for one in children if purge or not one.get("Stop")]
            for child in alive:
                waits = self._deregister(child, purge)
                if isinstance(waits, Pending):
                    return waits
            every = [self.id, *self._stopped, *(str(one["ID"]) for one in children)]
            self._stopped = list(dict.fromkeys(every[1:]))
            left = [
                one
                for job_id in dict.fromkeys(every)
                for one in self.nomad.job_allocations(job_id)
                if one["ClientStatus"] not in _ENDED
            ]
        except AgentApiError as error:
            return Pending(str(error))
        if not left:
            # What was stopped just now is looked for again.
            return Pending(f"{', '.join(alive)} was just stopped") if alive else Ok(None)
        names = (f"{one['Name']} on {one.get('NodeName') or one['NodeID']} is {one['ClientStatus']}" for one in left)
        return Pending("; ".join(names))


@contextmanager
def submitted(
    nomad: NomadClient,
    source: str | Path,
    *,
    name: str | None = None,
    count: int | None = None,
    datacenters: Sequence[str] | None = None,
    var_files: Sequence[str | Path] = (),
    stop_within: float | Deadline = STOP_WITHIN,
    **variables: Any,
) -> Iterator[Job]:
    """Submit a job for the time of a `with` block; then it is purged, and none of its allocations runs any
    more.

    `source` is a file, one of the bundled jobs by its file name, or the text itself; HCL, or JSON as
    `nomad job inspect` and `nomad job run -output` print it. `file("...")` and its kin look beside the file. The job
    gets a name of its own: `name`, or else the one in the file, and a random suffix. `count` is set on every task
    group. `datacenters` are, where neither this nor the file names any, all those of the ready clients. Everything
    else are variables of the file, which win over those of `var_files`, and these over NOMAD_VAR_name in the
    environment, as with Nomad's own command line. `stop_within` is in seconds. A periodic or parameterized job's
    children end with it.

    Raises UsageError for a job that Nomad cannot parse and for a variable that it does not declare, AgentApiError when
    it refuses it, and WaitTimeout when it does not end. An error in the block is never hidden by one of the clean-up.

    >>> with submitted(host.nomad, "batch.nomad.hcl", message="hello") as job:  # doctest: +SKIP
    ...     cluster.require(BatchCompleted(job, output="hello"))
    """
    spec = prepare(nomad, source, name=name, count=count, datacenters=datacenters, var_files=var_files, **variables)
    job = Job(nomad, spec)
    try:
        # Inside: a request that timed out may have registered the job all the same.
        nomad.register(job.spec)
        yield job
    except BaseException as error:
        try:
            job.stop(within=stop_within)
        except Exception as second:
            error.add_note(f"then {job.id} could not be stopped: {second}")
        raise
    else:
        job.stop(within=stop_within)


def prepare(
    nomad: NomadClient,
    source: str | Path,
    *,
    name: str | None = None,
    count: int | None = None,
    datacenters: Sequence[str] | None = None,
    var_files: Sequence[str | Path] = (),
    **variables: Any,
) -> Json:
    """Parse a job as `submitted` does, without submitting it. Raises UsageError and AgentApiError."""
    spec = parse(nomad, source, var_files=var_files, **variables)
    wanted = list(datacenters or ())
    if not wanted and spec.get("Datacenters") in (None, [], ["*"]):
        wanted = ready_datacenters(nomad.nodes())
    return specialize(spec, name=name, count=count, datacenters=wanted, suffix=secrets.token_hex(3))


def parse(nomad: NomadClient, source: str | Path, /, *, var_files: Sequence[str | Path] = (), **variables: Any) -> Json:
    """Let Nomad turn a job into JSON, as it is. Raises UsageError and AgentApiError, as `submitted`."""
    found = read_source(source)
    if (job := found.json()) is not None:
        if given := [*variables, *map(str, var_files)]:
            raise UsageError(f"{found.label}: a job in JSON takes no variables, found {', '.join(given)}")
        return job
    text = variables_of(found, variables, var_files, os.environ)
    try:
        return nomad.parse(with_files(found), variables=text)
    except AgentApiError as error:
        if error.status != 400:
            raise
        message = explain_files(error.message.strip())
        raise UsageError(f"{found.label}: Nomad cannot parse this job: {message}") from error


def ready_datacenters(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the datacenters of the nodes that are ready, from the answer of GET /v1/nodes."""
    return sorted({str(node["Datacenter"]) for node in nodes if node["Status"] == "ready"})


def specialize(
    spec: Mapping[str, Any],
    *,
    name: str | None,
    count: int | None,
    datacenters: Sequence[str],
    suffix: str,
) -> Json:
    """Make a parsed job one of its own: unique id and name, and what the caller overrides."""
    job = copy.deepcopy(dict(spec))
    job["ID"] = job["Name"] = f"{name or spec['ID']}-{suffix}"
    if datacenters:
        job["Datacenters"] = list(datacenters)
    if count is not None:
        for group in job["TaskGroups"]:
            group["Count"] = count
    return job
