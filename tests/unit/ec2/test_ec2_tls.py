"""The cloud's certificate authority."""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from nomad_testkit.ec2.vpc.tls import CloudCa

NAMES = ("ec2.us-east-1.amazonaws.com", "iam.amazonaws.com", "*.s3.us-east-1.amazonaws.com")


def handshake(ca: CloudCa, trusted: ssl.SSLContext, name: str) -> dict[str, object]:
    """Connect a client to a server of this CA; returns the server's certificate."""
    mine, its = socket.socketpair()

    def serve() -> None:
        with its:
            try:
                with ca.server_context(NAMES).wrap_socket(its, server_side=True) as secure:
                    secure.recv(1)
            except ssl.SSLError:
                pass  # the client does not trust it, which is its test

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with mine, trusted.wrap_socket(mine, server_hostname=name) as secure:
            return dict(secure.getpeercert() or {})
    finally:
        thread.join()


@pytest.mark.parametrize("name", [*NAMES[:2], "bucket.s3.us-east-1.amazonaws.com"])
def test_its_names_are_valid_for_whoever_trusts_it(name: str) -> None:
    ca = CloudCa()
    trusted = ssl.create_default_context(cadata=ca.cert_pem)
    trusted.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    certificate = handshake(ca, trusted, name)
    assert ("DNS", NAMES[0]) in certificate["subjectAltName"]  # type: ignore[operator]


def test_no_other_name_and_no_other_ca_is_valid() -> None:
    ca, other = CloudCa(), CloudCa()
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(ca, ssl.create_default_context(cadata=ca.cert_pem), "example.com")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(ca, ssl.create_default_context(cadata=other.cert_pem), NAMES[0])


def test_what_it_signs_outlives_a_cluster_that_is_kept() -> None:
    certificate = x509.load_pem_x509_certificate(CloudCa().cert_pem.encode())
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now - timedelta(hours=23)
    assert now + timedelta(days=3650) < certificate.not_valid_after_utc
    assert "nomad_testkit cloud CA" in certificate.subject.rfc4514_string()


def test_no_key_is_left_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = ssl.SSLContext.load_cert_chain

    def load(self: ssl.SSLContext, certfile: str, *more: str) -> None:
        assert [tmp_path / Path(certfile).name] == list(tmp_path.iterdir())  # where it is looked for afterwards
        seen.append(Path(certfile).stat().st_mode & 0o777)
        original(self, certfile, *more)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    CloudCa().server_context(NAMES)
    assert seen == [0o600]
    assert list(tmp_path.iterdir()) == []
