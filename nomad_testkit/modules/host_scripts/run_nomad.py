#!/usr/bin/env python3
"""Configure Nomad for this EC2 instance and start it as nomad.service, as a server, a client or both.

Meant for user data, after run-consul, on an image that install_nomad has prepared; may run again at any time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from host_commons import HostFault, Tls, log
from host_metadata import Metadata
from host_systemd import (
    AgentPaths,
    Host,
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
from nomad_agent import Agent
from nomad_options import parse
from wait_for_consul import Consul

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

UNIT = "nomad.service"
SETTINGS = "wait_for_consul.settings"
READY_SECONDS = 180.0
BOOTSTRAP_SECONDS = 60.0


def render_config(options: argparse.Namespace, *, instance_id: str, address: str, region: str, zone: str) -> str:
    """Write the agent's configuration (https://developer.hashicorp.com/nomad/docs/configuration).

    Raft timing is left alone: Nomad's default for `raft_multiplier` is 1 already.
    """
    lines = [
        f"datacenter = {_quoted(options.datacenter or zone)}",
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
        lines += _block(
            "server", enabled=True, bootstrap_expect=options.num_servers, encrypt=options.gossip_encryption_key
        )
    if options.client:
        lines += _block("client", enabled=True, node_class=options.node_class)
    if options.enable_raw_exec:
        lines += ['plugin "raw_exec" {', "  config {", "    enabled = true", "  }", "}", ""]
    if options.enable_rpc_encryption:
        lines += _block(
            "tls",
            http=options.enable_https,
            rpc=True,
            ca_file=options.ca_file_path,
            cert_file=options.cert_file_path,
            key_file=options.key_file_path,
            verify_server_hostname=options.verify_server_hostname,
            verify_https_client=options.verify_https_client,
        )
    if options.enable_acl:
        lines += _block("acl", enabled=True)
    host, port = consul_address(options)
    lines += _block(
        "consul",
        address=f"{host}:{port}",
        ssl=options.consul_https or None,
        ca_file=options.consul_ca_file_path,
        cert_file=options.consul_cert_file_path,
        key_file=options.consul_key_file_path,
        token=options.consul_token,
    )
    return "\n".join(lines)


def _block(block: str, **values: bool | int | str | Path | None) -> list[str]:
    """Write a block with what has a value."""
    lines = [f"{block} {{"]
    for key, value in values.items():
        if value is not None:
            shown = json.dumps(value) if isinstance(value, (bool, int)) else _quoted(str(value))
            lines.append(f"  {key} = {shown}")
    return [*lines, "}", ""]


def consul_address(options: argparse.Namespace) -> tuple[str, int]:
    """Give the address of Consul's API."""
    given: tuple[str, int] | None = options.consul_address
    return given or ("127.0.0.1", 8501 if options.consul_https else 8500)


def render_service(
    place: AgentPaths, options: argparse.Namespace, *, user: str, environment: Path | None, settings: Path | None
) -> str:
    """Write nomad.service; a start of it first waits until Consul can serve Nomad."""
    command: list[str | Path] = [place.binary, "agent", "-config", place.config_dir, "-data-dir", place.data_dir]
    seconds = options.consul_wait_seconds
    script = Path(__file__).resolve().with_name("wait_for_consul.py")
    wait = [python(), "-ES", str(script), "leader" if options.server else "nomad", str(seconds)]
    if settings:
        wait.append(str(settings))
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


def own_tls(options: argparse.Namespace) -> Tls | None:
    """Tell how to speak with the agent on this host; None means plain HTTP."""
    return Tls(**_tls_settings(options)) if options.enable_https else None


def wait_settings(options: argparse.Namespace, region: str) -> dict[str, Any]:
    """Give what wait_for_consul has to know beyond its defaults: how to reach Consul, and Nomad's servers."""
    settings: dict[str, Any] = {}
    if options.consul_address or options.consul_https or options.consul_token:
        settings["consul"] = {"address": consul_address(options), "token": options.consul_token}
    if options.consul_https:
        settings["consul"]["tls"] = {
            "ca_file": str(options.consul_ca_file_path),
            "cert_file": str(options.consul_cert_file_path or ""),
            "key_file": str(options.consul_key_file_path or ""),
        }
    if options.enable_https:
        # The name that Nomad's certificates have for a server, whatever its address is.
        settings["nomad"] = {"tls": {**_tls_settings(options), "server_name": f"server.{region}.nomad"}}
    return settings


def _tls_settings(options: argparse.Namespace) -> dict[str, str]:
    settings = {"ca_file": str(options.ca_file_path)}
    if options.verify_https_client:
        settings.update(cert_file=str(options.cert_file_path), key_file=str(options.key_file_path))
    return settings


def write_settings(host: Host, place: AgentPaths, settings: dict[str, Any]) -> bool:
    """Write the settings of wait_for_consul, which may have a token in them; tell whether they changed."""
    path = place.config_dir / SETTINGS  # Nomad reads only .hcl and .json there
    if settings:
        return write_file(host, path, json.dumps(settings, indent=2) + "\n", mode=0o640, user=place.user)
    if path.exists():
        path.unlink()
        return True
    return False


def run(options: argparse.Namespace, host: Host, metadata: Metadata, script: str) -> None:
    """Configure, validate and start the agent; raises HostFault where one of them fails."""
    place = AgentPaths(host, script=script, agent="nomad", options=options)
    changed, address, region = False, "", ""
    if not options.skip_nomad_config:
        address, region = metadata.private_address(), metadata.region()
        text = render_config(
            options,
            instance_id=metadata.instance_id(),
            address=address,
            region=region,
            zone=metadata.availability_zone(),
        )
        changed = write_file(host, place.config_dir / "default.hcl", text, mode=0o640, user=place.user)
    validate(host, place, ["config", "validate"], UNIT)
    given = wait_settings(options, region)
    settings = place.config_dir / SETTINGS if given else None
    changed = write_settings(host, place, given) or changed
    variables = options.environment or []
    environment = environment_file(host, UNIT) if variables else None
    # The exec driver isolates its tasks, which takes root.
    user = "root" if options.use_sudo or options.client else place.user
    text = render_service(place, options, user=user, environment=environment, settings=settings)
    changed = write_unit(host, UNIT, text, variables) or changed
    log(f"starting {UNIT}" + (", which first waits for Consul" if options.consul_wait_seconds else ""))
    start_unit(host, UNIT, changed=changed)
    if not options.skip_nomad_config:
        consul = Consul.of(given)
        agent = Agent(consul, server=options.server, address=address, data_dir=place.data_dir, tls=own_tls(options))
        what = "Nomad to know its leader" if options.server else "Nomad's servers to find this client ready"
        wait_for_agent(host, UNIT, what, agent.ready, READY_SECONDS)
        secret = options.acl_bootstrap_token
        if secret:
            what = "Nomad to take the first management token"
            wait_for_agent(host, UNIT, what, lambda: agent.bootstrap_acl(secret), BOOTSTRAP_SECONDS)
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
