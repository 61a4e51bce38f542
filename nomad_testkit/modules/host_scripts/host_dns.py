"""What install_dnsmasq and setup_systemd_resolved share: sending the names of Consul to Consul, and no others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from host_commons import HostFault, log
from host_options import ip_address, matching, new_parser, whole_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from host_systemd import Host

RESOLV_CONF = Path("/etc/resolv.conf")
INSTALL_SECONDS = 600.0
DEBIAN_INSTALL = ("apt-get", "install", "-y", "-q", "-o", "DPkg::Lock::Timeout=120")


def dns_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Make the parser with the options that both scripts have."""
    made = new_parser(prog, description)
    add = made.add_argument
    label = "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
    domain = matching(rf"{label}(\.{label})*", "a domain such as consul")
    add("--consul-domain", type=domain, default="consul", metavar="NAME", help="Consul's domain (default: consul)")
    add("--consul-ip", type=ip_address, default="127.0.0.1", metavar="IP", help="Consul's address (default: 127.0.0.1)")
    port = whole_number(1, 65535)
    add("--consul-dns-port", type=port, default=8600, metavar="PORT", help="Consul's DNS port (default: 8600)")
    return made


def led_by_resolved(resolv_conf: Path) -> bool:
    """Tell whether it is systemd-resolved that keeps /etc/resolv.conf."""
    return "/run/systemd/resolve/" in os.path.realpath(resolv_conf)


def require_package(host: Host, package: str, *, present: bool) -> None:
    """Install a package with the host's own package manager, unless what it brings is there; raises HostFault."""
    if present:
        return
    manager = next((name for name in ("apt-get", "dnf", "yum") if shutil.which(name)), None)
    if manager is None:
        raise HostFault(f"{package} is not on this host, which has none of apt-get, dnf and yum: install it yourself")
    if manager == "apt-get":
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        commands = [["apt-get", "update", "-q"], [*DEBIAN_INSTALL, package]]
    else:
        commands = [[manager, "install", "-y", "-q", package]]
    log(f"installing {package}")
    for command in commands:
        status, said = host.run(command, seconds=INSTALL_SECONDS)
        if status != 0:
            raise HostFault(f"{package} cannot be installed: `{' '.join(command)}` says:\n{said[-2000:]}")


def systemctl(host: Host, *arguments: str) -> None:
    """Run systemctl; raises HostFault with what it says."""
    status, said = host.run(["systemctl", *arguments], seconds=90.0)
    if status != 0:
        raise HostFault(f"`systemctl {' '.join(arguments)}` fails: {said}")
