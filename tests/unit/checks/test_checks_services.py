"""Checks of a job's service in Consul and over DNS, while the job runs and after it was stopped."""

from __future__ import annotations

from dataclasses import replace

import pytest
from recorded_cluster import RecordedCluster, recorded

from nomad_testkit.checks import ServiceGone, ServiceHealthy, ServiceResolves
from nomad_testkit.checks.services import GoneView
from nomad_testkit.wait import Ok, Pending

ON_A, ON_B = "i-0a000000000000001 (172.31.16.11)", "i-0a000000000000002 (172.31.32.12)"


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> RecordedCluster:
    return recorded("web-running", monkeypatch)


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> RecordedCluster:
    return recorded("web-gone", monkeypatch)


def service_of(cluster: RecordedCluster) -> str:
    """Tell the name of the service that was recorded: the job's, which is unique to a run."""
    question = str(next(iter(cluster.answers["dns"])))
    return question.split()[1].partition(".")[0]


def test_the_service_of_a_running_job_is_healthy(running: RecordedCluster) -> None:
    (service,) = running.job.services

    assert ServiceHealthy(service, 6).verdict(running) == Ok(f"6 instances of {service} pass")


def test_the_service_of_a_stopped_job_has_no_instances(gone: RecordedCluster) -> None:
    service = service_of(gone)

    verdict = ServiceHealthy(service, 6).verdict(gone)

    assert isinstance(verdict, Pending)
    assert verdict.seen.startswith(f"service {service}, asked on {ON_A}: 0 instances, on no node; ")


def test_an_instance_whose_check_fails_is_told_with_its_output(running: RecordedCluster) -> None:
    check = ServiceHealthy(service_of(running), 6)
    view = check.observe(running)
    first, *others = view.answers
    head, *tail = first.value
    sick = replace(head, failing=("'alive' is critical: connection refused",))

    assert check.judge(replace(view, answers=(replace(first, value=(sick, *tail)), *others))) == Pending(
        f"service {check.service}, asked on {ON_A}: {head.node}: check 'alive' is critical: connection refused"
    )


def test_the_service_of_a_running_job_resolves(running: RecordedCluster) -> None:
    service = service_of(running)

    assert ServiceResolves(service).verdict(running) == Ok(f"{service}.service.consul resolves on 3 servers")


def test_the_service_of_a_stopped_job_does_not_resolve(gone: RecordedCluster) -> None:
    verdict = ServiceResolves(service_of(gone)).verdict(gone)

    assert isinstance(verdict, Pending)
    assert verdict.seen.startswith(f"{ON_A}: DNS answers NXDOMAIN with 0 addresses; {ON_B}: ")


def test_dns_that_differs_from_the_instances_is_told(running: RecordedCluster) -> None:
    check = ServiceResolves(service_of(running))
    first, *others = check.observe(running)

    stray = replace(first, value=replace(first.value, addresses=("10.9.9.9",)))
    assert check.judge((stray, *others)) == Pending(f"{ON_A}: DNS gives 10.9.9.9, where no instance passes")

    fewer = replace(first, value=replace(first.value, ports=first.value.ports[1:]))
    assert check.judge((fewer, *others)) == Pending(
        f"{ON_A}: DNS gives ports {list(fewer.value.ports)}, the instances have {list(first.value.ports)}"
    )


def test_the_service_of_a_stopped_job_is_gone(gone: RecordedCluster) -> None:
    service = service_of(gone)

    assert ServiceGone(service).verdict(gone) == Ok(f"service {service} is gone")


def test_the_service_of_a_running_job_is_not_gone(running: RecordedCluster) -> None:
    service = service_of(running)
    running.with_answer("consul", "/v1/catalog/services?stale=", {"consul": [], service: []})

    verdict = ServiceGone(service).verdict(running)

    assert isinstance(verdict, Pending)
    assert verdict.seen.startswith(f"{ON_A}: service {service} is still on i-0c000000000000001, ")


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (GoneView((), True, "NXDOMAIN"), "service {} is still in the catalog"),
        (GoneView((), False, "NOERROR"), "DNS still answers NOERROR for {}.service.consul"),
        (GoneView((), False, "SERVFAIL"), "DNS still answers SERVFAIL for {}.service.consul"),
    ],
)
def test_what_is_left_of_a_service_is_told(gone: RecordedCluster, left: GoneView, text: str) -> None:
    check = ServiceGone(service_of(gone))
    first, *others = check.observe(gone)

    assert check.judge((replace(first, value=left), *others)) == Pending(f"{ON_A}: {text.format(check.service)}")


@pytest.mark.parametrize("count", [5, 7])
def test_more_or_fewer_instances_than_wanted_are_pending(count: int, running: RecordedCluster) -> None:
    (service,) = running.job.services

    verdict = ServiceHealthy(service, count).verdict(running)

    assert isinstance(verdict, Pending)
    assert f"service {service}, asked on {ON_A}: 6 instances, on " in verdict.seen


def test_as_many_other_ports_are_told(running: RecordedCluster) -> None:
    check = ServiceResolves(*running.job.services)
    first, *others = check.observe(running)
    ports = (1, *first.value.ports[1:])

    verdict = check.judge((replace(first, value=replace(first.value, ports=ports)), *others))

    assert isinstance(verdict, Pending)
    assert "DNS gives ports [1, " in verdict.seen


def test_an_answer_without_addresses_is_told(running: RecordedCluster) -> None:
    check = ServiceResolves(*running.job.services)
    first, *others = check.observe(running)

    verdict = check.judge((replace(first, value=replace(first.value, addresses=())), *others))

    assert isinstance(verdict, Pending)
    assert "DNS answers NOERROR with 0 addresses" in verdict.seen
