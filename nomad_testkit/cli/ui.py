"""The addresses of a cluster's web pages."""

from __future__ import annotations

import getpass
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from nomad_testkit.cli.env import leading_servers
from nomad_testkit.cli.group import json_option, main, say_json
from nomad_testkit.cli.lookup import chosen_run, name_option, opened_cluster

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.runs.run import Run


@main.command(short_help="Show the addresses of the web pages.")
@name_option
@json_option
def ui(name: str | None, as_json: bool) -> None:
    """Show the addresses of Nomad's and Consul's web pages, and how to reach them from a desk by ssh."""
    run = chosen_run(name)
    with opened_cluster(run) as cluster:
        told = _ui(run, cluster)
    if as_json:
        say_json(told)
        return
    lines = [f"{agent.capitalize():7}{url}" for agent, url in told["urls"].items()]
    lines += ["", "From a desk, through this machine:", f"  {told['ssh']}"]
    lines += [f"  {agent.capitalize():7}{url}" for agent, url in told["desk_urls"].items()]
    if told["ca"]:
        lines += ["", f"The pages are of this CA:        {told['ca']}"]
        lines += [f"They may ask for a certificate:  {told['client_certificate']}"]
    lines += [f"{agent.capitalize()} lets in who has the token in {path}" for agent, path in told["tokens"].items()]
    click.echo("\n".join(lines))


def _ui(run: Run, cluster: Cluster) -> dict[str, Any]:
    from nomad_testkit.cluster.secrets import CONSUL_MANAGEMENT, KIT_CERT, NOMAD_MANAGEMENT

    servers = leading_servers(cluster)
    parts = {agent: urlsplit(url) for agent, url in servers.items()}
    forwards = " ".join(f"-L {url.port}:{url.hostname}:{url.port}" for url in parts.values())
    secrets = cluster.secrets
    tokens = {"nomad": NOMAD_MANAGEMENT, "consul": CONSUL_MANAGEMENT}
    has_tls = secrets is not None and secrets.access.ca_path is not None
    return {
        "run_id": run.run_id,
        "urls": {agent: f"{url}/ui" for agent, url in servers.items()},
        "ssh": f"ssh -N {forwards} {getpass.getuser()}@{socket.gethostname()}",
        "desk_urls": {agent: f"{url.scheme}://localhost:{url.port}/ui" for agent, url in parts.items()},
        "ca": str(secrets.access.ca_path) if secrets is not None and has_tls else None,
        "client_certificate": str(secrets.folder / KIT_CERT) if secrets is not None and has_tls else None,
        "tokens": {
            agent: str(secrets.folder / file)
            for agent, file in tokens.items()
            if secrets is not None and file in secrets.values
        },
    }
