"""Checks of a job's service in Consul and over DNS, while the job runs and after it was stopped."""

from __future__ import annotations

from dataclasses import replace

import pytest
from recorded_cluster import RecordedCluster, recorded
from verdicts import first, pending

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


def test_the_service_of_a_running_job(running: RecordedCluster) -> None:
    (service,) = running.job.services
    assert service == service_of(running)
    assert ServiceHealthy(service, 6).verdict(running) == Ok(f"6 instances of {service} pass")
    assert ServiceResolves(service).verdict(running) == Ok(f"{service}.service.consul resolves on 3 servers")
    running.with_answer("consul", "/v1/catalog/services?stale=", {"consul": [], service: []})
    assert ServiceGone(service).verdict(running) == pending(
        start=f"{ON_A}: service {service} is still on i-0c000000000000001, "
    )


def test_the_service_of_a_stopped_job(gone: RecordedCluster) -> None:
    service = service_of(gone)
    assert ServiceGone(service).verdict(gone) == Ok(f"service {service} is gone")
    assert ServiceHealthy(service, 6).verdict(gone) == pending(
        start=f"service {service}, asked on {ON_A}: 0 instances, on no node; "
    )
    assert ServiceResolves(service).verdict(gone) == pending(
        start=f"{ON_A}: DNS answers NXDOMAIN with 0 addresses; {ON_B}: "
    )


@pytest.mark.parametrize("count", [5, 7])
def test_more_or_fewer_instances_than_wanted_are_pending(count: int, running: RecordedCluster) -> None:
    service = service_of(running)
    assert ServiceHealthy(service, count).verdict(running) == pending(
        f"service {service}, asked on {ON_A}: 6 instances, on "
    )


def test_an_instance_whose_check_fails_is_told_with_its_output(running: RecordedCluster) -> None:
    check = ServiceHealthy(service_of(running), 6)
    view = check.observe(running)
    head, *tail = view.answers[0].value
    sick = replace(head, failing=("'alive' is critical: connection refused",))
    assert check.judge(replace(view, answers=first(view.answers, (sick, *tail)))) == Pending(
        f"service {check.service}, asked on {ON_A}: {head.node}: check 'alive' is critical: connection refused"
    )


def test_dns_that_differs_from_the_instances_is_told(running: RecordedCluster) -> None:
    check = ServiceResolves(service_of(running))
    answers = check.observe(running)
    head, *ports = answers[0].value.ports
    for facts, seen in (
        ({"addresses": ("10.9.9.9",)}, "DNS gives 10.9.9.9, where no instance passes"),
        ({"addresses": ()}, "DNS answers NOERROR with 0 addresses"),
        ({"ports": tuple(ports)}, f"DNS gives ports {ports}, the instances have {[head, *ports]}"),
        ({"ports": (1, *ports)}, f"DNS gives ports {[1, *ports]}, the instances have {[head, *ports]}"),
    ):
        assert check.judge(first(answers, **facts)) == Pending(f"{ON_A}: {seen}")


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
    assert check.judge(first(check.observe(gone), left)) == Pending(f"{ON_A}: {text.format(check.service)}")
