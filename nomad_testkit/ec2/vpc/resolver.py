"""The VPC's DNS server: it knows the cloud's own names, and denies every other at once.

Hosts look names up at boot that must not exist (cloud-init does, to detect a resolver that redirects). An answer at
once, rather than none, is what keeps their boot short.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from dnslib import PTR, QTYPE, RCODE, RR, A, DNSLabel, DNSRecord
from dnslib.server import DNSHandler, DNSLogger, DNSServer

from nomad_testkit.ec2.machines.spec import InstanceView
from nomad_testkit.ec2.vpc.names import api_names, private_domain, public_domain
from nomad_testkit.errors import Ec2Error

log = logging.getLogger(__name__)

_METADATA_ADDRESS = "169.254.169.254"
_VPC_PREFIX = "172.31."
_TTL = 5  # an address can belong to another instance soon
_REVERSE = ".in-addr.arpa"
_IDLE = 10.0  # seconds that a TCP client may take to ask


class Resolver:
    """Answers DNS queries over UDP and TCP.

    `lookup` gives the live instance that has a private address.
    """

    def __init__(self, region: str, api_address: str, lookup: Callable[[str], InstanceView | None]) -> None:
        self._lookup = lookup
        self._private = private_domain(region)
        self._public = public_domain(region)
        self._fixed = dict.fromkeys(api_names(region), api_address)
        self._fixed[f"instance-data.{self._private}"] = _METADATA_ADDRESS
        self._bucket_suffixes = (f".s3.{region}.amazonaws.com", ".s3.amazonaws.com")
        self._api_address = api_address
        self._servers: list[DNSServer] = []
        self.ports: list[int] = []
        """The ports in use, one an address."""

    def serve(self, addresses: Iterable[str], port: int = 53) -> None:
        """Answer on these addresses, in threads; with port 0, on a free port for each. Raises Ec2Error."""
        for address in addresses:
            try:
                # TCP first: connections take its free ports all the time, while few programs take any of UDP.
                free = self._start(address, port, tcp=True)
                self._start(address, free, tcp=False)
                self.ports.append(free)
            except OSError as error:
                self.close()
                raise Ec2Error(f"the resolver cannot listen on {address} port {port}: {error}") from error

    def close(self) -> None:
        """Stop answering."""
        for server in self._servers:
            server.server.shutdown()
            server.server.server_close()
        self._servers.clear()
        self.ports.clear()

    def resolve(self, request: DNSRecord, handler: DNSHandler | None = None) -> DNSRecord:
        """Answer one query (the method that dnslib calls)."""
        reply = request.reply()
        try:
            self._fill(reply, request)
        except Exception:
            log.exception("no answer for %s", request.q.qname)
            reply.header.rcode = RCODE.SERVFAIL
        return reply

    def _fill(self, reply: DNSRecord, request: DNSRecord) -> None:
        name = str(request.q.qname).rstrip(".").lower()
        if name.endswith(_REVERSE):
            target = self._name_of(name)
            if target is None:
                reply.header.rcode = RCODE.NXDOMAIN
            elif request.q.qtype in (QTYPE.PTR, QTYPE.ANY):
                reply.add_answer(RR(request.q.qname, QTYPE.PTR, ttl=_TTL, rdata=PTR(DNSLabel(target))))
            return
        address = self._address_of(name)
        if address is None:
            reply.header.rcode = RCODE.NXDOMAIN
        elif request.q.qtype in (QTYPE.A, QTYPE.ANY):
            reply.add_answer(RR(request.q.qname, QTYPE.A, ttl=_TTL, rdata=A(address)))

    def _address_of(self, name: str) -> str | None:
        if fixed := self._fixed.get(name):
            return fixed
        if name.endswith(self._bucket_suffixes):
            return self._api_address
        label, _, domain = name.partition(".")
        if domain == self._private and label.startswith("ip-"):
            view = self._live(label.removeprefix("ip-").replace("-", "."))
            return view.private_ip if view else None
        if domain == self._public and label.startswith("ec2-"):
            # Inside a VPC, a public name of the VPC's own instances leads to the private address.
            view = self._live(_VPC_PREFIX + ".".join(label.split("-")[-2:]))
            return view.private_ip if view and view.public_hostname == name else None
        return None

    def _name_of(self, name: str) -> str | None:
        view = self._live(".".join(reversed(name.removesuffix(_REVERSE).split("."))))
        return view.hostname if view else None

    def _live(self, address: str) -> InstanceView | None:
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            return None
        return self._lookup(address)

    def _start(self, address: str, port: int, *, tcp: bool) -> int:
        server = DNSServer(self, address=address, port=port, tcp=tcp, handler=_Handler, logger=DNSLogger(logf=_ignore))
        server.server.handle_error = _note_error
        server.server.daemon_threads = True
        self._servers.append(server)
        threading.Thread(
            target=server.server.serve_forever, name=f"resolver {address} {'tcp' if tcp else 'udp'}", daemon=True
        ).start()
        bound: int = server.server.server_address[1]
        return bound


class _Handler(DNSHandler):  # type: ignore[misc]
    def setup(self) -> None:
        if not isinstance(self.request, tuple):
            self.request.settimeout(_IDLE)


def _ignore(_: str) -> None:
    pass


def _note_error(request: Any, client_address: Any) -> None:
    # Whatever a host sends, the resolver has to live on.
    log.debug("a query from %s could not be answered", client_address, exc_info=True)
