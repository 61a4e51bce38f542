"""A host from the command line: a shell on it, and what its agents and its boot have logged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import click

from nomad_testkit.cli.group import main
from nomad_testkit.cli.lookup import (
    NamedHost,
    chosen_host,
    chosen_run,
    complete_hosts,
    fate,
    name_option,
    named_hosts,
    opened_cluster,
    running_host,
)
from nomad_testkit.cli.numbers import Whole
from nomad_testkit.errors import TestkitError

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.cluster.host import Host
    from nomad_testkit.runs.run import Run

OPTIONS = (
    "-F", "none",  # what the user has configured for other hosts is not meant for these
    "-o", "IdentitiesOnly=yes",
    "-o", "StrictHostKeyChecking=no",  # the hosts were just made, and their addresses are used again
    "-o", "UserKnownHostsFile=/dev/null",
    "-o", "LogLevel=ERROR",
)  # fmt: skip
_UNITS: Mapping[str, str] = {"consul": "-u consul", "nomad": "-u nomad", "agents": "-u consul -u nomad"}
_USER_DATA = "/var/log/user-data.log"
_CONSOLE_PATIENCE = 10.0
"""Seconds between looks at whether the host still runs."""


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
    try:
        os.execvp(arguments[0], [*arguments, *command])  # noqa: S606 (the point of it)
    except OSError as error:
        raise TestkitError(f"ssh cannot be run: {error.strerror}; apt-get install openssh-client") from error


def ssh_arguments(host: Host, cluster: Cluster) -> list[str]:
    """Give the command that logs in to a host by the system's ssh."""
    port = [] if host.ssh.port == 22 else ["-p", str(host.ssh.port)]
    return ["ssh", *OPTIONS, "-i", str(cluster.key_path), *port, f"{cluster.ssh_user}@{host.address}"]


@main.command(short_help="Show what a host has logged.")
@click.argument("host", shell_complete=complete_hosts)
@click.argument("log", type=click.Choice(["agents", "consul", "nomad", "user-data", "console"]), default="agents")
@name_option
@click.option("-f", "--follow", is_flag=True, help="Go on showing what is logged, until Ctrl-C.")
@click.option("-n", "--lines", type=Whole(min=0), default=100, show_default=True, help="How many lines back.")
def logs(host: str, log: str, name: str | None, follow: bool, lines: int) -> None:
    """Show what HOST has logged: the journals of consul and nomad, of one of them, user-data, or the console.

    HOST is named as for ssh. The console comes from the EC2 API, so it is also that of a host which does not run.
    What looks like a secret is hidden.
    """
    run = chosen_run(name)
    with opened_cluster(run) as cluster:
        if log == "console":
            shown = _console(run, cluster, chosen_host(run, named_hosts(cluster), host), lines, follow=follow)
        else:
            shown = _logged(running_host(run, cluster, host), log, lines, follow=follow)
        for line in shown:
            click.echo(line)


def _logged(host: Host, log: str, lines: int, *, follow: bool) -> Iterator[str]:
    from nomad_testkit.deployment.evidence import mask

    if log == "user-data":
        program = f"tail -n {lines} {'-F ' if follow else ''}{_USER_DATA}"
    else:
        program = f"journalctl {_UNITS[log]} --no-pager -o short-iso -n {lines} {'-f' if follow else ''}".rstrip()
    if follow:
        for line in host.ssh.follow(program, sudo=True):
            yield mask(host.hide(line))
    else:
        yield from mask(host.hide(host.run(program, sudo=True).stdout)).splitlines()


def _console(run: Run, cluster: Cluster, one: NamedHost, lines: int, *, follow: bool) -> Iterator[str]:
    """Give the console's last lines, and those that come as long as the instance runs."""
    from nomad_testkit.cluster.discovery import instances
    from nomad_testkit.deployment.evidence import mask

    def hidden(text: str) -> str:
        secrets = cluster.secrets
        return mask(text if secrets is None else secrets.hide(text))

    text = cluster.target.console(one.instance)
    if not text and one.host is None:
        raise TestkitError(f"{one.name} of {run} {fate(cluster.target, one.instance)}; it has no console any more")
    yield from hidden(text).splitlines()[-lines or len(text) :]
    while follow:
        before, text = text, _grown(text, lambda: cluster.target.console(one.instance))
        yield from hidden(_added(before, text)).splitlines()
        states = {each.instance_id: each.state for each in instances(cluster.target.client, cluster.run_id)}
        follow = states.get(one.instance.instance_id) in ("pending", "running", "stopping")


def _grown(text: str, read: Callable[[], str]) -> str:
    """Wait some time until a text is another, of whole lines, and give it; or the same text again."""
    from nomad_testkit.errors import WaitTimeout
    from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

    def probe() -> Ok[str] | Pending:
        now = read()
        return Ok(now) if now != text and now.endswith("\n") else Pending("nothing new")

    try:
        return wait_until("more on the console", probe, deadline=Deadline.after(_CONSOLE_PATIENCE), interval=1.0)
    except WaitTimeout:
        return text


def _added(before: str, now: str) -> str:
    """Tell what is new in a text of which only the end is kept.

    >>> _added("a\\nb\\n", "b\\nc\\n")
    'c\\n'
    """
    for start in range(len(before)):
        if now.startswith(before[start:]):
            return now[len(before) - start :]
    return now
