"""Files copied to hosts and from them, by the system's scp."""

from __future__ import annotations

import re

import click

from nomad_testkit.cli.group import main
from nomad_testkit.cli.lookup import chosen_run, name_option, opened_cluster, running_host
from nomad_testkit.cli.ssh import OPTIONS, become
from nomad_testkit.errors import UsageError

_ON_HOST = re.compile(r"(?P<host>[\w.-]+):(?P<path>.*)", re.DOTALL)


@main.command(short_help="Copy files to a host or from it.")
@click.argument("paths", metavar="SOURCE... TARGET", nargs=-1, required=True)
@name_option
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def cp(paths: tuple[str, ...], name: str | None, quiet: bool) -> None:
    """Copy each SOURCE, a file or a folder, to TARGET; HOST:PATH is on a host.

    \b
    nomad-testkit cp servers-0:/opt/consul/config .
    nomad-testkit cp app.tar.gz clients-0:/tmp/

    HOST is named as for ssh. It becomes the system's scp, with the run's key, and its user's rights on the host: what
    only root can read is copied by `nomad-testkit exec --sudo HOST cat FILE`. Both ends may be hosts.
    """
    if len(paths) < 2:
        raise UsageError(f"found {paths[0]} alone, expected SOURCE... TARGET, such as servers-0:/etc/hosts .")
    if not any(_ON_HOST.fullmatch(path) for path in paths):
        raise UsageError(f"found no host in {' '.join(paths)}, expected HOST:PATH on one side, such as servers-0:/tmp/")
    run = chosen_run(name)
    with opened_cluster(run) as cluster:
        found: dict[str, str] = {}
        ports = {22}
        for path in paths:
            if (match := _ON_HOST.fullmatch(path)) and match["host"] not in found:
                host = running_host(run, cluster, match["host"])
                found[match["host"]] = f"{cluster.ssh_user}@{host.address}"
                ports |= {host.ssh.port}
        words = [
            f"{found[match['host']]}:{match['path']}" if (match := _ON_HOST.fullmatch(path)) else path for path in paths
        ]
        port = ["-P", str(max(ports - {22}))] if ports - {22} else []
        between = ["-3"] if len(found) > 1 else []
        arguments = ["scp", "-r", *(["-q"] if quiet else []), *between, *OPTIONS, "-i", str(cluster.key_path), *port]
    become([*arguments, "--", *words])
