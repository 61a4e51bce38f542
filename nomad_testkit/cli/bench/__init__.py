"""Measure how long things take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import click

from nomad_testkit.cli.group import main, say
from nomad_testkit.cli.numbers import Whole
from nomad_testkit.errors import SettingsError
from nomad_testkit.settings import Settings

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster

DEFAULT_EXAMPLE = "nomad-consul-colocated-cluster"


@main.group()
def bench() -> None:
    """Measure how long things take."""


@bench.command("deploy")
@click.option("--runs", type=Whole(min=1), default=3, show_default=True, help="How often to deploy.")
@click.option(
    "--example", metavar="FOLDER", help=f"An example's folder, or a bundled one's name (default: {DEFAULT_EXAMPLE})."
)
def bench_deploy(runs: int, example: str | None) -> None:
    """Deploy and destroy an example, and show how long each phase takes, beside the agents without hosts.

    The settings come from the environment, such as NOMAD_TESTKIT_TIMEOUT and NOMAD_TESTKIT_CLIENTS.
    """
    from nomad_testkit.cli.bench.deploy import TEARDOWN, run_bench
    from nomad_testkit.deployment.lifecycle import deployed
    from nomad_testkit.examples.example import Example
    from nomad_testkit.examples.settings import changed, chosen_example
    from nomad_testkit.targets.embedded.target import EmbeddedTarget, agents_of

    settings = Settings.load(environ=os.environ)
    wanted = changed(Example.load(example), settings) if example else chosen_example(settings, DEFAULT_EXAMPLE)
    if settings.keep:
        raise SettingsError(f"{settings.source('keep')}: a benchmark keeps nothing; unset it")
    with EmbeddedTarget.open(settings, progress=say) as target:

        def deploy_once(use: Callable[[Cluster], None]) -> Mapping[str, float]:
            with deployed(settings, wanted, target=target, progress=say) as cluster:
                use(cluster)
                timings, used = dict(cluster.timings), time.monotonic()
            return {**timings, TEARDOWN: time.monotonic() - used}

        figures = run_bench(
            runs,
            deploy_once=deploy_once,
            memory_bytes=lambda _: target.memory_bytes(),
            cpu_by_owner=target.cpu_by_owner,
            agents={agent.name: str(agent.path) for agent in agents_of(settings, progress=say)},
            progress=say,
        )
    click.echo(figures)


@bench.command("soak")
@click.option("--runs", type=Whole(min=1), default=200, show_default=True, help="How many deployments to kill.")
@click.option("--seed", type=Whole(), default=1, show_default=True, help="Chooses the moments.")
def bench_soak(runs: int, seed: int) -> None:
    """Deploy one server over and over, kill each deployment at a random moment, and prove that nothing is left.

    Nothing else of nomad_testkit may run on this machine meanwhile.
    """
    from nomad_testkit.cli.bench.soak import run_soak

    click.echo(run_soak(runs, seed=seed, progress=say))
