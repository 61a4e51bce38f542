"""What users' jobs do that the bundled ones do not: rescheduled, rolled out and reverted, refused, with children."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from nomad_testkit import Cluster
from nomad_testkit.checks import AllocationsRunning, BatchCompleted
from nomad_testkit.checks.scheduling import allocations_on
from nomad_testkit.cluster.job_files import Text
from nomad_testkit.cluster.jobs import Job, parse
from nomad_testkit.errors import AgentApiError, CheckFailed, UsageError
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

pytestmark = pytest.mark.colocated

WITHIN = 120.0
SLEEPS = 'command = "/bin/sleep"\nargs = ["1000"]'
FAILS = 'command = "/bin/false"'
# The first of a job's allocations fails, all others run.
FAILS_ONCE = """
  command = "/bin/sh"
  args = ["-c", "if mkdir /var/tmp/$NOMAD_JOB_NAME || [ -e /var/tmp/$NOMAD_JOB_NAME/$NOMAD_ALLOC_ID ]; then
    touch /var/tmp/$NOMAD_JOB_NAME/$NOMAD_ALLOC_ID; exit 3; fi; exec sleep 1000"]
""".replace("\n    ", " ")
NO_SECOND_TRY = """
  restart {
    attempts = 0
    mode     = "fail"
  }
  reschedule {
    attempts  = 0
    unlimited = false
  }
"""
RESCHEDULED = """
  restart {
    attempts = 0
    mode     = "fail"
  }
  reschedule {
    delay          = "5s"
    delay_function = "constant"
    unlimited      = true
  }
"""


def hcl(config: str = SLEEPS, *, job: str = "", group: str = "", task: str = "", driver: str = "raw_exec") -> str:
    """Write a job of one small task."""
    return f"""
job "case" {{
  {job}
  group "one" {{
    {group}
    task "main" {{
      driver = "{driver}"
      config {{
        {config}
      }}
      {task}
      resources {{
        cpu    = 20
        memory = 16
      }}
    }}
  }}
}}
"""


def update(**settings: str) -> str:
    """Write an update block that is quick to find a deployment healthy."""
    every = {"min_healthy_time": '"1s"', "healthy_deadline": '"4s"', "progress_deadline": '"5s"', **settings}
    return "update {\n" + "".join(f"{key} = {value}\n" for key, value in every.items()) + "}\n"


def failure(cluster: Cluster, job: Job) -> str:
    """Tell what is said of a job that cannot run, which has to be at once."""
    with pytest.raises(CheckFailed) as caught:
        cluster.require(AllocationsRunning(job), within=WITHIN)
    assert "cannot come right by waiting longer" in str(caught.value)
    return str(caught.value)


@contextmanager
def deployed(cluster: Cluster, source: str) -> Iterator[Job]:
    """Submit a job, and wait until its first version is deployed."""
    with cluster.submitted(source) as job:
        cluster.require(AllocationsRunning(job), within=WITHIN)

        def done() -> Ok[None] | Pending:
            found = [one["Status"] for one in cluster.nomad.job_deployments(job.id)]
            return Ok(None) if found == ["successful"] else Pending(repr(found))

        wait_until("the first deployment", done, deadline=Deadline.after(WITHIN))
        yield job


def renewed(cluster: Cluster, job: Job, source: str) -> Job:
    """Submit a job's second version."""
    cluster.nomad.register(
        {**parse(cluster.nomad, source), **{key: job.spec[key] for key in ("ID", "Name", "Datacenters")}}
    )
    return job


def test_jobs_that_nomad_reschedules_are_not_dead(nomad_cluster: Cluster) -> None:
    """Five of them: for about a second after the failure Nomad calls such a job dead, and has no evaluation for it."""
    text = hcl(FAILS_ONCE, group=RESCHEDULED)
    with ExitStack() as stack, ThreadPoolExecutor(5) as pool:
        jobs = [stack.enter_context(nomad_cluster.submitted(text, name=f"again{number}")) for number in range(5)]
        list(pool.map(lambda job: nomad_cluster.require(AllocationsRunning(job), within=WITHIN), jobs))
        for job in jobs:
            assert "failed" in {one["ClientStatus"] for one in job.allocations()}, "nothing was rescheduled"


def test_a_batch_job_that_nomad_reschedules_is_not_dead_either(nomad_cluster: Cluster) -> None:
    policy = RESCHEDULED.replace("unlimited      = true", 'attempts = 2\n    interval = "1h"')
    # On one client, where it leaves its mark: it fails on each that it comes to for the first time.
    here = f'constraint {{\nattribute = "${{node.unique.name}}"\nvalue = "{nomad_cluster.clients[0].instance_id}"\n}}'
    text = hcl(FAILS_ONCE.replace("sleep 1000", "true"), job='type = "batch"\n' + here, group=policy)
    with nomad_cluster.submitted(text) as job:
        nomad_cluster.require(BatchCompleted(job), within=WITHIN)
        assert "failed" in {one["ClientStatus"] for one in job.allocations()}, "nothing was rescheduled"


def test_a_job_without_another_try_is_broken_with_its_exit_code(nomad_cluster: Cluster) -> None:
    with nomad_cluster.submitted(hcl(FAILS, job='type = "batch"', group=NO_SECOND_TRY)) as job:
        with pytest.raises(CheckFailed) as caught:
            nomad_cluster.require(BatchCompleted(job), within=WITHIN)
        assert "is dead: 0 of 1" in str(caught.value)
        assert "Exit Code: 1" in str(caught.value)


def test_deployments_that_fail_wait_for_promotion_or_are_paused(nomad_cluster: Cluster) -> None:
    canary = hcl(group=update(canary="1"))
    with deployed(nomad_cluster, canary) as job:
        renewed(nomad_cluster, job, canary.replace("1000", "1001"))
        assert "awaits promotion of its canaries (1 of group 'one')" in failure(nomad_cluster, job)

        (current,) = (one for one in nomad_cluster.nomad.job_deployments(job.id) if one["JobVersion"] == 1)
        nomad_cluster.nomad.put(f"/v1/deployment/pause/{current['ID']}", {"DeploymentID": current["ID"], "Pause": True})
        told(nomad_cluster, job, "is paused")
        nomad_cluster.nomad.put(
            f"/v1/deployment/pause/{current['ID']}", {"DeploymentID": current["ID"], "Pause": False}
        )
        promote(nomad_cluster, current["ID"])
        nomad_cluster.require(AllocationsRunning(job), within=WITHIN)

    reverting = hcl(group=NO_SECOND_TRY + update(auto_revert="true"))
    with deployed(nomad_cluster, reverting) as job:
        renewed(nomad_cluster, job, reverting.replace("sleep", "false"))
        # A task that fails at once may be seen to run before that.
        told(nomad_cluster, job, "deployment failed, reverted to version 0")
        # Whoever asks for the version that it was reverted to gets it.
        nomad_cluster.require(AllocationsRunning(Job(job.nomad, job.nomad.job(job.id))), within=WITHIN)

    never_healthy = """
      network {
        port "http" {}
      }
      service {
        name = "${JOB}"
        port = "http"
        check {
          type     = "tcp"
          interval = "1s"
          timeout  = "1s"
        }
      }
    """
    with nomad_cluster.submitted(hcl(group=update() + never_healthy)) as job:
        assert "Failed due to progress deadline" in failed_deployment(nomad_cluster, job)


def told(cluster: Cluster, job: Job, words: str) -> None:
    """Wait until a job that cannot run is said to be so for a reason, which some servers learn after others."""

    def probe() -> Ok[None] | Pending:
        verdict = AllocationsRunning(job).verdict(cluster)
        return Ok(None) if isinstance(verdict, Broken) and words in verdict.reason else Pending(repr(verdict))

    wait_until(f"{words!r}", probe, deadline=Deadline.after(WITHIN))


def promote(cluster: Cluster, deployment: str) -> None:
    """Promote all canaries, which Nomad refuses until they are healthy."""

    def probe() -> Ok[None] | Pending:
        try:
            cluster.nomad.put(f"/v1/deployment/promote/{deployment}", {"DeploymentID": deployment, "All": True})
        except AgentApiError as error:
            return Pending(str(error))
        return Ok(None)

    wait_until("the promotion", probe, deadline=Deadline.after(WITHIN))


def failed_deployment(cluster: Cluster, job: Job) -> str:
    """Wait until the check is Broken though all runs, and give its reason."""

    def probe() -> Ok[str] | Pending:
        verdict = AllocationsRunning(job).verdict(cluster)
        return Ok(verdict.reason) if isinstance(verdict, Broken) else Pending(repr(verdict))

    return wait_until("the deployment to fail", probe, deadline=Deadline.after(WITHIN))


TEMPLATE = """
  template {
    source      = "local/missing.tpl"
    destination = "local/there"
  }
"""
ARTIFACT = """
  artifact {
    source = "http://127.0.0.1:9/missing"
  }
"""


@pytest.mark.parametrize(
    ("source", "reasons"),
    [
        (hcl(group=NO_SECOND_TRY, task=TEMPLATE), ["missing.tpl"]),
        (hcl(group=NO_SECOND_TRY, task=TEMPLATE.replace("local/m", "/m")), ["Task hook failed", "escapes"]),
        (hcl(group=NO_SECOND_TRY, task=ARTIFACT), ["Failed Artifact Download", "http://127.0.0.1:9/missing"]),
        (hcl(group=NO_SECOND_TRY, task='user = "nobody-knows"'), ["Driver Failure", "unknown user nobody-knows"]),
        (hcl('image = "redis:7"', driver="docker"), ["driver 'docker'", "Failed to connect to docker daemon"]),
        (hcl(group='network {\nmode = "bridge"\n}'), ["network mode 'bridge'", "CNI plug-ins"]),
        (hcl(group='network {\nmode = "cni/mine"\n}'), ["network mode 'cni/mine'", "CNI configuration"]),
        (hcl(group='volume "v" {\ntype = "host"\nsource = "disk"\n}'), ["host volumes 'disk'"]),
    ],
    ids=["template", "hook", "artifact", "user", "docker", "bridge", "cni", "volume"],
)
def test_a_task_that_cannot_run_shows_nomads_reason(nomad_cluster: Cluster, source: str, reasons: list[str]) -> None:
    with nomad_cluster.submitted(source) as job:
        said = failure(nomad_cluster, job)
        for reason in reasons:
            assert reason in said


def test_an_empty_node_pool_is_no_matter_of_datacenters(nomad_cluster: Cluster) -> None:
    nomad = nomad_cluster.nomad
    nomad.put("/v1/node/pools", {"Name": "gpu"})
    try:
        with nomad_cluster.submitted(hcl(job='node_pool = "gpu"')) as job:
            said = failure(nomad_cluster, job)
    finally:
        nomad.raw.jobs.session.delete(f"{nomad.address}/v1/node/pool/gpu").raise_for_status()
    assert "no nodes in node pool 'gpu'; the ready clients are in [default]" in said
    assert "datacenter" not in said


CONSTRAINTS = """
  constraint {
    attribute = "${meta.rack}"
    value     = "r1"
  }
  constraint {
    attribute = "${attr.kernel.name}"
    value     = "linux"
  }
  constraint {
    attribute = "${attr.nomad.version}"
    operator  = "semver"
    value     = ">= 99.0.0"
  }
"""


def test_a_class_of_nodes_that_does_not_fit_is_told_by_its_constraints(nomad_cluster: Cluster) -> None:
    one = hcl(job=CONSTRAINTS)
    start, end = one.index("group "), one.rindex("}")
    both = one[:end] + one[start:end].replace('"one"', '"two"') + "}\n"
    with nomad_cluster.submitted(both) as job:

        def filtered() -> Ok[None] | Pending:
            groups = [group for one in job.evaluations() for group in (one.get("FailedTGAllocs") or {}).values()]
            found = [sorted(group["ConstraintFiltered"] or ()) for group in groups]
            return Ok(None) if any("computed class ineligible" in one for one in found) else Pending(repr(found))

        wait_until("a group whose class is ineligible", filtered, deadline=Deadline.after(WITHIN))
        said = failure(nomad_cluster, job)
        assert "no ready client meets ${meta.rack} = r1" in said
        assert "no ready client meets ${attr.nomad.version} semver >= 99.0.0" in said
        for wrong in ("computed class", "kernel.name", "datacenter"):
            assert wrong not in said


PERIODIC = 'type = "batch"\nperiodic {\ncron = "*/1 * * * * * *"\n}'
PARAMETERIZED = 'type = "batch"\nparameterized {}'


def processes(cluster: Cluster, ids: set[str]) -> set[str]:
    """List which of some allocations have a process on a client."""
    return ids & {one for host in cluster.nomad_clients for one in allocations_on(host)}


@pytest.mark.parametrize("kind", [PERIODIC, PARAMETERIZED], ids=["periodic", "parameterized"])
@pytest.mark.parametrize("purge", [True, False])
def test_no_child_outlives_its_job(nomad_cluster: Cluster, kind: str, purge: bool) -> None:
    nomad = nomad_cluster.nomad
    with nomad_cluster.submitted(hcl(job=kind)) as job:

        def plant() -> Ok[set[str]] | Pending:
            if kind == PARAMETERIZED and len(job.children()) < 2:
                nomad.put(f"/v1/job/{job.id}/dispatch", {})
            children = [one["ID"] for one in job.children()]
            running = {
                alloc["ID"]
                for child in children
                for alloc in nomad.job_allocations(child)
                if alloc["ClientStatus"] == "running"
            }
            enough = len(processes(nomad_cluster, running)) >= 2 - (kind == PERIODIC)
            return Ok(running) if enough else Pending(f"{children}, of which {running} run")

        planted = wait_until("children that run", plant, deadline=Deadline.after(WITHIN))
        if not purge:
            job.stop(purge=False, within=WITHIN)
            assert all(one["Stop"] for one in job.children())
            assert not processes(nomad_cluster, planted)
    assert not processes(nomad_cluster, planted)
    assert not nomad.get("/v1/jobs", prefix=job.id)


TYPED = """
variable "tag" {
  type = string
}
variable "number" {
  type = number
}
variable "zones" {
  type = list(string)
}
/*
variable "commented" {}
*/
job "typed" {
  type = "batch"
  meta {
    tag    = var.tag
    number = var.number
    zones  = join("-", var.zones)
    told   = file("told/words.txt")
  }
  group "one" {
    task "main" {
      driver = "raw_exec"
      config {
        command = "/bin/sh"
        args    = ["-c", "echo $NOMAD_META_tag $NOMAD_META_number $NOMAD_META_zones $NOMAD_META_told"]
      }
    }
  }
}
"""


def test_variables_and_files_are_what_nomads_own_command_makes_of_them(
    nomad_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "told").mkdir()
    (tmp_path / "told" / "words.txt").write_text("$${x}", encoding="utf-8")
    job_file, var_file = tmp_path / "typed.nomad.hcl", tmp_path / "some.hcl"
    job_file.write_text(TYPED, encoding="utf-8")
    var_file.write_text('zones = ["file"]\nnumber = 2\n', encoding="utf-8")
    for name, value in {"number": "1", "zones": '["environment"]', "commented": "x"}.items():
        monkeypatch.setenv(f"NOMAD_VAR_{name}", value)
    with nomad_cluster.submitted(job_file, var_files=[var_file], tag=Text("1.10"), number=Text("1e3")) as job:
        nomad_cluster.require(BatchCompleted(job, output="1.10 1000 file "), within=WITHIN)
        assert job.spec["Meta"]["told"] == "$${x}"
    with pytest.raises(UsageError, match=r"cannot take tga; did you mean tag\?"):
        parse(nomad_cluster.nomad, job_file, tga="1")
    with pytest.raises(UsageError, match="cannot take commented"):
        parse(nomad_cluster.nomad, job_file, commented="1")
    job_file.write_text(TYPED.replace('"told/words.txt"', "var.tag"), encoding="utf-8")
    with pytest.raises(UsageError, match="has to be handed over as a variable"):
        parse(nomad_cluster.nomad, job_file, var_files=[var_file], tag="x")


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_job_in_json_runs(nomad_cluster: Cluster, tmp_path: Path, wrapped: bool) -> None:
    with nomad_cluster.submitted("batch.nomad.hcl", message="from JSON") as job:
        nomad_cluster.require(BatchCompleted(job), within=WITHIN)
        inspected = nomad_cluster.nomad.job(job.id)  # which is what `nomad job inspect` prints, wrapped
        job.stop(purge=False)
        stopped = nomad_cluster.nomad.job(job.id)
    for facts in (inspected, stopped):
        spec: Mapping[str, Any] = {"Job": facts} if wrapped else facts
        file = tmp_path / "job.json"
        file.write_text(json.dumps(spec), encoding="utf-8")
        with nomad_cluster.submitted(file, name="json") as again:
            nomad_cluster.require(BatchCompleted(again, output="from JSON"), within=WITHIN)
