"""The options of run-nomad, and which of them belong together."""

from __future__ import annotations

from host_options import (
    absolute_path,
    add_secret,
    add_unit_options,
    agent_address,
    gossip_key,
    matching,
    new_parser,
    option_of,
    refuse_given,
    take_secrets,
    token,
    whole_number,
    with_files,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

CONSUL_WAIT_SECONDS = 240
SECRETS = {"gossip_encryption_key": gossip_key, "acl_bootstrap_token": token, "consul_token": token}
GOSSIP_KEYS = with_files(["gossip_encryption_key"])
BOOTSTRAP_TOKENS = with_files(["acl_bootstrap_token"])
SERVER_ONLY = ("num_servers", "enable_gossip_encryption", *GOSSIP_KEYS, *BOOTSTRAP_TOKENS)
CLIENT_ONLY = ("enable_raw_exec", "node_class")
TLS_PATHS = ("ca_file_path", "cert_file_path", "key_file_path")
CONSUL_TLS_PATHS = ("consul_ca_file_path", "consul_cert_file_path", "consul_key_file_path")
CONFIGURATION_ONLY = (
    "datacenter",
    *SERVER_ONLY,
    *CLIENT_ONLY,
    "enable_rpc_encryption",
    *TLS_PATHS,
    "verify_server_hostname",
    "enable_https",
    "verify_https_client",
    "enable_acl",
)


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = new_parser("run-nomad", "Configure and start a Nomad agent on this EC2 instance.")
    add = made.add_argument
    add("--server", action="store_true", help="run a server; needs --num-servers")
    add("--client", action="store_true", help="run a client; may be given together with --server")
    add("--num-servers", type=whole_number(1), metavar="N", help="how many servers the cluster begins with")
    add_unit_options(made, "nomad", "--skip-nomad-config")
    add("--use-sudo", action="store_true", help="run the agent as root, as --client does anyway")
    add = made.add_argument_group("not among upstream's options").add_argument
    name = matching(r"[A-Za-z0-9_.-]{1,128}", "letters, digits, -, _ and .")
    add("--datacenter", type=name, metavar="NAME", help="Nomad's datacenter (default: the availability zone)")
    add("--node-class", type=name, metavar="NAME", help="clients only: the class that jobs may ask for")
    add("--enable-raw-exec", action="store_true", help="let jobs of this client use the raw_exec driver")
    add("--enable-gossip-encryption", action="store_true", help="servers only: encrypt gossip")
    add_secret(
        add, "--gossip-encryption-key", gossip_key, "KEY", "as `nomad operator gossip keyring generate` prints it"
    )
    add("--enable-rpc-encryption", action="store_true", help="use TLS for RPC; needs the three files")
    add("--ca-file-path", type=absolute_path, metavar="FILE", help="the CA's certificate")
    add("--cert-file-path", type=absolute_path, metavar="FILE", help="this agent's certificate")
    add("--key-file-path", type=absolute_path, metavar="FILE", help="this agent's key")
    add("--verify-server-hostname", action="store_true", help="demand the server's name in its certificate")
    add("--enable-https", action="store_true", help="serve the API by HTTPS instead of plain HTTP")
    add("--verify-https-client", action="store_true", help="demand a certificate of who calls the HTTPS API")
    add("--enable-acl", action="store_true", help="deny what no token allows")
    add_secret(
        add, "--acl-bootstrap-token", token, "UUID", "servers only: the first management token, made by one of them"
    )
    add("--consul-address", type=agent_address, metavar="HOST:PORT", help="(default: 127.0.0.1:8500; HTTPS: 8501)")
    add("--consul-https", action="store_true", help="talk to Consul by HTTPS; needs --consul-ca-file-path")
    add("--consul-ca-file-path", type=absolute_path, metavar="FILE", help="the certificate of Consul's CA")
    add("--consul-cert-file-path", type=absolute_path, metavar="FILE", help="a certificate to show to Consul...")
    add("--consul-key-file-path", type=absolute_path, metavar="FILE", help="...and its key")
    add_secret(add, "--consul-token", token, "UUID", "the token to use with Consul")
    add(
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
        refuse_given(made, options, CONFIGURATION_ONLY, why)
    elif options.server and options.num_servers is None:
        made.error("--server needs --num-servers: how many servers the cluster begins with")
    if not options.server:
        refuse_given(made, options, SERVER_ONLY, "would do nothing without --server")
    if not options.client:
        refuse_given(made, options, CLIENT_ONLY, "would do nothing without --client: only clients run jobs")
    if not options.enable_gossip_encryption:
        refuse_given(made, options, GOSSIP_KEYS, "would do nothing without --enable-gossip-encryption")
    elif not any(getattr(options, name) for name in GOSSIP_KEYS):
        made.error("--enable-gossip-encryption needs --gossip-encryption-key or --gossip-encryption-key-file")
    _check_tls(made, options)
    if not options.enable_acl:
        refuse_given(made, options, BOOTSTRAP_TOKENS, "would do nothing without --enable-acl")
    _check_consul(made, options)
    take_secrets(made, options, SECRETS)
    return options


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


def _check_consul(made: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not options.consul_https:
        refuse_given(made, options, CONSUL_TLS_PATHS, "would do nothing without --consul-https")
    elif options.consul_ca_file_path is None:
        made.error("--consul-https needs --consul-ca-file-path")
    if (options.consul_cert_file_path is None) != (options.consul_key_file_path is None):
        made.error("--consul-cert-file-path and --consul-key-file-path belong together: one is given without the other")
    if options.skip_nomad_config and options.consul_wait_seconds == 0:
        names = ("consul_address", "consul_https", *CONSUL_TLS_PATHS, *with_files(["consul_token"]))
        why = "would do nothing with --skip-nomad-config and without a wait for Consul"
        refuse_given(made, options, names, why)
