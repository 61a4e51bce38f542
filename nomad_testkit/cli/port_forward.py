"""Ports of this machine that lead to those of a host, and of what the host reaches."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import click

from nomad_testkit.cli.group import main, say
from nomad_testkit.cli.lookup import chosen_run, complete_hosts, name_option, opened_cluster, running_host
from nomad_testkit.cli.ssh import become, ssh_arguments


class Forward(NamedTuple):
    """A port of this machine, and the address and port that the host is to connect it with."""

    local: int
    address: str
    remote: int

    def __str__(self) -> str:
        return f"127.0.0.1:{self.local}:{self.address}:{self.remote}"


class _Forward(click.ParamType):  # type: ignore[type-arg]
    """Reads PORT, LOCAL:PORT and LOCAL:ADDRESS:PORT."""

    name = "port"
    _SHAPE = re.compile(r"(?:(?P<local>\d+):)?(?:(?P<address>[\w.-]+):)?(?P<remote>\d+)", re.ASCII)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Forward:
        if isinstance(value, Forward):
            return value
        found = self._SHAPE.fullmatch(str(value))
        ports = [int(port) for port in (found["local"] or found["remote"], found["remote"])] if found else []
        if found is None or not all(0 < port < 65536 for port in ports):
            self.fail(
                f"found {value!r}, expected PORT, LOCAL:PORT or LOCAL:ADDRESS:PORT, such as 8080:4646", param, ctx
            )
        return Forward(ports[0], found["address"] or "localhost", ports[1])


@main.command("port-forward", short_help="Lead ports of this machine to a host.")
@click.argument("host", shell_complete=complete_hosts)
@click.argument("ports", metavar="[LOCAL:]PORT...", nargs=-1, required=True, type=_Forward())
@name_option
def port_forward(host: str, ports: tuple[Forward, ...], name: str | None) -> None:
    """Let PORT of HOST answer at 127.0.0.1:LOCAL here, until Ctrl-C.

    \b
    nomad-testkit port-forward servers-0 4646 8080:8500
    nomad-testkit port-forward clients-0 5432:172.31.0.9:5432      what clients-0 reaches

    Only this machine reaches it. It goes through SSH, so no rule of a security group needs to open the port. A port
    that is in use here, or not to be had, ends it with an error. HOST is named as for ssh.
    """
    run = chosen_run(name)
    with opened_cluster(run) as cluster:
        chosen = running_host(run, cluster, host)
        arguments = ssh_arguments(chosen, cluster)
    how = ["-N", "-o", "ExitOnForwardFailure=yes"]
    for one in ports:
        how += ["-L", str(one)]
        at = host if one.address == "localhost" else f"{one.address} from {host}"
        say(f"127.0.0.1:{one.local} leads to port {one.remote} of {at}; Ctrl-C ends it")
    become([arguments[0], *how, *arguments[1:]])
