"""Run checks against a cluster that is up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from nomad_testkit.cli.group import FAILED, json_option, main
from nomad_testkit.cli.lookup import chosen_run, name_option, opened_cluster
from nomad_testkit.cli.numbers import Seconds
from nomad_testkit.cli.watching import show, watch_option
from nomad_testkit.errors import UsageError, WaitTimeout, near_miss

if TYPE_CHECKING:
    from nomad_testkit.checks import Check, Verdict
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.examples.example import Sizes
    from nomad_testkit.runs.run import Run


def _make(name: str, *arguments: Any) -> Check[Any]:
    from nomad_testkit import checks

    made: Check[Any] = getattr(checks, name)(*arguments)
    return made


CHECKS: Mapping[str, Callable[[Sizes], Check[Any]]] = {
    "leader": lambda sizes: _make("Leader"),
    "not-split": lambda sizes: _make("NotSplit"),
    "consul-raft-peers": lambda sizes: _make("RaftPeers", sizes.consul_servers, ("consul",)),
    "nomad-raft-peers": lambda sizes: _make("RaftPeers", sizes.nomad_servers, ("nomad",)),
    "bootstrap-expect-agrees": lambda sizes: _make("BootstrapExpectAgrees"),
    "autopilot-healthy": lambda sizes: _make("AutopilotHealthy"),
    "healthy-servers": lambda sizes: _make("HealthyServers"),
    "no-failed-members": lambda sizes: _make("NoFailedMembers"),
    "consul-agents": lambda sizes: _make("ConsulAgents"),
    "nodes-ready": lambda sizes: _make("NodesReady", sizes.nomad_clients),
    "consul-registered": lambda sizes: _make("Registered", "consul", sizes.consul_servers),
    "nomad-registered": lambda sizes: _make("Registered", "nomad", sizes.nomad_servers),
    "nomad-client-registered": lambda sizes: _make("Registered", "nomad-client", sizes.nomad_clients),
    "advertised-addresses": lambda sizes: _make("AdvertisedAddresses"),
    "units-active": lambda sizes: _make("UnitsActive"),
}
"""What a cluster of any topology has to pass; the sizes are those that it was deployed with."""


CAUSES_FIRST = (
    "units-active",
    "not-split",
    "bootstrap-expect-agrees",
    "leader",
    "consul-raft-peers",
    "nomad-raft-peers",
    "consul-agents",
    "nodes-ready",
)
"""What explains others when it fails comes before them; the rest follows."""


@dataclass(frozen=True)
class Judged:
    """A check and what it said last."""

    name: str
    check: Check[Any]
    verdict: Verdict

    @property
    def word(self) -> str:
        """``ok``, ``pending`` for what may still come, or ``broken``."""
        return type(self.verdict).__name__.lower()

    @property
    def seen(self) -> str:
        """What was seen."""
        from nomad_testkit.wait import Broken, Ok

        if isinstance(self.verdict, Ok):
            return self.verdict.value
        return self.verdict.reason if isinstance(self.verdict, Broken) else self.verdict.seen


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in CHECKS if name.startswith(incomplete)]


@main.command(short_help="Check the cluster: what is wanted and seen.")
@click.argument("checks", metavar="[CHECK]...", nargs=-1, shell_complete=_complete)
@name_option
@click.option(
    "--within",
    type=Seconds(),
    metavar="SECONDS",
    default=15.0,
    show_default=True,
    help="How long to wait until all hold at the same time; 0 looks once.",
)
@click.option("--list", "as_list", is_flag=True, help="Only list the checks that there are.")
@watch_option
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    checks: Sequence[str],
    name: str | None,
    within: float,
    as_list: bool,
    watch: bool,
    as_json: bool,
) -> None:
    """Check the cluster, and print for each CHECK what was wanted and what was seen; without any, all of them.

    A summary comes first, then what fails, what causes the rest before what follows from it: a unit that is down
    explains the connections that are refused. Faults that a killed process left are undone and named. The exit code is
    1 when a check does not hold, or such a fault cannot be undone.
    """
    if unknown := [one for one in checks if one not in CHECKS]:
        raise UsageError(f"there is no check {unknown[0]!r}; {near_miss(unknown[0], CHECKS)}")
    if as_list:
        click.echo(json.dumps({"checks": list(CHECKS)}, indent=2) if as_json else "\n".join(CHECKS))
        return
    run = chosen_run(name)
    with opened_cluster(run) as cluster:
        if show(lambda: _look(run, cluster, checks, 0.0 if watch else within, as_json=as_json), watch=watch):
            ctx.exit(FAILED)


def _look(run: Run, cluster: Cluster, names: Sequence[str], within: float, *, as_json: bool) -> tuple[str, bool]:
    """Check once, and give what is to be shown and whether something fails."""
    from nomad_testkit.cluster.check import explained
    from nomad_testkit.faults.left import undo_left

    faults = undo_left(cluster)
    judged = in_order(judge(cluster, names or tuple(CHECKS), within))
    holds = all(one.word == "ok" for one in judged) and not any(one.state == "left" for one in faults)
    if as_json:
        rows = [{"name": one.name, "verdict": one.word, "wanted": one.check.wanted, "seen": one.seen} for one in judged]
        told = {"run_id": run.run_id, "holds": holds, "checks": rows, "faults": [one.describe() for one in faults]}
        return json.dumps(told, indent=2), not holds
    why = "" if holds else explained(cluster).lstrip("\n")
    return "\n".join([summary(judged), *map(str, faults), *map(_text, judged), *([why] if why else [])]), not holds


def summary(judged: Sequence[Judged]) -> str:
    """Say in one line how many checks hold, and what the first that does not says."""
    from nomad_testkit.cluster.check import brief

    failed = [one for one in judged if one.word != "ok"]
    if not failed:
        return click.style(f"all {len(judged)} checks hold", fg="green", bold=True)
    cause = brief(failed[0].seen)
    return click.style(f"{len(failed)} of {len(judged)} checks fail; {failed[0].name}: {cause}", fg="red", bold=True)


def in_order(judged: Sequence[Judged]) -> list[Judged]:
    """Put what fails first, and of that what causes before what follows."""
    causes = {name: place for place, name in enumerate(CAUSES_FIRST)}
    return sorted(judged, key=lambda one: (one.word == "ok", one.word != "broken", causes.get(one.name, len(causes))))


def _text(one: Judged) -> str:
    holds = one.word == "ok"
    head = click.style("ok" if holds else "FAILED", fg="green" if holds else "red")
    return f"{one.name}: {head}\n  wanted: {one.check.wanted}\n  seen:   {one.seen}"


def judge(cluster: Cluster, names: Sequence[str], within: float) -> list[Judged]:
    """Look again and again until all checks hold at the same time, one is broken, or `within` seconds are over."""
    from concurrent.futures import ThreadPoolExecutor

    from nomad_testkit.examples.example import Sizes
    from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

    roles = cluster.roles
    sizes = Sizes(*map(cluster.wanted, (roles.consul_servers, roles.nomad_servers, roles.nomad_clients)))
    cluster.refresh()
    chosen = {name: CHECKS[name](sizes) for name in dict.fromkeys(names)}
    last: list[Judged] = []

    def probe() -> Ok[None] | Pending:
        with ThreadPoolExecutor(len(chosen), thread_name_prefix="nomad-testkit-check") as pool:
            verdicts = list(pool.map(lambda one: one.verdict(cluster), chosen.values()))
        last[:] = [Judged(name, one, told) for (name, one), told in zip(chosen.items(), verdicts, strict=True)]
        words = {one.word for one in last}
        return Pending("some do not hold") if "pending" in words and "broken" not in words else Ok(None)

    with suppress(WaitTimeout):
        wait_until("the checks", probe, deadline=Deadline.after(within), interval=0.5)
    return last
