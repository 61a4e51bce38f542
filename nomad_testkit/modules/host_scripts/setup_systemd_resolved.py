#!/usr/bin/env python3
"""Have systemd-resolved send the names of Consul to Consul, so that every program of this host resolves them.

For an image, or in user data, before or after Consul is there; may run again at any time:

    python3 setup_systemd_resolved.py
"""

from __future__ import annotations

import re
import sys

from host_commons import HostFault, Waiting, log, wait_until
from host_dns import RESOLV_CONF, dns_parser, require_package, systemctl
from host_systemd import Host, run_script, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

UNIT = "systemd-resolved.service"
STUB = "/run/systemd/resolve/stub-resolv.conf"
DROP_IN = "etc/systemd/resolved.conf.d/consul.conf"
ANCHOR = "etc/dnssec-trust-anchors.d/consul.negative"
PORT_SINCE = 246
START_SECONDS = 15.0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; a wrong value ends with usage and status 2."""
    return dns_parser("setup-systemd-resolved", "Send Consul's names to Consul by systemd-resolved.").parse_args(
        arguments
    )


def render(options: argparse.Namespace) -> str:
    """Write the drop-in for resolved.conf(5): a domain with ~ only routes, and is not searched."""
    address = f"[{options.consul_ip}]" if ":" in options.consul_ip else options.consul_ip
    server = options.consul_ip if options.consul_dns_port == 53 else f"{address}:{options.consul_dns_port}"
    return (
        "# Written by setup_systemd_resolved.\n"
        f"[Resolve]\nDNS={server}\nDomains=~{options.consul_domain}\nDNSStubListener=yes\n"
    )


def check_version(host: Host, options: argparse.Namespace) -> None:
    """Raise HostFault where this systemd cannot ask a DNS server at another port than 53."""
    _, said = host.run(["systemctl", "--version"])
    found = re.match(r"systemd (\d+)", said)
    if found is None:
        raise HostFault(f"`systemctl --version` says {said[:100]!r}, which is not systemd's version")
    if options.consul_dns_port != 53 and int(found[1]) < PORT_SINCE:
        raise HostFault(
            f"the systemd-resolved of this host is version {found[1]}, and only {PORT_SINCE} and newer ask a server at "
            f"another port than 53: have Consul answer on port 53 and give --consul-dns-port 53, or use install_dnsmasq"
        )


def require_link_servers(host: Host) -> None:
    """Raise HostFault where resolved has no other server than the one for Consul: it would be asked for every name."""

    def probe() -> None:
        status, said = host.run(["resolvectl", "dns"])
        if status != 0:
            raise Waiting(said)
        if not re.search(r"(?m)^Link \d+ \([^)]+\): \S", said):
            raise Waiting("no network link has a DNS server, so all names would be asked of Consul")

    wait_until("systemd-resolved to know the network's DNS servers", probe, START_SECONDS, clock=host.clock)


def setup(options: argparse.Namespace, host: Host, root: Path) -> None:
    """Do it; raises HostFault where something is not right, with the host's own resolution left as it was."""
    status, _ = host.run(["systemctl", "cat", UNIT])
    require_package(host, "systemd-resolved", present=status == 0)
    check_version(host, options)
    systemctl(host, "enable", "--now", UNIT)
    require_link_servers(host)
    for name, text in ((DROP_IN, render(options)), (ANCHOR, f"{options.consul_domain}\n")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(host, path, text, mode=0o644)
    systemctl(host, "restart", UNIT)
    require_link_servers(host)
    path = root / str(RESOLV_CONF).lstrip("/")
    # Also if resolved has kept it: its other file names the network's servers, and Consul is not one of them.
    fresh = path.with_name(f"{path.name}.new")
    if fresh.is_symlink():
        fresh.unlink()
    fresh.symlink_to(STUB)
    fresh.replace(path)
    log(f"names below {options.consul_domain} are asked of {options.consul_ip} port {options.consul_dns_port}")


def main(
    arguments: Sequence[str] | None = None, host: Host | None = None, root: Path = RESOLV_CONF.parent.parent
) -> int:
    """Run the script; gives its exit status."""
    options = parse(arguments)
    host = host or Host()
    return run_script(UNIT, host, lambda: setup(options, host, root))


if __name__ == "__main__":
    sys.exit(main())
