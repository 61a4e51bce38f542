"""The floor under a deployment's time: the same agents with the same configuration as plain processes, no hosts.

Each host's agents run in a network namespace with the host's address. All of it is in pid, mount and network
namespaces of its own, so that nothing of it outlives the measurement.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from nomad_testkit.ec2.vpc.network import HostLink, route_hosts
from nomad_testkit.errors import TestkitError
from nomad_testkit.modules.bundle import host_scripts
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

CONSUL_LEADER = "Consul leader"
NOMAD_LEADER = "Nomad leader"
CLIENTS_READY = "clients ready"
_TIMEOUT = 180.0


@dataclass(frozen=True, slots=True)
class FloorHost:
    """One host's agents: its address, and the configuration that the host scripts wrote for it."""

    name: str
    address: str
    subnet: str
    server: bool
    consul: str
    nomad: str


def measure(hosts: Sequence[FloorHost], *, consul: Path, nomad: Path) -> dict[str, float]:
    """Run the agents once; gives the seconds from the start to each phase. Raises TestkitError with the last words."""
    request = {"hosts": [asdict(host) for host in hosts], "consul": str(consul), "nomad": str(nomad)}
    done = subprocess.run(
        [
            # An interrupted measurement takes the agents with it.
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *("unshare", "--pid", "--net", "--mount", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, "-m", "nomad_testkit.cli.bench.floor"),
        ],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise TestkitError(f"the floor could not be measured: {done.stderr.strip()[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    """Measure what standard input describes; runs inside the namespaces."""
    request = json.load(sys.stdin)
    hosts = [FloorHost(**host) for host in request["hosts"]]
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    folder = Path("/run/floor")
    for path in (Path("/run/netns"), folder):
        path.mkdir()
    route_hosts()
    # Where nothing refuses, Nomad asks the metadata services of several clouds in vain for six seconds.
    subprocess.run(["ip", "address", "add", "169.254.169.254/32", "dev", "lo"], check=True)
    print(json.dumps(_run(hosts, Path(request["consul"]), Path(request["nomad"]), folder)))
    sys.stdout.flush()
    os._exit(0)  # pid 1: the kernel ends the agents


def _run(hosts: Sequence[FloorHost], consul: Path, nomad: Path, folder: Path) -> dict[str, float]:
    servers = [host.address for host in hosts if host.server]
    for number, host in enumerate(hosts):
        subprocess.run(["ip", "netns", "add", host.name], check=True)
        HostLink(host.address, host.subnet, f"02:00:00:00:00:{number:02x}").attach(f"/run/netns/{host.name}")
    started = time.monotonic()
    for host in hosts:
        _start(host, servers, consul, nomad, folder / host.name)
    deadline = Deadline.after(_TIMEOUT)
    phases = {}
    for phase, port, path, wanted in (
        (CONSUL_LEADER, 8500, "/v1/status/leader", _is_leader),
        (NOMAD_LEADER, 4646, "/v1/status/leader", _is_leader),
        (CLIENTS_READY, 4646, "/v1/nodes", lambda nodes: _ready(nodes) == len(hosts) - len(servers)),
    ):

        def probe(port: int = port, path: str = path, wanted: Any = wanted) -> Ok[None] | Pending:
            answers = [_get(address, port, path) for address in servers]
            return Ok(None) if all(wanted(answer) for answer in answers) else Pending(repr(answers)[:500])

        wait_until(phase, probe, deadline=deadline, interval=0.05)
        phases[phase] = time.monotonic() - started
    return phases


def _start(host: FloorHost, servers: Sequence[str], consul: Path, nomad: Path, folder: Path) -> None:
    folder.mkdir()
    config = json.loads(host.consul)
    config["retry_join"] = list(servers)
    (folder / "consul.json").write_text(json.dumps(config))
    (folder / "nomad.hcl").write_text(host.nomad)
    wait: Path = next(path for path in host_scripts() if path.name == "wait_for_consul.py")
    joins = [f"-retry-join={address}" for address in servers] if host.server else []
    _spawn(host, folder, consul, "agent", "-config-file", folder / "consul.json", "-data-dir", folder / "consul")
    agent: list[str | Path] = [nomad, "agent", "-config", folder / "nomad.hcl", "-data-dir", folder / "nomad", *joins]
    waited = '"$1" "$2" "$3" 120 && shift 3 && exec "$@"'
    first = "leader" if host.server else "nomad"
    _spawn(host, folder, "/bin/sh", "-c", waited, "sh", sys.executable, wait, first, *agent)


def _spawn(host: FloorHost, folder: Path, *command: str | Path) -> None:
    with (folder / "log").open("ab") as log:
        inside = ["ip", "netns", "exec", host.name, *(str(word) for word in command)]
        subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _get(address: str, port: int, path: str) -> Any:
    connection = HTTPConnection(address, port, timeout=2)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return json.loads(response.read()) if response.status == 200 else None
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()


def _is_leader(answer: Any) -> bool:
    return bool(answer)


def _ready(nodes: Any) -> int:
    return sum(node["Status"] == "ready" for node in nodes or [])


if __name__ == "__main__":
    main()
