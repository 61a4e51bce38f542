"""Waiting and HTTP of the host scripts."""

from __future__ import annotations

import socket
import threading

import pytest
from fake_host import FakeClock
from host_commons import UNREACHABLE, HostFault, Service, Waiting, wait_until


def test_wait_gives_the_value_and_logs_each_change_once(capsys: pytest.CaptureFixture[str]) -> None:
    states = iter(["no leader", "no leader", "electing", None])

    def probe() -> str:
        seen = next(states)
        if seen is not None:
            raise Waiting(seen)
        return "10.0.0.1:8300"

    assert wait_until("a leader", probe, 10, clock=FakeClock()) == "10.0.0.1:8300"
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == [
        "waiting for a leader: no leader (0 of 10 s)",
        "waiting for a leader: electing (0 of 10 s)",
    ]


def test_wait_that_ends_says_what_was_wanted_and_seen() -> None:
    clock = FakeClock()

    def probe() -> None:
        raise Waiting("no leader")

    with pytest.raises(HostFault, match=r"^gave up after 7 s of waiting for a leader: no leader$"):
        wait_until("a leader", probe, 7, clock=clock, interval=1, longest=4)
    assert clock.slept == [1, 1.5, 2.25, 2.25]


def test_wait_ends_at_once_for_a_fault() -> None:
    clock = FakeClock()

    def probe() -> None:
        raise HostFault("the unit has failed")

    with pytest.raises(HostFault, match="the unit has failed"):
        wait_until("the unit", probe, 100, clock=clock)
    assert clock.slept == []


def _serve(answers_per_connection: list[int]) -> tuple[int, threading.Thread, socket.socket]:
    """Serve connections that each answer a number of requests as if more could follow, and then close."""
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        for answers in answers_per_connection:
            connection, _ = listener.accept()
            with connection:
                for _ in range(answers):
                    while not connection.recv(65536).endswith(b"\r\n\r\n"):
                        pass
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return listener.getsockname()[1], thread, listener


def test_a_service_that_closed_its_kept_connection_is_asked_again() -> None:
    port, thread, listener = _serve([1, 1])
    with listener:
        service = Service("127.0.0.1", port)
        assert service.request("GET", "/one").text == "ok"
        assert service.request("GET", "/two").text == "ok"
        thread.join(5)
        assert not thread.is_alive()
        service.close()


def test_a_service_that_answers_nothing_is_unreachable() -> None:
    port, thread, listener = _serve([0])
    with listener:
        with pytest.raises(UNREACHABLE):
            Service("127.0.0.1", port).request("GET", "/")
        thread.join(5)
