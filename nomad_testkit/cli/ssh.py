"""A shell on a host, or a command there, by the system's ssh."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from nomad_testkit.cli.group import main
from nomad_testkit.cli.lookup import chosen_run, complete_hosts, name_option, opened_cluster, running_host
from nomad_testkit.errors import TestkitError

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.cluster.host import Host

OPTIONS = (
    "-F", "none",  # what the user has configured for other hosts is not meant for these
    "-o", "IdentitiesOnly=yes",
    "-o", "StrictHostKeyChecking=no",  # the hosts were just made, and their addresses are used again
    "-o", "UserKnownHostsFile=/dev/null",
    "-o", "LogLevel=ERROR",
)  # fmt: skip


@main.command(
    context_settings={"allow_interspersed_args": False}, short_help="Log in to a host, or run a command there."
)
@name_option
@click.argument("host", shell_complete=complete_hosts)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str | None, host: str, command: tuple[str, ...]) -> None:
    """Log in to HOST, or run COMMAND there and end with its status.

    HOST is a name that `status` shows, such as servers-0, an instance id or an address. Options of this command come
    before HOST. It becomes the system's ssh, with the run's key; the words of COMMAND are given to the shell on the
    host, as ssh does it.
    """
    run = chosen_run(name)
    with opened_cluster(run) as cluster:
        arguments = ssh_arguments(running_host(run, cluster, host), cluster)
    become([*arguments, *command])


def ssh_arguments(host: Host, cluster: Cluster) -> list[str]:
    """Give the command that logs in to a host by the system's ssh."""
    port = [] if host.ssh.port == 22 else ["-p", str(host.ssh.port)]
    return ["ssh", *OPTIONS, "-i", str(cluster.key_path), *port, f"{cluster.ssh_user}@{host.address}"]


def become(arguments: Sequence[str]) -> NoReturn:
    """Let this process become another program. Raises TestkitError where it cannot."""
    try:
        os.execvp(arguments[0], list(arguments))  # noqa: S606 (the point of it)
    except OSError as error:
        raise TestkitError(f"{arguments[0]} cannot be run: {error.strerror}; apt-get install openssh-client") from error
