"""Variables that let other programs reach a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from nomad_testkit.cli.group import json_option, main, say_json
from nomad_testkit.cli.lookup import chosen_run, name_option, opened_cluster

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster

_AGENTS: Mapping[str, str] = {"nomad": "nomad_servers", "consul": "consul_servers"}


@main.command(short_help="Print variables that a shell evaluates.")
@name_option
@json_option
def env(name: str | None, as_json: bool) -> None:
    """Print what lets nomad, consul, aws and other programs talk to the cluster: eval "$(nomad-testkit env)".

    It is for sh, bash and zsh. Variables of the shell's that would lead to another cluster or account are unset.
    Tokens stand in files, which only their owner can read, and are not printed: --json names the file.
    """
    from nomad_testkit.cluster.shell_environment import shell_environment

    run = chosen_run(name)
    with opened_cluster(run) as cluster:
        servers = leading_servers(cluster)
        found = shell_environment(cluster.describe(), region=cluster.target.region, servers=servers)
    if as_json:
        say_json({"run_id": run.run_id, **found.describe()})
    else:
        click.echo(str(found))


def leading_servers(cluster: Cluster) -> dict[str, str]:
    """Give the URL of a server of each agent: of the leader, else of the first that runs."""
    cluster.refresh()
    return {agent: getattr(cluster, agent).address for agent, role in _AGENTS.items() if getattr(cluster, role)}
