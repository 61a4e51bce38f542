#!/usr/bin/env python3
"""Configure Nomad for this EC2 instance and start it as nomad.service, as a server, a client or both.

Meant for user data, after run-consul, on an image that install_nomad has prepared; may run again at any time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from host_commons import UNREACHABLE, HostFault, Service, Waiting, log
from host_metadata import Metadata
from host_options import add_unit_options, new_parser, refuse_given, whole_number
from host_systemd import (
    Host,
    Place,
    environment_file,
    python,
    render_unit,
    run_script,
    start_unit,
    validate,
    wait_for_agent,
    word,
    write_file,
    write_unit,
)
from wait_for_consul import Consul

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

UNIT = "nomad.service"
HTTP_PORT = 4646
CONSUL_WAIT_SECONDS = 240
READY_SECONDS = 180.0


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = new_parser("run-nomad", "Configure and start a Nomad agent on this EC2 instance.")
    add = made.add_argument
    add("--server", action="store_true", help="run a server; needs --num-servers")
    add("--client", action="store_true", help="run a client; may be given together with --server")
    add("--num-servers", type=whole_number(1), metavar="N", help="how many servers the cluster begins with")
    add_unit_options(made, "nomad", "--skip-nomad-config")
    add("--use-sudo", action="store_true", help="run the agent as root, as --client does anyway")
    own = made.add_argument_group("not among upstream's options")
    own.add_argument("--enable-raw-exec", action="store_true", help="let jobs of this client use the raw_exec driver")
    own.add_argument(
        "--consul-wait-seconds",
        type=whole_number(0, 280),
        metavar="N",
        default=CONSUL_WAIT_SECONDS,
        help=f"how long a start waits for Consul (default: {CONSUL_WAIT_SECONDS}; 0: not at all)",
    )
    return made


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; contradictions end with usage and status 2."""
    made = parser()
    options = made.parse_args(arguments)
    if not options.server and not options.client:
        made.error("at least one of --server and --client is required")
    if options.skip_nomad_config:
        why = "would do nothing with --skip-nomad-config, which writes no configuration"
        refuse_given(made, options, ("num_servers", "enable_raw_exec"), why)
    elif options.server and options.num_servers is None:
        made.error("--server needs --num-servers: how many servers the cluster begins with")
    if not options.server and options.num_servers is not None:
        made.error("--num-servers would do nothing without --server")
    if options.enable_raw_exec and not options.client:
        made.error("--enable-raw-exec would do nothing without --client: only clients run jobs")
    return options


def render_config(options: argparse.Namespace, *, instance_id: str, address: str, region: str, zone: str) -> str:
    """Write the agent's configuration (https://developer.hashicorp.com/nomad/docs/configuration).

    Raft timing is left alone: Nomad's default for `raft_multiplier` is 1 already.
    """
    lines = [
        f"datacenter = {_quoted(zone)}",
        f"name = {_quoted(instance_id)}",
        f"region = {_quoted(region)}",
        'bind_addr = "0.0.0.0"',
        "",
        "advertise {",
        *(f"  {service} = {_quoted(address)}" for service in ("http", "rpc", "serf")),
        "}",
        "",
    ]
    if options.server:
        lines += ["server {", "  enabled = true", f"  bootstrap_expect = {options.num_servers}", "}", ""]
    if options.client:
        lines += ["client {", "  enabled = true", "}", ""]
    if options.enable_raw_exec:
        lines += ['plugin "raw_exec" {', "  config {", "    enabled = true", "  }", "}", ""]
    lines += ["consul {", '  address = "127.0.0.1:8500"', "}"]
    return "\n".join(lines) + "\n"


def render_service(place: Place, options: argparse.Namespace, *, user: str, environment: Path | None) -> str:
    """Write nomad.service; a start of it first waits until Consul can serve Nomad."""
    command: list[str | Path] = [place.binary, "agent", "-config", place.config_dir, "-data-dir", place.data_dir]
    seconds = options.consul_wait_seconds
    script = Path(__file__).resolve().with_name("wait_for_consul.py")
    wait = [python(), "-ES", str(script), "leader" if options.server else "nomad", str(seconds)]
    return render_unit(
        [
            (
                "Unit",
                [
                    ("Description", "Nomad agent"),
                    ("Documentation", "https://developer.hashicorp.com/nomad/docs"),
                    ("Wants", "network-online.target"),
                    # Also makes Nomad end before Consul at shutdown, so that it can deregister itself.
                    ("After", "network-online.target consul.service"),
                    ("StartLimitIntervalSec", "60"),
                    ("StartLimitBurst", "5"),
                ],
            ),
            (
                "Service",
                [
                    ("Type", "exec"),
                    ("User", user),
                    ("ExecStartPre", " ".join(word(part) for part in wait) if seconds else None),
                    ("ExecStart", " ".join(word(part) for part in command)),
                    ("ExecReload", '/bin/sh -c "kill -HUP ${MAINPID}"'),
                    ("KillMode", "process"),
                    ("Restart", "on-failure"),
                    ("RestartSec", "1"),
                    ("TimeoutStartSec", f"{seconds + 30}s"),
                    ("LimitNOFILE", "65536"),
                    # Tasks are children of the client.
                    ("TasksMax", "infinity" if options.client else None),
                    ("EnvironmentFile", str(environment) if environment else None),
                    ("StandardOutput", options.systemd_stdout),
                    ("StandardError", options.systemd_stderr),
                ],
            ),
            ("Install", [("WantedBy", "multi-user.target")]),
        ]
    )


class Agent:
    """The Nomad agent on this host, until it is part of its cluster."""

    def __init__(
        self, consul: Consul, *, server: bool, address: str, data_dir: Path, service: Service | None = None
    ) -> None:
        self._consul = consul
        self._server = server
        self._node_id = data_dir / "client" / "client-id"
        self._address = address
        # A server without a leader keeps a question for its leader waiting for some seconds.
        self._service = service or Service("127.0.0.1", HTTP_PORT, timeout=1.0)
        self._asked: set[str] = set()

    def ready(self) -> None:
        """Return when a server knows its leader, or when the servers find a client ready; raises Waiting before."""
        if not self._server:
            self._client_ready()
            return
        joined = self._join_others()
        status, text = self._request("GET", "/v1/status/leader")
        if status != 200 or text in ('""', ""):
            raise Waiting(f"no leader{joined}")

    def _client_ready(self) -> None:
        """Ask for this node through the client itself.

        The servers count a node as ready when it has registered and sent one heartbeat. A client sends the first at
        a random moment of ten seconds, or right after any other question of its to a server: this one.
        """
        status, text = self._request("GET", "/v1/agent/health?type=client")
        if status != 200:
            raise Waiting(f"the client says {text[:200]!r}")
        try:
            node_id = self._node_id.read_text().strip()
        except FileNotFoundError:
            raise Waiting(f"the client has no id in {self._node_id} yet") from None
        status, text = self._request("GET", f"/v1/node/{node_id}")
        if status == 403:
            return  # with ACLs, a node is not told to everyone
        if status != 200:
            raise Waiting(f"the servers say of node {node_id}: {text[:200]!r}")
        found = json.loads(text)["Status"]
        if found != "ready":
            raise Waiting(f"node {node_id} is {found}")

    def _join_others(self) -> str:
        """Join the servers that are in Consul's catalog; gives the words for what came of it.

        A server looks there once, when it starts, and again only after 45 s. Servers that start at the same
        moment, as they do when Consul gets its leader, look before any of them is registered.
        """
        others = {
            f"{host}:{port}"
            for host, port in self._consul.nomad_servers("serf", passing=False)
            if host != self._address
        }
        fresh = sorted(others - self._asked)
        if not fresh:
            return ""
        query = "&".join(f"address={other}" for other in fresh)
        status, text = self._request("PUT", f"/v1/agent/join?{query}")
        if status != 200:
            return f", and joining {', '.join(fresh)} fails: {text[:200]!r}"
        self._asked.update(fresh)
        return f"; asked to join {', '.join(fresh)}"

    def _request(self, method: str, path: str) -> tuple[int, str]:
        try:
            answer = self._service.request(method, path)
        except UNREACHABLE as error:
            raise Waiting(f"Nomad does not answer on {self._service.name} ({error})") from None
        return answer.status, answer.text


def run(options: argparse.Namespace, host: Host, metadata: Metadata, script: str) -> None:
    """Configure, validate and start the agent; raises HostFault where one of them fails."""
    place = Place(host, script=script, agent="nomad", options=options)
    changed, address = False, ""
    if not options.skip_nomad_config:
        address = metadata.private_address()
        text = render_config(
            options,
            instance_id=metadata.instance_id(),
            address=address,
            region=metadata.region(),
            zone=metadata.availability_zone(),
        )
        changed = write_file(host, place.config_dir / "default.hcl", text, mode=0o640, user=place.user)
    validate(host, place, ["config", "validate"], UNIT)
    variables = options.environment or []
    environment = environment_file(host, UNIT) if variables else None
    # The exec driver isolates its tasks, which takes root.
    user = "root" if options.use_sudo or options.client else place.user
    text = render_service(place, options, user=user, environment=environment)
    changed = write_unit(host, UNIT, text, variables) or changed
    log(f"starting {UNIT}" + (", which first waits for Consul" if options.consul_wait_seconds else ""))
    start_unit(host, UNIT, changed=changed)
    if not options.skip_nomad_config:
        agent = Agent(Consul(), server=options.server, address=address, data_dir=place.data_dir)
        what = "Nomad to know its leader" if options.server else "Nomad's servers to find this client ready"
        wait_for_agent(host, UNIT, what, agent.ready, READY_SECONDS)
    log(f"{UNIT} is running")


def main(arguments: Sequence[str] | None = None, host: Host | None = None) -> int:
    """Run the script; gives its exit status."""
    options = parse(arguments)
    host = host or Host()
    return run_script(UNIT, host, lambda: run(options, host, Metadata(host.clock), __file__))


def _quoted(text: str) -> str:
    if "${" in text or "%{" in text:
        raise HostFault(f"{text!r} would be an expression in Nomad's configuration")
    return json.dumps(text)


if __name__ == "__main__":
    sys.exit(main())
