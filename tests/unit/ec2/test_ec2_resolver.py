"""The VPC's resolver, asked over UDP and TCP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from dnslib import RCODE, DNSRecord

from nomad_testkit.ec2.machines.spec import InstanceView
from nomad_testkit.ec2.vpc.resolver import Resolver
from nomad_testkit.errors import Ec2Error

API = "172.31.255.1"
LIVE = "172.31.16.5"


def instance(private_ip: str) -> InstanceView | None:
    if private_ip != LIVE:
        return None
    names = {"hostname": "ip-172-31-16-5.ec2.internal", "public_hostname": "ec2-127-31-16-5.compute-1.amazonaws.com"}
    return cast(InstanceView, SimpleNamespace(private_ip=private_ip, **names))


@pytest.fixture(scope="module")
def resolver() -> Iterator[Resolver]:
    resolver = Resolver("us-east-1", API, instance)
    resolver.serve(["127.0.0.1"], 0)
    yield resolver
    resolver.close()


def ask(resolver: Resolver, name: str, kind: str = "A", *, tcp: bool = False) -> tuple[str, list[str]]:
    packet = DNSRecord.question(name, kind).send("127.0.0.1", resolver.ports[0], tcp=tcp, timeout=10)
    answer: Any = DNSRecord.parse(packet)
    return RCODE[answer.header.rcode], [str(record.rdata) for record in answer.rr]


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("ec2.us-east-1.amazonaws.com", API),
        ("autoscaling.us-east-1.amazonaws.com", API),
        ("sts.us-east-1.amazonaws.com", API),
        ("STS.amazonaws.com", API),
        ("iam.amazonaws.com", API),
        ("bucket.s3.us-east-1.amazonaws.com", API),
        ("ip-172-31-16-5.ec2.internal", LIVE),
        ("ec2-127-31-16-5.compute-1.amazonaws.com", LIVE),
        ("instance-data.ec2.internal", "169.254.169.254"),
    ],
)
@pytest.mark.parametrize("tcp", [False, True])
def test_known_names(resolver: Resolver, name: str, address: str, tcp: bool) -> None:
    assert ask(resolver, name, tcp=tcp) == ("NOERROR", [address])


@pytest.mark.parametrize(
    "name",
    [
        "ec2.eu-west-1.amazonaws.com",
        "sqs.us-east-1.amazonaws.com",
        "ip-172-31-16-6.ec2.internal",
        "ip-172-31-16.ec2.internal",
        "ip-300-1-1-1.ec2.internal",
        "ec2-127-32-16-5.compute-1.amazonaws.com",
        "does-not-exist.example.com.",
        "example.invalid.",
        "localdomain",
        "amazonaws.com",
    ],
)
def test_every_other_name_does_not_exist(resolver: Resolver, name: str) -> None:
    assert ask(resolver, name) == ("NXDOMAIN", [])


def test_other_types_of_known_names_are_empty(resolver: Resolver) -> None:
    assert ask(resolver, "ec2.us-east-1.amazonaws.com", "AAAA") == ("NOERROR", [])
    assert ask(resolver, "ip-172-31-16-5.ec2.internal", "MX") == ("NOERROR", [])
    assert ask(resolver, "example.com", "AAAA") == ("NXDOMAIN", [])


def test_addresses_have_names(resolver: Resolver) -> None:
    assert ask(resolver, "5.16.31.172.in-addr.arpa", "PTR") == ("NOERROR", ["ip-172-31-16-5.ec2.internal."])
    assert ask(resolver, "6.16.31.172.in-addr.arpa", "PTR") == ("NXDOMAIN", [])
    assert ask(resolver, "x.arpa.in-addr.arpa", "PTR") == ("NXDOMAIN", [])


def test_other_regions_have_other_names() -> None:
    resolver = Resolver("eu-west-1", API, instance)

    def answers(name: str) -> list[str]:
        reply: Any = resolver.resolve(DNSRecord.question(name))
        return [str(record.rdata) for record in reply.rr]

    assert answers("ec2.eu-west-1.amazonaws.com") == [API]
    assert answers("instance-data.eu-west-1.compute.internal") == ["169.254.169.254"]
    assert answers("ip-172-31-16-5.eu-west-1.compute.internal") == [LIVE]
    assert answers("ip-172-31-16-5.ec2.internal") == []


@pytest.mark.parametrize("packet", [b"", b"\0", b"\xff" * 12, b"\0" * 40, b"\xc0\x0c" * 300, bytes(range(256))])
def test_malformed_packets_end_nothing(resolver: Resolver, packet: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(packet, ("127.0.0.1", resolver.ports[0]))
    for stream in (packet, b"\xff\xff" + packet, len(packet).to_bytes(2, "big") + packet):
        with socket.create_connection(("127.0.0.1", resolver.ports[0]), timeout=10) as tcp:
            tcp.sendall(stream)
    for tcp_too in (False, True):
        assert ask(resolver, "iam.amazonaws.com", tcp=tcp_too) == ("NOERROR", [API])
    assert capfd.readouterr() == ("", "")


def test_a_fault_in_the_lookup_is_said_at_once() -> None:
    def fail(_: str) -> None:
        raise RuntimeError("a fault")

    resolver = Resolver("us-east-1", API, fail)
    resolver.serve(["127.0.0.1"], 0)
    try:
        packet = DNSRecord.question("ip-172-31-16-5.ec2.internal").send("127.0.0.1", resolver.ports[0], timeout=10)
        assert RCODE[DNSRecord.parse(packet).header.rcode] == "SERVFAIL"
        assert ask(resolver, "iam.amazonaws.com") == ("NOERROR", [API])
    finally:
        resolver.close()


def test_a_taken_port_is_named(resolver: Resolver) -> None:
    other = Resolver("us-east-1", API, instance)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(Ec2Error, match=f"127.0.0.1 port {port}"):
            other.serve(["127.0.0.1"], port)


def test_types_that_dnslib_does_not_know(resolver: Resolver) -> None:
    question = DNSRecord.question("iam.amazonaws.com")
    question.q.qtype = 65280
    packet = question.send("127.0.0.1", resolver.ports[0], timeout=10)
    assert DNSRecord.parse(packet).rr == []
