#!/usr/bin/env python3
"""Configure Consul for this EC2 instance and start it as consul.service, as a server or as a client.

Meant for user data, on an image that install_consul has prepared; may run again at any time.
"""

from __future__ import annotations

import json
import re
import sys

from host_commons import UNREACHABLE, Service, Waiting, log
from host_metadata import Metadata
from host_options import (
    absolute_path,
    add_unit_options,
    boolean,
    dns_server,
    duration,
    endpoint,
    gossip_key,
    matching,
    new_parser,
    refuse_given,
    tag_text,
    whole_number,
)
from host_systemd import (
    Host,
    Place,
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
HTTP_PORT = 8500
START_TIMEOUT_SECONDS = 300
ANSWER_SECONDS = 60.0
AUTOPILOT = (
    "autopilot_cleanup_dead_servers",
    "autopilot_last_contact_threshold",
    "autopilot_max_trailing_logs",
    "autopilot_server_stabilization_time",
    "autopilot_redundancy_zone_tag",
    "autopilot_disable_upgrade_migration",
    "autopilot_upgrade_version_tag",
)
AUTOPILOT_DEFAULTS: tuple[Any, ...] = (True, "200ms", 250, "10s", "az", False, "")
SERVER_ONLY = (*AUTOPILOT, "raft_multiplier", "tag_wait_seconds")
CONFIGURATION_ONLY = (
    "cluster_tag_key",
    "cluster_tag_value",
    "datacenter",
    "endpoint",
    "retry_interval",
    "enable_gossip_encryption",
    "gossip_encryption_key",
    "enable_rpc_encryption",
    "ca_path",
    "cert_file_path",
    "key_file_path",
    "verify_server_hostname",
    "recursor",
    *SERVER_ONLY,
)


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = new_parser("run-consul", "Configure and start a Consul agent on this EC2 instance.")
    add = made.add_argument
    add("--server", action="store_true", help="run a server")
    add("--client", action="store_true", help="run a client")
    add("--cluster-tag-key", type=tag_text, metavar="KEY", help="join the instances that have this tag...")
    add("--cluster-tag-value", type=tag_text, metavar="VALUE", help="...with this value")
    add(
        "--datacenter",
        type=matching(r"[A-Za-z0-9_-]{1,64}", "letters, digits, - and _"),
        help="Consul's datacenter (default: the AWS region)",
    )
    add_unit_options(made, "consul", "--skip-consul-config")
    add(
        "--enable-gossip-encryption",
        action="store_true",
        help="encrypt gossip; needs --gossip-encryption-key",
    )
    add("--gossip-encryption-key", type=gossip_key, metavar="KEY", help="as `consul keygen` prints it")
    add("--enable-rpc-encryption", action="store_true", help="use TLS for RPC; needs the three paths")
    add("--ca-path", type=absolute_path, metavar="DIR", help="folder of CA certificates")
    add("--cert-file-path", type=absolute_path, metavar="FILE", help="this agent's certificate")
    add("--key-file-path", type=absolute_path, metavar="FILE", help="this agent's key")
    add("--verify-server-hostname", action="store_true", help="demand the server's name in its certificate")
    add(
        "--recursor",
        type=dns_server,
        action="append",
        metavar="IP",
        help="DNS server for other names; repeatable",
    )
    optional_boolean: dict[str, Any] = {"type": boolean, "nargs": "?", "const": True, "metavar": "true|false"}
    add("--autopilot-cleanup-dead-servers", **optional_boolean, help="servers only (default: true)")
    add("--autopilot-last-contact-threshold", type=duration, metavar="TIME", help="(default: 200ms)")
    add("--autopilot-max-trailing-logs", type=whole_number(0), metavar="N", help="(default: 250)")
    add("--autopilot-server-stabilization-time", type=duration, metavar="TIME", help="(default: 10s)")
    add("--autopilot-redundancy-zone-tag", metavar="NAME", help="Consul Enterprise (default: az)")
    add("--autopilot-disable-upgrade-migration", **optional_boolean, help="Enterprise (default: false)")
    add("--autopilot-upgrade-version-tag", metavar="NAME", help="Consul Enterprise")
    own = made.add_argument_group("not among upstream's options")
    add = own.add_argument
    add("--endpoint", type=endpoint, metavar="URL", help="the AWS API (default: the region's own)")
    add(
        "--raft-multiplier",
        type=whole_number(1, 10),
        metavar="N",
        help="1, the default, is Consul's advice for production; 5 is Consul's default, for small machines",
    )
    add(
        "--retry-interval",
        type=duration,
        metavar="TIME",
        help="pause between attempts to join (default: 2s; Consul's own, 30s, punishes who comes early)",
    )
    add(
        "--tag-wait-seconds",
        type=whole_number(1),
        metavar="N",
        help="how long a server waits for its tags and its group (default: 120)",
    )
    return made


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; contradictions end with usage and status 2."""
    made = parser()
    options = made.parse_args(arguments)
    if options.server and options.client:
        made.error("--server and --client exclude each other: an agent is one or the other")
    if not options.server and not options.client:
        made.error("one of --server and --client is required")
    if options.skip_consul_config:
        why = "would do nothing with --skip-consul-config, which writes no configuration"
        refuse_given(made, options, CONFIGURATION_ONLY, why)
    if options.client:
        refuse_given(made, options, SERVER_ONLY, "would do nothing with --client: it is for servers")
    if (options.cluster_tag_key is None) != (options.cluster_tag_value is None):
        made.error("--cluster-tag-key and --cluster-tag-value belong together: one is given without the other")
    if options.retry_interval and options.cluster_tag_key is None:
        made.error("--retry-interval would do nothing without --cluster-tag-key and --cluster-tag-value")
    if options.client and options.endpoint and options.cluster_tag_key is None:
        made.error("--endpoint would do nothing without --cluster-tag-key and --cluster-tag-value")
    if options.enable_gossip_encryption and options.gossip_encryption_key is None:
        made.error("--enable-gossip-encryption needs --gossip-encryption-key")
    if options.gossip_encryption_key is not None and not options.enable_gossip_encryption:
        made.error("--gossip-encryption-key would do nothing without --enable-gossip-encryption")
    paths = ("ca_path", "cert_file_path", "key_file_path")
    if options.enable_rpc_encryption:
        lacking = ["--" + name.replace("_", "-") for name in paths if getattr(options, name) is None]
        if lacking:
            made.error(f"--enable-rpc-encryption needs {', '.join(lacking)} too")
    else:
        why = "would do nothing without --enable-rpc-encryption"
        refuse_given(made, options, (*paths, "verify_server_hostname"), why)
    return options


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
        config.update(
            verify_outgoing=True,
            verify_incoming=True,
            verify_server_hostname=options.verify_server_hostname,
            ca_path=str(options.ca_path),
            cert_file=str(options.cert_file_path),
            key_file=str(options.key_file_path),
        )
    if options.recursor:
        config["recursors"] = options.recursor
    return json.dumps(config, indent=2) + "\n"


def render_service(place: Place, options: argparse.Namespace, *, joins: bool, environment: Path | None) -> str:
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


def configure(options: argparse.Namespace, place: Place, host: Host, metadata: Metadata) -> bool:
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
    place = Place(host, script=script, agent="consul", options=options)
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
        wait_for_agent(host, UNIT, "Consul's API", _answers, ANSWER_SECONDS)
    log(f"{UNIT} is running")


def main(arguments: Sequence[str] | None = None, host: Host | None = None) -> int:
    """Run the script; gives its exit status."""
    options = parse(arguments)
    host = host or Host()
    return run_script(UNIT, host, lambda: run(options, host, Metadata(host.clock), __file__))


def _answers() -> None:
    try:
        Service("127.0.0.1", HTTP_PORT).request("GET", "/v1/status/leader")
    except UNREACHABLE as error:
        raise Waiting(f"no answer ({error})") from None


def _discover_word(text: str) -> str:
    # go-discover reads a quoted word as Go reads a string literal; for printable text that is JSON's quoting.
    return text if re.fullmatch(r"[\w.:/-]+", text, re.ASCII) else json.dumps(text, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
