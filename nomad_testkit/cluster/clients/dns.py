"""Questions to a DNS server of our choice, such as a Consul agent: this machine's resolver has no part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import dnslib

from nomad_testkit.errors import AgentApiError

DNS_TIMEOUT = 3.0


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """What a DNS server answered: the code, such as NOERROR or NXDOMAIN, and the values of the right type."""

    code: str
    values: tuple[str, ...]
    """Addresses for A; ``port target`` for SRV."""


def ask(
    address: str,
    port: int,
    name: str,
    kind: Literal["A", "SRV"] = "A",
    *,
    tcp: bool = False,
    timeout: float = DNS_TIMEOUT,
) -> DnsAnswer:
    """Ask the server at `address` and `port`; over TCP the answer is never cut short.

    Raises AgentApiError when nothing, or no DNS message, comes back.

    >>> ask("127.31.16.5", 8600, "consul.service.consul")  # doctest: +SKIP
    DnsAnswer(code='NOERROR', values=('172.31.16.5', '172.31.32.5', '172.31.48.5'))
    """
    question = dnslib.DNSRecord.question(name, kind)
    where = f"dns://{address}:{port}/{name}"
    try:
        record = dnslib.DNSRecord.parse(question.send(address, port, tcp=tcp, timeout=timeout))
    except TimeoutError as error:
        raise AgentApiError("DNS", where, None, f"no answer within {timeout:.0f} s") from error
    except (OSError, dnslib.DNSError) as error:
        raise AgentApiError("DNS", where, None, str(error) or type(error).__name__) from error
    if record.header.id != question.header.id:
        raise AgentApiError("DNS", where, None, "the answer is to another question")
    values = [_value(entry) for entry in record.rr if dnslib.QTYPE[entry.rtype] == kind]
    return DnsAnswer(str(dnslib.RCODE[record.header.rcode]), tuple(sorted(values)))


def _value(entry: dnslib.RR) -> str:
    if dnslib.QTYPE[entry.rtype] == "SRV":
        return f"{entry.rdata.port} {str(entry.rdata.target).rstrip('.')}"
    return str(entry.rdata)
