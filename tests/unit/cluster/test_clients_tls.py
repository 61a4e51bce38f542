"""The agents' clients over TLS: which servers they believe, and what they show them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from local_server import QuietHandler, serving

from nomad_testkit.cluster.clients import ConsulClient, NomadClient
from nomad_testkit.cluster.clients.access import ApiAccess
from nomad_testkit.ec2.vpc.certificates import CertificateAuthority
from nomad_testkit.errors import AgentApiError


@dataclass
class Tls:
    """A server with a certificate of `ca`, which demands one of its clients, and files of two authorities."""

    folder: Path
    port: int = 0
    asked: list[dict[str, str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def cert(self, name: str) -> tuple[str, str]:
        return str(self.folder / f"{name}.pem"), str(self.folder / f"{name}-key.pem")


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[Tls]:
    made = Tls(tmp_path)
    for name in ("ours", "other"):
        ca = CertificateAuthority(name)
        (tmp_path / f"{name}-ca.pem").write_text(ca.cert_pem)
        issued = ca.issue(["localhost"], ["127.0.0.1"])
        (tmp_path / f"{name}.pem").write_text(issued.cert_pem)
        (tmp_path / f"{name}-key.pem").write_text(issued.key_pem)

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            made.asked.append(dict(self.headers))
            self.answer(200, b'"x"', X_Consul_Index="1")

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ours-ca.pem"))
    context.load_cert_chain(*made.cert("ours"))
    context.verify_mode = ssl.CERT_REQUIRED
    with serving(Handler, context) as port:
        made.port = port
        yield made


Clients = list[NomadClient | ConsulClient]


def clients(tls: Tls, *, verify: str, cert: tuple[str, str] | None) -> Clients:
    how = {"verify": str(tls.folder / verify), "cert": cert}
    return [NomadClient(tls.address, "t1", **how), ConsulClient(tls.address, "t2", **how)]  # type: ignore[arg-type]


def test_the_right_ca_and_certificate_are_let_in_with_their_tokens(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMAD_CACERT", "/nonexistent")
    monkeypatch.setenv("CONSUL_CACERT", "/nonexistent")
    for client in clients(tls, verify="ours-ca.pem", cert=tls.cert("ours")):
        assert client.leader() == "x"
        client.raw.status.leader.get_leader() if isinstance(client, NomadClient) else client.raw.status.leader()
        client.close()
    assert [headers.get("X-Nomad-Token") for headers in tls.asked] == ["t1", "t1", None, None]
    assert [headers.get("X-Consul-Token") for headers in tls.asked] == [None, None, "t2", "t2"]


def test_a_server_of_another_ca_is_not_believed(tls: Tls) -> None:
    for client in clients(tls, verify="other-ca.pem", cert=tls.cert("ours")):
        with pytest.raises(AgentApiError, match=r"did not answer: TLS failed: .*certificate verify failed") as caught:
            client.leader()
        assert caught.value.status is None
        client.close()
    assert tls.asked == []


@pytest.mark.parametrize("shown", ["other", None])
def test_another_cas_certificate_or_none_is_not_let_in(tls: Tls, shown: str | None) -> None:
    for client in clients(tls, verify="ours-ca.pem", cert=tls.cert(shown) if shown else None):
        with pytest.raises(AgentApiError) as caught:
            client.leader()
        assert caught.value.status is None
        client.close()
    assert tls.asked == []


def test_access_makes_clients_that_use_all_of_it(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nomad_testkit.cluster.clients.access.NOMAD_HTTP_PORT", tls.port)
    monkeypatch.setattr("nomad_testkit.cluster.clients.access.CONSUL_HTTPS_PORT", tls.port)
    cert, key = map(Path, tls.cert("ours"))
    access = ApiAccess(tls.folder / "ours-ca.pem", (cert, key), consul_token="c", nomad_token="n")
    assert "'c'" not in repr(access)
    with_nomad, with_consul = access.nomad("127.0.0.1"), access.consul("127.0.0.1")
    assert with_nomad.leader() == with_consul.leader() == "x"
    assert [headers.get("X-Nomad-Token") for headers in tls.asked] == ["n", None]
    assert [headers.get("X-Consul-Token") for headers in tls.asked] == [None, "c"]
    with_nomad.close()
    with_consul.close()
