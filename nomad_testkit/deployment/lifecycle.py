"""A cluster's life: plan, apply, wait until ready, yield it, destroy it and prove that nothing is left."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from nomad_testkit import targets
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.cluster.secrets import RunSecrets
from nomad_testkit.cluster.shell_environment import shell_environment
from nomad_testkit.deployment import evidence
from nomad_testkit.deployment.ami_login import with_login_of_ami
from nomad_testkit.deployment.boot import Boot
from nomad_testkit.deployment.delivery import deliver
from nomad_testkit.deployment.evidence import evidence_note
from nomad_testkit.deployment.interrupts import deferred, termination_raises, time_limit
from nomad_testkit.deployment.lifecycle_events import LifecycleEvents, deployment_events
from nomad_testkit.deployment.prepare import prepare
from nomad_testkit.deployment.progress import shown
from nomad_testkit.deployment.readiness import Readiness
from nomad_testkit.deployment.sweep import sweep
from nomad_testkit.deployment.terraform.apply import applied_elsewhere, destroy_terraform, made_by_terraform, save_log
from nomad_testkit.errors import Ec2Error, PreflightError, TeardownError, TestkitError, UsageError
from nomad_testkit.events import ClusterEvent, emit
from nomad_testkit.modules.steps import EXPIRES_TAG
from nomad_testkit.runs.expiry import expiry_tags
from nomad_testkit.runs.run import Run
from nomad_testkit.targets.key_pair import write_key_pair
from nomad_testkit.wait import Deadline

if TYPE_CHECKING:
    from nomad_testkit.events import Progress
    from nomad_testkit.examples.example import Example
    from nomad_testkit.modules.network import Instance
    from nomad_testkit.settings import Settings
    from nomad_testkit.targets.base import Target

logger = logging.getLogger(__name__)


@contextmanager
def deployed(
    settings: Settings, example: Example, *, target: Target, progress: Progress, name: str = ""
) -> Iterator[Cluster]:
    """Deploy an example, yield its cluster, and destroy it on every exit.

    On failure, evidence goes to the artifacts folder, and a note of the error names it. With the setting `keep` the
    cluster is left up; after `Run.leave_up` too, unless the block fails. `name` is the user's name for the run. If the
    block has failed, an error of the teardown becomes a note of that failure.

    Raise DeployError, BrokenError or WaitTimeout if the cluster does not become ready, and TeardownError if something
    is left.

    >>> with deployed(settings, example, target=target, progress=print) as cluster:  # doctest: +SKIP
    ...     cluster.require(RaftPeers(3))
    """
    deadline = Deadline.after(settings.timeout)
    hosts: list[Host] = []
    with (
        new_run(settings, hosts, target=target, progress=progress, name=name) as run,
        deployment_events(run.run_id, example, target) as events,
    ):
        cluster = _deploy(
            run,
            hosts,
            example,
            target=target,
            settings=settings,
            deadline=deadline,
            progress=progress,
            events=events,
        )
        try:
            yield events.ready(cluster)
        finally:
            hosts[:] = cluster.hosts  # its auto scaling groups may have replaced some


@contextmanager
def new_run(
    settings: Settings, hosts: Sequence[Host], *, target: Target, progress: Progress, name: str = ""
) -> Iterator[Run]:
    """Yield a new run and destroy what it created on every exit, unless it is left up.

    Evidence of a failure comes from `hosts`, which the caller fills. Raise as `deployed`.
    """
    first: BaseException | None = None
    expired = threading.Event()
    with termination_raises():
        forget_dead(progress)
        run = Run.new(name)
        lock = run.lock
        try:
            lock.acquire("another process to release the run's lock")
            run.note({"target": dict(target.describe())})
            why = f"the time limit of {run.run_id} has passed ({target.time_limit} s)"
            with time_limit(target.time_limit, why, progress) as expired:
                yield run
        except BaseException as error:
            first = error
            # Bad input leaves no evidence worth collecting.
            if isinstance(error, Exception) and (hosts or not isinstance(error, UsageError | PreflightError)):
                folder = settings.artifacts / run.run_id
                evidence.collect(hosts, folder, target=target, journal=run.journal)
                save_log(run.folder, folder)
                error.add_note(evidence_note(run.run_id, folder))
            raise
        finally:
            with deferred(progress):
                for host in hosts:
                    host.close()
                try:
                    keep = None if expired.is_set() else settings.keep
                    _finish(run, first, target=target, keep=keep, progress=progress)
                except Exception as error:
                    folder = settings.artifacts / run.run_id
                    evidence.collect(hosts, folder, target=target, journal=run.journal, reachable=False)
                    error.add_note(evidence_note(run.run_id, folder))
                    raise
                finally:
                    lock.release()


def destroy(run: Run, *, target: Target, progress: Progress) -> list[str]:
    """Destroy everything that a run created, prove it, forget the run, and return what was destroyed.

    Terraform destroys its own resources first; the sweep destroys the rest by the run's tag. Raise TeardownError, and
    keep the run's folder, if something is left. Raise Ec2Error, and forget the run, if the target itself has ended and
    taken everything with it.
    """
    if reason := target.lost():
        forget_lost(run)
        raise Ec2Error(f"the resources of {run.run_id} ended before they were destroyed: {reason}")
    gone = destroy_terraform(run.folder, run_id=run.run_id, journal=run.journal, target=target, progress=progress)
    deadline = Deadline.after(target.teardown_seconds)
    gone += sweep(target.client, run.run_id, run.journal, deadline=deadline, progress=progress)
    run.forget()
    return gone


def forget_lost(run: Run) -> None:
    """Forget a run whose target has ended and taken its resources with it.

    Raise TeardownError, and keep the run, if Terraform created something outside the target.
    """
    if left := applied_elsewhere(run.folder):
        raise TeardownError(
            f"{run.run_id}: the embedded EC2 has ended, but Terraform's state lists resources outside it: "
            f"{', '.join(left)}. Its state is below {run.folder}: destroy them, then remove that folder"
        )
    run.forget()


def forget_dead(progress: Progress) -> None:
    """Forget the runs whose processes were killed, and their embedded clouds with them."""
    for run in Run.every():
        try:
            description = run.description()
            # A run without a target may be so new that its process does not hold the lock yet.
            if "target" not in description or description.get("kept") or run.used:
                continue
            with targets.attach_target(description["target"]):
                continue  # its cloud is alive, so there may be something to destroy
        except Ec2Error:
            try:
                forget_lost(run)
            except TeardownError as error:
                logger.warning("%s", error)
                continue
            progress(f"forgot {run.run_id}: its process was killed and its embedded EC2 has ended")
        except TestkitError as error:
            logger.warning("%s is left as it is: %s", run.run_id, error)


def _deploy(
    run: Run,
    hosts: list[Host],
    example: Example,
    *,
    target: Target,
    settings: Settings,
    deadline: Deadline,
    progress: Progress,
    events: LifecycleEvents,
) -> Cluster:
    started = deadline.clock()
    progress(f"deploying {example.name} as {run.run_id}")
    example = with_login_of_ami(example, settings)
    tags = expiry_tags(target.time_limit)
    key_path = (example.ssh_private_key_file or run.key_path).absolute()
    apply = prepare(
        example,
        run,
        public_key=write_key_pair(run.key_path),
        target=target,
        tags=tags,
        settings=settings,
        progress=progress,
    )
    ssh_ports: dict[str, int] = {}

    secrets = None
    if example.security.wanted:
        secrets = RunSecrets.create(run.secrets_path, example.security, region=target.region)
    deliver_to = partial(deliver, secrets, example.roles, deadline) if secrets else None

    def make(instance: Instance) -> Host:
        address = target.address(instance)
        host = Host(
            instance,
            address=address,
            ssh_user=example.ssh_user,
            key_path=key_path,
            ssh_port=ssh_ports.get(instance.group, 22),
            secrets=secrets,
        )
        hosts.append(host)
        return host

    boot = Boot(f"{example.name} as {run.run_id}", deadline, say=progress, roles=example.roles, started=started)
    events.timeline = boot.timeline
    with shown(progress, boot), Readiness(target, run.run_id, boot, example.roles, deliver_to) as readiness:
        applied = apply(deadline, partial(boot.waits, "its resources"))
        example = applied.example
        ssh_ports.update(applied.ssh_ports)
        boot.ended("resources created; hosts are booting")
        cluster = Cluster(
            run_id=run.run_id,
            target=target,
            hosts=readiness.await_hosts(applied.hosts, make, applied.capacity_seconds),
            roles=example.roles,
            ssh_user=example.ssh_user,
            key_path=key_path,
            example=example,
            secrets=secrets,
            outputs=applied.outputs,
            timings=readiness.timings,
            timeline=boot.timeline(),
            expires=tags.get(EXPIRES_TAG),
            sizes=applied.hosts,
            save=lambda changed: run.amend(changed.describe()),
        )
        run.note({**cluster.describe(), "example": example.describe()})
        readiness.await_agents(cluster)
    cluster = replace(cluster, timeline=boot.timeline())
    run.note({**cluster.describe(), "example": example.describe()})
    return cluster


def _finish(run: Run, first: BaseException | None, *, target: Target, keep: bool | None, progress: Progress) -> None:
    """Destroy a run, or leave it up; with `keep` None it is destroyed even after `Run.leave_up`."""
    try:
        if keep or (keep is not None and first is None and run.description().get("kept")):
            target.keep()
            emit(ClusterEvent(run.run_id, "kept"))
            run.leave_up()
            if keep:
                progress(how_to_reach(run, region=target.region))
        else:
            started = time.monotonic()
            if made_by_terraform(run.folder):
                progress(f"Terraform is destroying the resources of {run.run_id}, which may take minutes")
            destroy(run, target=target, progress=lambda line: None)
            seconds = time.monotonic() - started
            emit(ClusterEvent(run.run_id, "destroyed", {"seconds": seconds}))
            progress(f"destroyed {run.run_id} in {seconds:.1f} s")
    except Exception as error:
        if first is None:
            raise
        remedy = f"\nwhat is left: `python -m nomad_testkit down {run.run_id}`" if run.folder.exists() else ""
        first.add_note(f"then the teardown failed: {error}{remedy}")


def how_to_reach(run: Run, *, region: str = "us-east-1") -> str:
    """Return shell lines that reach and destroy a cluster that is left up."""
    description = run.description()
    hosts = description.get("hosts", [])
    lines = [f"# {run.run_id} is left up", *shell_environment(description, region=region).lines()]
    if hosts:
        options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        login = f"ssh {options} -i {description['key_path']} {description['ssh_user']}"
        for host in hosts:
            port = "" if host["ssh_port"] == 22 else f" -p {host['ssh_port']}"
            lines.append(f"{login}@{host['address']}{port}  # {host['instance_id']} in {host['group']}")
    lines.append(f"python -m nomad_testkit down {run.run_id}")
    if expires := description.get("expires"):
        lines.append(f"# from {expires} on, `python -m nomad_testkit sweep --expired` destroys it too, on any machine")
    return "\n".join(lines)
