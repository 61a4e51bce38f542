"""Whether one host reaches a port of another, and if not, what is in between."""

from __future__ import annotations

import ipaddress
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from nomad_testkit.cli.group import FAILED, json_option, main, say_json
from nomad_testkit.cli.lookup import chosen_host, chosen_run, complete_hosts, name_option, named_hosts, opened_cluster
from nomad_testkit.errors import HostError, TestkitError, UsageError

if TYPE_CHECKING:
    from nomad_testkit.cli.lookup import NamedHost
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.cluster.host import Host

_TARGET = re.compile(r"(?P<to>[\w.-]+):(?P<port>\d+)(?:/(?P<protocol>tcp|udp))?", re.ASCII)
_CONNECT_SECONDS = 4


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: whether it is as it has to be, None where nothing can be said."""

    what: str
    good: bool | None
    seen: str

    @property
    def word(self) -> str:
        """``ok``, ``NO`` or ``?``."""
        return {True: "ok", False: "NO", None: "?"}[self.good]


@main.command(short_help="Say why a host reaches a port of another, or not.")
@click.argument("from_", metavar="FROM", shell_complete=complete_hosts)
@click.argument("to", metavar="TO:PORT[/udp]", shell_complete=complete_hosts)
@name_option
@json_option
@click.pass_context
def reach(ctx: click.Context, from_: str, to: str, name: str | None, as_json: bool) -> None:
    """Say whether the host FROM reaches PORT of the host TO, and why, or why not.

    \b
    nomad-testkit reach clients-0 servers-0:4647
    nomad-testkit reach servers-0 clients-0:8301/udp

    Looks at the rules of both security groups, the route on FROM and what listens on TO, and makes a real connection
    from FROM, at most 4 s long. UDP has no connections: of it the rules, the route and the listener decide. TO may be
    an address outside of the cluster, too. The exit code is 1 where it is not reached.
    """
    match = _TARGET.fullmatch(to)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise UsageError(f"found {to!r}, expected HOST:PORT or HOST:PORT/udp, such as servers-0:4647")
    run = chosen_run(name)
    port, protocol = int(match["port"]), match["protocol"] or "tcp"
    with opened_cluster(run) as cluster:
        hosts = named_hosts(cluster)
        sender = chosen_host(run, hosts, from_)
        if sender.host is None:
            raise TestkitError(f"{sender.name} of {run} does not run: it is {sender.instance.state}")
        receiver = None if _is_outside(match["to"], hosts) else chosen_host(run, hosts, match["to"])
        findings = _findings(cluster, sender, sender.host, receiver, match["to"], port, protocol)
    reached = _is_reached(findings)
    target = f"{receiver.name if receiver else match['to']}:{port}/{protocol}"
    verdict = f"{sender.name} {'reaches' if reached else 'does not reach'} {target}"
    if not reached:
        verdict += ": " + next(one.seen for one in findings if one.good is False)
    if as_json:
        rows = [{"what": one.what, "good": one.good, "seen": one.seen} for one in findings]
        say_json({"run_id": run.run_id, "reached": reached, "verdict": verdict, "findings": rows})
    else:
        click.secho(verdict, fg="green" if reached else "red", bold=True)
        for one in findings:
            click.echo(f"  {one.word:3} {one.what}: {one.seen}")
    if not reached:
        ctx.exit(FAILED)


def _is_outside(text: str, hosts: list[NamedHost]) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return not any(text in (one.instance.private_ip, one.instance.public_ip, one.address) for one in hosts)


def _is_reached(findings: list[Finding]) -> bool:
    """Decide by the connection where there is one; without, nothing may speak against it."""
    connected = [one.good for one in findings if one.what == "a connection"]
    return bool(connected[0]) if connected else all(one.good is not False for one in findings)


def _findings(
    cluster: Cluster, sender: NamedHost, host: Host, receiver: NamedHost | None, to: str, port: int, protocol: str
) -> list[Finding]:
    address = receiver.instance.private_ip if receiver is not None else to
    found = []
    if receiver is not None:
        state = f"{receiver.name} is {receiver.instance.state}"
        found.append(Finding("the instance", receiver.host is not None, state))
        found += _rules(cluster, sender, receiver, port, protocol)
    found.append(_route(host, address))
    if receiver is not None and receiver.host is not None:
        found.append(_listener(receiver.host, port, protocol, receiver.name))
    if protocol == "tcp":
        found.append(_connection(host, address, port))
    return found


def _rules(cluster: Cluster, sender: NamedHost, receiver: NamedHost, port: int, protocol: str) -> list[Finding]:
    from nomad_testkit.cluster.missing_rules import Party, missing_rule
    from nomad_testkit.modules.security_group_rules import Port

    ec2 = cluster.target.client("ec2")
    ids = [sender.instance.instance_id, receiver.instance.instance_id]
    answer = ec2.describe_instances(InstanceIds=ids)
    facts = {one["InstanceId"]: one for each in answer["Reservations"] for one in each["Instances"]}
    source, goal = (
        Party(
            one.name,
            one.instance.private_ip,
            tuple(each["GroupId"] for each in facts.get(one.instance.instance_id, {}).get("SecurityGroups", ())),
        )
        for one in (sender, receiver)
    )
    groups = sorted({*source.security_groups, *goal.security_groups})
    described = ec2.describe_security_groups(GroupIds=groups)["SecurityGroups"] if groups else []
    by_id: dict[str, Any] = {group["GroupId"]: group for group in described}
    asked = Port("udp" if protocol == "udp" else "tcp", port, f"port {port}")
    findings = []
    for inbound, one, other in ((False, source, goal), (True, goal, source)):
        # Each side by itself: of the other direction everything is let through.
        key = "IpPermissionsEgress" if inbound else "IpPermissions"
        alone = {group_id: {**facts, key: _ALL} for group_id, facts in by_id.items()}
        lacking = missing_rule(alone, source, goal, asked)
        named = " and ".join(f"{group} ({by_id[group]['GroupName']})" for group in one.security_groups) or "no group"
        way = f"{protocol} {port} {'in from' if inbound else 'out to'} {other.name}"
        seen = f"{named}: {'no rule lets' if lacking else 'a rule lets'} {way}"
        findings.append(Finding(f"the {'inbound' if inbound else 'outbound'} rules of {one.name}", not lacking, seen))
    return findings


_ALL = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
"""Rules that let everything through."""


def _route(host: Host, address: str) -> Finding:
    try:
        said = host.run(f"ip -o route get {shlex.quote(address)} 2>&1", check=False)
    except HostError as error:
        return Finding("the route", None, str(error))
    return Finding("the route", said.status == 0, " ".join(said.stdout.split()) or "`ip route get` says nothing")


def _listener(host: Host, port: int, protocol: str, name: str) -> Finding:
    flag = "-Hltnp" if protocol == "tcp" else "-Hlunp"
    what = f"a listener on {name}"
    try:
        said = host.run(f"ss {flag} 'sport = :{port}'", sudo=True, check=False)
    except HostError as error:
        return Finding(what, None, str(error))
    lines = [line.split() for line in said.stdout.splitlines()]
    if not lines:
        return Finding(what, False, f"nothing listens on {protocol} {port}")
    local = ", ".join(dict.fromkeys(words[3] for words in lines if len(words) > 3))
    programs = ", ".join(dict.fromkeys(re.findall(r'\(\("([^"]+)"', said.stdout)))
    loopback = all(re.match(r"(127\.|\[::1\])", words[3]) for words in lines if len(words) > 3)
    return Finding(what, not loopback, f"{programs or 'a program'} on {local}{', loopback alone' if loopback else ''}")


def _connection(host: Host, address: str, port: int) -> Finding:
    script = f"exec 3<>/dev/tcp/{address}/{port}"
    command = f"timeout {_CONNECT_SECONDS} bash -c {shlex.quote(script)}"
    try:
        said = host.run(command, check=False)
    except HostError as error:
        return Finding("a connection", None, str(error))
    if said.status == 0:
        return Finding("a connection", True, f"{address} accepts it")
    why = said.stderr.strip().rpartition(": ")[2] or f"status {said.status}"
    if said.status == 124:
        why = f"no answer within {_CONNECT_SECONDS} s"
    return Finding("a connection", False, f"{address}:{port}: {why}")
