"""Waiting and HTTP of the host scripts."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_host import FakeClock
from host_commons import UNREACHABLE, HostFault, Service, Tls, Waiting, wait_until
from local_server import QuietHandler, serving

from nomad_testkit.ec2.vpc.certificates import CertificateAuthority


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


@pytest.mark.parametrize(
    ("error", "message", "slept"),
    [
        (Waiting("no leader"), "^gave up after 7 s of waiting for a leader: no leader$", [1, 1.5, 2.25, 2.25]),
        (HostFault("the unit has failed"), "^the unit has failed$", []),
    ],
)
def test_how_a_wait_ends(error: Exception, message: str, slept: list[float]) -> None:
    clock = FakeClock()

    def probe() -> None:
        raise error

    with pytest.raises(HostFault, match=message):
        wait_until("a leader", probe, 7, clock=clock, interval=1, longest=4)
    assert clock.slept == slept


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


@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    """A server whose certificate is for `server.us-east-1.nomad`, and which wants to see one of its callers."""
    authority = CertificateAuthority("test")
    made = authority.issue(["server.us-east-1.nomad"])
    for name, pem in (("ca", authority.cert_pem), ("cert", made.cert_pem), ("key", made.key_pem)):
        (tmp_path / f"{name}.pem").write_text(pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            self.answer(200, self.body())

    with serving(Handler, context) as port:
        yield port


def tls(folder: Path, **options: str) -> Tls:
    shown = {"cert_file": str(folder / "cert.pem"), "key_file": str(folder / "key.pem")}
    return Tls(**{"ca_file": str(folder / "ca.pem"), "server_name": "server.us-east-1.nomad", **shown, **options})


def test_https_checks_the_name_that_it_is_told(tls_port: int, tmp_path: Path) -> None:
    service = Service("127.0.0.1", tls_port, tls=tls(tmp_path))
    assert service.name == f"https://127.0.0.1:{tls_port}"
    assert service.request("POST", "/", {}, b"hello").text == "hello"
    service.close()


def test_a_folder_of_certificates_is_trusted_whatever_their_names(tls_port: int, tmp_path: Path) -> None:
    (tmp_path / "trusted").mkdir()
    (tmp_path / "ca.pem").rename(tmp_path / "trusted" / "any.crt")
    service = Service("127.0.0.1", tls_port, tls=tls(tmp_path, ca_file="", ca_path=str(tmp_path / "trusted")))
    assert service.request("POST", "/", {}, b"hello").text == "hello"
    service.close()


@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_a_wrong_certificate_is_a_fault_and_not_waited_for(wrong: str, tls_port: int, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_text(CertificateAuthority("other").cert_pem)
    options = {"name": {"server_name": ""}, "authority": {"ca_file": str(tmp_path / "other.pem")}}[wrong]
    service = Service("127.0.0.1", tls_port, tls=tls(tmp_path, **options))
    with pytest.raises(HostFault, match=rf"the certificate of https://127.0.0.1:{tls_port} is refused: .*; expected"):
        service.request("POST", "/", {}, b"hello")


def test_a_caller_without_a_certificate_gets_no_answer(tls_port: int, tmp_path: Path) -> None:
    service = Service("127.0.0.1", tls_port, tls=tls(tmp_path, cert_file=""))
    with pytest.raises(UNREACHABLE):
        service.request("POST", "/", {}, b"hello")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_files_that_cannot_be_used_for_tls_are_named(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(HostFault, match=rf"{tmp_path}/ca.pem cannot be used for TLS: "):
        Service("127.0.0.1", 1, tls=Tls(ca_file=str(tmp_path / "ca.pem")))
