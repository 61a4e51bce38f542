#!/usr/bin/env python3
"""Configure Consul for this EC2 instance and start it as consul.service, as a server or as a client.

Meant for user data, on an image that install_consul has prepared; may run again at any time.
"""

from __future__ import annotations

import json
import re
import sys

from consul_options import AUTOPILOT, AUTOPILOT_DEFAULTS, parse
from host_commons import UNREACHABLE, Service, Tls, Waiting, log
from host_metadata import Metadata
from host_systemd import (
    AgentPaths,
    Host,
    environment_file,
    render_unit,
    run_script,
    start_unit,
    validate,
    wait_for_agent,
    word,
    write_file,
    write_unit,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

UNIT = "consul.service"
HTTP_PORT, HTTPS_PORT = 8500, 8501
START_TIMEOUT_SECONDS = 300
ANSWER_SECONDS = 60.0
TOKEN_SECONDS = 120.0


def retry_join(tag_key: str, tag_value: str, region: str, endpoint: str) -> str:
    """Write the line by which agents find each other (https://github.com/hashicorp/go-discover).

    >>> retry_join("consul-servers", "my cluster", "us-east-1", "")
    'provider=aws region=us-east-1 tag_key=consul-servers tag_value="my cluster"'
    """
    pairs = {"provider": "aws", "region": region, "tag_key": tag_key, "tag_value": tag_value}
    if endpoint:
        pairs["endpoint"] = endpoint
    return " ".join(f"{key}={_discover_word(value)}" for key, value in pairs.items())


def render_config(
    options: argparse.Namespace,
    *,
    instance_id: str,
    address: str,
    region: str,
    bootstrap_expect: int | None,
) -> str:
    """Write the agent's configuration (https://developer.hashicorp.com/consul/docs/agent/config/config-files)."""
    config: dict[str, Any] = {
        "advertise_addr": address,
        "bind_addr": address,
        "client_addr": "0.0.0.0",  # noqa: S104  as upstream; the security group decides who gets in
        "datacenter": options.datacenter or region,
        "node_name": instance_id,
        "server": options.server,
    }
    if options.cluster_tag_key is not None:
        config["retry_join"] = [
            retry_join(options.cluster_tag_key, options.cluster_tag_value, region, options.endpoint or "")
        ]
        config["retry_interval"] = options.retry_interval or "2s"
    if options.server:
        config["bootstrap_expect"] = bootstrap_expect
        config["ui_config"] = {"enabled": True}
        config["performance"] = {"raft_multiplier": options.raft_multiplier or 1}
        autopilot = {}
        for name, default in zip(AUTOPILOT, AUTOPILOT_DEFAULTS):
            given = getattr(options, name)
            autopilot[name[len("autopilot_") :]] = default if given is None else given
        config["autopilot"] = {key: value for key, value in autopilot.items() if value != ""}
    if options.gossip_encryption_key is not None:
        config["encrypt"] = options.gossip_encryption_key
    if options.enable_rpc_encryption:
        config["tls"] = _tls(options)
    if options.enable_https:
        config["ports"] = {"http": -1, "https": HTTPS_PORT}
    if options.enable_acl:
        config["acl"] = _acl(options)
    if options.recursor:
        config["recursors"] = options.recursor
    return json.dumps(config, indent=2) + "\n"


def _tls(options: argparse.Namespace) -> dict[str, Any]:
    # As upstream's verify_incoming and verify_outgoing, in the form that Consul 1.12 and newer have for them.
    return {
        "defaults": {
            "ca_path": str(options.ca_path),
            "cert_file": str(options.cert_file_path),
            "key_file": str(options.key_file_path),
            "verify_incoming": True,
            "verify_outgoing": True,
        },
        "internal_rpc": {"verify_server_hostname": options.verify_server_hostname},
        "https": {"verify_incoming": options.verify_https_client},
    }


def _acl(options: argparse.Namespace) -> dict[str, Any]:
    tokens = {
        "initial_management": options.acl_initial_management_token,
        "agent": options.acl_agent_token,
        "default": options.acl_default_token,
    }
    return {
        "enabled": True,
        "default_policy": "deny",
        "tokens": {name: secret for name, secret in tokens.items() if secret},
    }


def render_service(place: AgentPaths, options: argparse.Namespace, *, joins: bool, environment: Path | None) -> str:
    """Write consul.service.

    Consul tells systemd that it is ready when it has joined a cluster, and never where it has none to join:
    Type=notify would then wait for its time-out.
    """
    command: list[str | Path] = [place.binary, "agent", "-config-dir", place.config_dir, "-data-dir", place.data_dir]
    return render_unit(
        [
            (
                "Unit",
                [
                    ("Description", "Consul agent"),
                    ("Documentation", "https://developer.hashicorp.com/consul/docs"),
                    ("Wants", "network-online.target"),
                    ("After", "network-online.target"),
                    # An agent that dies at once, as for a bad configuration, ends as failed within seconds.
                    ("StartLimitIntervalSec", "60"),
                    ("StartLimitBurst", "5"),
                ],
            ),
            (
                "Service",
                [
                    ("Type", "notify" if joins else "exec"),
                    ("User", place.user),
                    ("ExecStart", " ".join(word(part) for part in command)),
                    ("ExecReload", '/bin/sh -c "kill -HUP ${MAINPID}"'),
                    ("KillMode", "process"),
                    ("Restart", "on-failure"),
                    ("RestartSec", "1"),
                    ("TimeoutSec", f"{START_TIMEOUT_SECONDS}s"),
                    ("LimitNOFILE", "65536"),
                    ("EnvironmentFile", str(environment) if environment else None),
                    ("StandardOutput", options.systemd_stdout),
                    ("StandardError", options.systemd_stderr),
                ],
            ),
            ("Install", [("WantedBy", "multi-user.target")]),
        ]
    )


def joins_by_itself(config_dir: Path) -> bool:
    """Tell whether a configuration that others have written names agents to join."""
    return any(
        re.search(r"\b(retry_join|start_join)\b", path.read_text(encoding="utf-8", errors="replace"))
        for path in config_dir.iterdir()
        if path.suffix in (".json", ".hcl")
    )


def configure(options: argparse.Namespace, place: AgentPaths, host: Host, metadata: Metadata) -> bool:
    """Write the configuration for this instance; tell whether it differs from what was there."""
    instance_id = metadata.instance_id()
    region = metadata.region()
    expect = None
    if options.server:
        from host_aws_api import AwsApi, expected_servers  # clients do without its imports

        tag = (options.cluster_tag_key, options.cluster_tag_value) if options.cluster_tag_key else None
        api = AwsApi(region, options.endpoint or "", metadata, host.clock)
        seconds = options.tag_wait_seconds or 120
        expect = expected_servers(api, instance_id, tag=tag, seconds=seconds, clock=host.clock)
    text = render_config(
        options,
        instance_id=instance_id,
        address=metadata.private_address(),
        region=region,
        bootstrap_expect=expect,
    )
    return write_file(host, place.config_dir / "default.json", text, mode=0o640, user=place.user)


def run(options: argparse.Namespace, host: Host, metadata: Metadata, script: str) -> None:
    """Configure, validate and start the agent; raises HostFault where one of them fails."""
    place = AgentPaths(host, script=script, agent="consul", options=options)
    changed = False
    if not options.skip_consul_config:
        changed = configure(options, place, host, metadata)
    validate(host, place, ["validate"], UNIT)
    joins = options.cluster_tag_key is not None or joins_by_itself(place.config_dir)
    variables = options.environment or []
    environment = environment_file(host, UNIT) if variables else None
    text = render_service(place, options, joins=joins, environment=environment)
    changed = write_unit(host, UNIT, text, variables) or changed
    log(f"starting {UNIT}" + (", which is ready when it has joined its cluster" if joins else ""))
    start_unit(host, UNIT, changed=changed)
    if not joins and not options.skip_consul_config:
        wait_for_agent(host, UNIT, "Consul's API", lambda: _answers(api(options)), ANSWER_SECONDS)
    if options.enable_acl:
        await_tokens(options, host)
    log(f"{UNIT} is running")


def api(options: argparse.Namespace) -> Service:
    """Give the HTTP API of the agent on this host."""
    if not options.enable_https:
        return Service("127.0.0.1", HTTP_PORT)
    shown = options.verify_https_client
    tls = Tls(
        ca_path=str(options.ca_path),
        cert_file=str(options.cert_file_path) if shown else "",
        key_file=str(options.key_file_path) if shown else "",
    )
    return Service("127.0.0.1", HTTPS_PORT, tls=tls)


def await_tokens(options: argparse.Namespace, host: Host) -> None:
    """Make the tokens that this server was given, and wait for the agent's; raises HostFault where it never comes."""
    from consul_tokens import Tokens

    tokens = Tokens(api(options))
    management, own = options.acl_initial_management_token, options.acl_agent_token
    if management:
        given = {
            "consul-agent": own,
            "consul-default": options.acl_default_token,
            "nomad-agent": options.acl_nomad_token,
        }
        wanted = {policy: secret for policy, secret in given.items() if secret}
        wait_for_agent(host, UNIT, "Consul's ACL tokens", lambda: tokens.make(management, wanted), TOKEN_SECONDS)
    if own:
        wait_for_agent(host, UNIT, "the agent's ACL token", lambda: tokens.adopt(own), TOKEN_SECONDS)


def main(arguments: Sequence[str] | None = None, host: Host | None = None) -> int:
    """Run the script; gives its exit status."""
    options = parse(arguments)
    host = host or Host()
    return run_script(UNIT, host, lambda: run(options, host, Metadata(host.clock), __file__))


def _answers(service: Service) -> None:
    try:
        service.request("GET", "/v1/status/leader")
    except UNREACHABLE as error:
        raise Waiting(f"no answer ({error})") from None


def _discover_word(text: str) -> str:
    # go-discover reads a quoted word as Go reads a string literal; for printable text that is JSON's quoting.
    return text if re.fullmatch(r"[\w.:/-]+", text, re.ASCII) else json.dumps(text, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
