"""What the agents of hosts, their boot and their consoles have logged, of one host or of several together."""

from __future__ import annotations

import heapq
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from nomad_testkit.cli.group import json_option, main, say_json
from nomad_testkit.cli.lookup import (
    NamedHost,
    chosen_host,
    chosen_run,
    complete_hosts,
    fate,
    name_option,
    named_hosts,
    opened_cluster,
)
from nomad_testkit.cli.moments import SINCE
from nomad_testkit.cli.numbers import Whole
from nomad_testkit.cluster.host_watch import USER_DATA_LOG
from nomad_testkit.errors import TestkitError, UsageError

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.runs.run import Run

LOGS = ("agents", "consul", "nomad", "user-data", "console")
_UNITS: Mapping[str, str] = {"consul": "-u consul", "nomad": "-u nomad", "agents": "-u consul -u nomad"}
_CONSOLE_PATIENCE = 10.0
"""Seconds between looks at whether the host still runs."""
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?)")


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [
        *complete_hosts(ctx, param, incomplete),
        *(CompletionItem(log) for log in LOGS if log.startswith(incomplete)),
    ]


@main.command(short_help="Show what hosts have logged.")
@click.argument("words", metavar="[HOST]... [LOG]", nargs=-1, shell_complete=_complete)
@name_option
@click.option("-f", "--follow", is_flag=True, help="Go on showing what is logged, until Ctrl-C.")
@click.option("-n", "--lines", type=Whole(min=0), default=100, show_default=True, help="How many lines back.")
@click.option("--since", type=SINCE, metavar="AGE", help="Only what was logged in the last AGE, such as 10m or 2h.")
@json_option
def logs(
    words: tuple[str, ...], name: str | None, follow: bool, lines: int, since: float | None, as_json: bool
) -> None:
    """Show what each HOST has logged: LOG is agents (the default), consul, nomad, user-data or console.

    Without a HOST it is every host that runs. The lines of several come in the order of their time, each behind its
    host's name. HOST is named as for ssh. The console comes from the EC2 API, so it is also that of a host which does
    not run; neither it nor user-data has times. What looks like a secret is hidden.
    """
    log = words[-1] if words and words[-1] in LOGS else "agents"
    wanted = words[:-1] if words and words[-1] in LOGS else words
    if since is not None and log in ("console", "user-data"):
        raise UsageError(f"--since: found the log {log}, whose lines have no time; expected agents, consul or nomad")
    if as_json and follow:
        raise UsageError("--json: found --follow, which has no end; expected one of the two")
    run = chosen_run(name)
    with opened_cluster(run) as cluster:
        hosts = named_hosts(cluster)
        chosen = [chosen_host(run, hosts, one) for one in wanted] or [one for one in hosts if one.host is not None]
        streams = [_stream(run, cluster, one, log, lines, since, follow=follow) for one in chosen]
        if as_json:
            say_json({"run_id": run.run_id, "log": log, "hosts": _collected(chosen, streams)})
        elif len(streams) == 1:
            for line in streams[0]:
                click.echo(line)
        else:
            width = max((len(one.name) for one in chosen), default=0)
            titles = [f"{one.name:{width}}  " for one in chosen]
            for line in _followed(titles, streams) if follow else _interleaved(titles, streams, lines):
                click.echo(line)


def _collected(chosen: Sequence[NamedHost], streams: Sequence[Iterator[str]]) -> dict[str, list[str]]:
    return {one.name: list(stream) for one, stream in zip(chosen, streams, strict=True)}


def _stream(
    run: Run, cluster: Cluster, one: NamedHost, log: str, lines: int, since: float | None, *, follow: bool
) -> Iterator[str]:
    if log == "console":
        return _console(run, cluster, one, lines, follow=follow)
    if one.host is None:
        raise TestkitError(f"{one.name} ({one.instance.instance_id}) of {run} {fate(cluster.target, one.instance)}")
    return _logged(one, log, lines, since, follow=follow)


def _interleaved(titles: Sequence[str], streams: Sequence[Iterator[str]], lines: int) -> list[str]:
    """Merge the lines of several hosts by their times; a line without one goes with that before it."""

    def dated(title: str, stream: Iterator[str]) -> Iterator[tuple[str, str]]:
        last = ""
        for line in stream:
            found = _STAMP.match(line)
            last = max(last, found[1]) if found else last
            yield last, f"{title}{line}"

    every = heapq.merge(*(dated(*one) for one in zip(titles, streams, strict=True)), key=lambda one: one[0])
    return [line for _, line in every][-lines or None :] if lines else []


def _followed(titles: Sequence[str], streams: Sequence[Iterator[str]]) -> Iterator[str]:
    """Give the lines of several hosts as they come, for as long as any of them logs."""
    lines: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()

    def read(title: str, stream: Iterator[str]) -> None:
        try:
            for line in stream:
                lines.put(f"{title}{line}")
        except TestkitError as error:
            lines.put(f"{title}({error})")
        except BaseException as error:
            lines.put(error)
        finally:
            lines.put(None)

    for one in zip(titles, streams, strict=True):
        threading.Thread(target=read, args=one, name=f"logs of {one[0].strip()}", daemon=True).start()
    left = len(streams)
    while left:
        line = lines.get()
        if isinstance(line, BaseException):
            raise line
        if line is None:
            left -= 1
        else:
            yield line


def _logged(one: NamedHost, log: str, lines: int, since: float | None, *, follow: bool) -> Iterator[str]:
    from nomad_testkit.deployment.evidence import mask

    host = one.host
    assert host is not None

    if log == "user-data":
        program = f"tail -n {lines} {'-F ' if follow else ''}{USER_DATA_LOG}"
    else:
        how = [f"--since=-{since:.0f}s"] if since is not None else []
        how += ["-f"] if follow else []
        program = " ".join(["journalctl", _UNITS[log], "--no-pager -q -o short-iso-precise", f"-n {lines}", *how])
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
