"""A program on a host, with its arguments as they are given here."""

from __future__ import annotations

import shlex
import sys

import click

from nomad_testkit.cli.group import main
from nomad_testkit.cli.lookup import chosen_run, complete_hosts, name_option, opened_cluster, running_host
from nomad_testkit.cli.ssh import become, ssh_arguments


@main.command("exec", context_settings={"allow_interspersed_args": False}, short_help="Run a program on a host.")
@name_option
@click.option("--sudo", is_flag=True, help="Run it with root's rights.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal, as for a program that draws on it.")
@click.argument("host", shell_complete=complete_hosts)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str | None, sudo: bool, tty: bool, host: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on HOST and end with its status; what comes in here it reads.

    \b
    nomad-testkit exec servers-0 consul kv put greeting 'hello  world'
    nomad-testkit exec --sudo clients-0 -- journalctl -u nomad

    Every word of COMMAND is one argument there, whatever is in it; `ssh` has a shell of the host read them. HOST is
    named as for ssh, and options come before it.
    """
    words = command[1:] if command[0] == "--" and len(command) > 1 else command
    run = chosen_run(name)
    with opened_cluster(run) as cluster:
        chosen = running_host(run, cluster, host)
        arguments = ssh_arguments(chosen, cluster)
        root = ["sudo", "-n", "--"] if sudo and cluster.ssh_user != "root" else []
    terminal = ["-t"] if tty and sys.stdin.isatty() else []
    become([arguments[0], *terminal, *arguments[1:], "--", shlex.join([*root, *words])])
