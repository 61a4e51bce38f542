"""The options of run-consul, and which of them belong together."""

from __future__ import annotations

from host_options import (
    absolute_path,
    add_secret,
    add_unit_options,
    boolean,
    dns_server,
    duration,
    endpoint,
    gossip_key,
    matching,
    new_parser,
    option_of,
    refuse_given,
    tag_text,
    take_secrets,
    token,
    whole_number,
    with_files,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

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
SECRETS = {
    "gossip_encryption_key": gossip_key,
    "acl_initial_management_token": token,
    "acl_agent_token": token,
    "acl_default_token": token,
    "acl_nomad_token": token,
}
ACL_TOKENS = with_files([name for name in SECRETS if name.startswith("acl_")])
SERVER_TOKENS = with_files(["acl_initial_management_token", "acl_nomad_token"])
SERVER_ONLY = (*AUTOPILOT, "raft_multiplier", "tag_wait_seconds", *SERVER_TOKENS)
TLS_PATHS = ("ca_path", "cert_file_path", "key_file_path")
CONFIGURATION_ONLY = (
    "cluster_tag_key",
    "cluster_tag_value",
    "datacenter",
    "endpoint",
    "retry_interval",
    "enable_gossip_encryption",
    *with_files(["gossip_encryption_key"]),
    "enable_rpc_encryption",
    *TLS_PATHS,
    "verify_server_hostname",
    "enable_https",
    "verify_https_client",
    "enable_acl",
    *ACL_TOKENS,
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
        help="encrypt gossip; needs --gossip-encryption-key or --gossip-encryption-key-file",
    )
    add_secret(add, "--gossip-encryption-key", gossip_key, "KEY", "as `consul keygen` prints it")
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
    add("--enable-https", action="store_true", help="serve the API by HTTPS alone, on port 8501; plain HTTP is off")
    add("--verify-https-client", action="store_true", help="demand a certificate of who calls the HTTPS API")
    add("--enable-acl", action="store_true", help="deny what no token allows")
    add_secret(add, "--acl-initial-management-token", token, "UUID", "servers only: the token that may do everything")
    add_secret(add, "--acl-agent-token", token, "UUID", "the agent's own token")
    add_secret(add, "--acl-default-token", token, "UUID", "for who gives this agent no token, as over DNS")
    add_secret(
        add,
        "--acl-nomad-token",
        token,
        "UUID",
        "servers only: the token that Nomad agents have. With the management token, a server makes this, the agent's "
        "and the default token, where Consul does not have them",
    )
    return made


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; contradictions end with usage and status 2."""
    made = parser()
    options = made.parse_args(arguments)
    _check(made, options)
    take_secrets(made, options, SECRETS)
    return options


def _check(made: argparse.ArgumentParser, options: argparse.Namespace) -> None:
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
    gossip_keys = with_files(["gossip_encryption_key"])
    if not options.enable_gossip_encryption:
        refuse_given(made, options, gossip_keys, "would do nothing without --enable-gossip-encryption")
    elif not any(getattr(options, name) for name in gossip_keys):
        made.error("--enable-gossip-encryption needs --gossip-encryption-key or --gossip-encryption-key-file")
    _check_tls(made, options)
    _check_acl(made, options)


def _check_tls(made: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.enable_rpc_encryption:
        lacking = [option_of(name) for name in TLS_PATHS if getattr(options, name) is None]
        if lacking:
            made.error(f"--enable-rpc-encryption needs {', '.join(lacking)} too")
    else:
        names = (*TLS_PATHS, "verify_server_hostname", "enable_https")
        refuse_given(made, options, names, "would do nothing without --enable-rpc-encryption")
    if not options.enable_https:
        refuse_given(made, options, ("verify_https_client",), "would do nothing without --enable-https")


def _check_acl(made: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not options.enable_acl:
        refuse_given(made, options, ACL_TOKENS, "would do nothing without --enable-acl")
    if not any(getattr(options, name) for name in with_files(["acl_initial_management_token"])):
        why = "would do nothing without --acl-initial-management-token, by which a server makes it"
        refuse_given(made, options, with_files(["acl_nomad_token"]), why)
