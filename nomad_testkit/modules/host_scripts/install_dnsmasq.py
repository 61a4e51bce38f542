#!/usr/bin/env python3
"""Install dnsmasq, and have it send the names of Consul to Consul, so that every program of this host resolves them.

For hosts without systemd-resolved: an image, or user data, before or after Consul is there; may run again at any time:

    python3 install_dnsmasq.py
"""

from __future__ import annotations

import sys

from host_commons import HostFault, log
from host_dns import RESOLV_CONF, dns_parser, led_by_resolved, require_package, systemctl
from host_options import dns_server, ip_address
from host_systemd import Host, run_script, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

UNIT = "dnsmasq.service"
VPC_RESOLVER = "169.254.169.253"
"""Where every VPC has its DNS server (https://docs.aws.amazon.com/vpc/latest/userguide/AmazonDNS-concepts.html)."""
CONFIG = "etc/dnsmasq.d/10-consul"
DROP_IN = "etc/systemd/system/dnsmasq.service.d/consul.conf"
DHCLIENT = "etc/dhcp/dhclient.conf"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; a wrong value ends with usage and status 2."""
    made = dns_parser("install-dnsmasq", "Install dnsmasq, which sends Consul's names to Consul.")
    made.add_argument(
        "--dnsmasq-listen-address",
        type=ip_address,
        default="127.0.0.1",
        metavar="IP",
        help="where dnsmasq answers (default: 127.0.0.1)",
    )
    own = made.add_argument_group("not among upstream's options")
    own.add_argument(
        "--dns-server",
        type=dns_server,
        action="append",
        metavar="IP",
        help=f"who is asked for all other names; repeatable (default: {VPC_RESOLVER}, every VPC's own)",
    )
    return made.parse_args(arguments)


def render(options: argparse.Namespace) -> str:
    """Write dnsmasq's configuration (dnsmasq(8))."""
    others = options.dns_server or [VPC_RESOLVER]
    lines = [
        "# Written by install_dnsmasq.",
        f"server=/{options.consul_domain}/{options.consul_ip}#{options.consul_dns_port}",
        "no-resolv",
        *(f"server={_with_port(server)}" for server in others),
        f"listen-address={options.dnsmasq_listen_address}",
        "bind-interfaces",
    ]
    return "\n".join(lines) + "\n"


def render_drop_in(address: str) -> str:
    """Have dnsmasq's unit put it before the other servers, which a DHCP client may have written at the boot."""
    line = f"nameserver {address}"
    command = f"grep -qxF '{line}' {RESOLV_CONF} || sed -i '1i {line}' {RESOLV_CONF}"
    return (
        "# Written by install_dnsmasq.\n"
        "[Unit]\nAfter=network-online.target\nWants=network-online.target\n\n"
        f'[Service]\nExecStartPost=/bin/sh -c "{command}"\n'
    )


def tell_dhclient(path: Path, address: str, host: Host) -> None:
    """Have dhclient name dnsmasq first whenever it writes /etc/resolv.conf anew."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    line = f"prepend domain-name-servers {address};"
    if line not in text.splitlines():
        write_file(host, path, f"{text.rstrip()}\n{line}\n", mode=0o644)


def install(options: argparse.Namespace, host: Host, root: Path) -> None:
    """Do it; raises HostFault where something is not right."""
    if led_by_resolved(root / str(RESOLV_CONF).lstrip("/")):
        raise HostFault(
            f"systemd-resolved keeps {RESOLV_CONF} on this host: use setup_systemd_resolved, which needs no dnsmasq"
        )
    status, _ = host.run(["systemctl", "cat", UNIT])
    require_package(host, "dnsmasq", present=status == 0)
    address = options.dnsmasq_listen_address
    for name, text in ((CONFIG, render(options)), (DROP_IN, render_drop_in(address))):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(host, path, text, mode=0o644)
    status, said = host.run(["dnsmasq", "--test"])
    if status != 0:
        raise HostFault(f"dnsmasq refuses its configuration: {said}")
    tell_dhclient(root / DHCLIENT, address, host)
    systemctl(host, "daemon-reload")
    systemctl(host, "enable", UNIT)
    systemctl(host, "restart", UNIT)
    log(f"names below {options.consul_domain} are asked of {options.consul_ip} port {options.consul_dns_port}")


def main(
    arguments: Sequence[str] | None = None, host: Host | None = None, root: Path = RESOLV_CONF.parent.parent
) -> int:
    """Run the script; gives its exit status."""
    options = parse(arguments)
    host = host or Host()
    return run_script(UNIT, host, lambda: install(options, host, root))


def _with_port(server: str) -> str:
    # dnsmasq writes a port after #.
    host, colon, port = server.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        return server
    return f"{host.strip('[]')}#{port}"


if __name__ == "__main__":
    sys.exit(main())
