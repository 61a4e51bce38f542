#!/usr/bin/env python3
"""Install Consul, run-consul and their folders on this host, to make an image of it.

python3 install_consul.py --version 1.14.0
python3 install_consul.py --download-url file:///tmp/consul.zip --sha256 HEX
"""

from __future__ import annotations

import shutil
import sys

from host_install import LINK_DIR, check_source, install, install_parser, make_folder
from host_options import absolute_path
from host_systemd import Host, run_script

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; contradictions end with usage and status 2."""
    made = install_parser("consul")
    add = made.add_argument
    add("--ca-file-path", type=absolute_path, metavar="FILE", help="a CA certificate to put into PATH/tls/ca")
    add("--cert-file-path", type=absolute_path, metavar="FILE", help="a certificate to put into PATH/tls...")
    add("--key-file-path", type=absolute_path, metavar="FILE", help="...and its key")
    options = made.parse_args(arguments)
    check_source(made, options)
    if (options.cert_file_path is None) != (options.key_file_path is None):
        made.error("--cert-file-path and --key-file-path belong together: one is given without the other")
    for name in ("ca_file_path", "cert_file_path", "key_file_path"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            made.error(f"argument --{name.replace('_', '-')}: {str(path)!r} is refused; right is a file that exists")
    return options


def install_tls(options: argparse.Namespace, host: Host) -> None:
    """Copy what TLS needs into place; the key only its owner can read."""
    folder = options.path / "tls"
    for path in (folder, folder / "ca"):
        make_folder(path, options.user, host)
    wanted = (
        (options.ca_file_path, folder / "ca", 0o644),
        (options.cert_file_path, folder, 0o644),
        (options.key_file_path, folder, 0o600),
    )
    for source, target_folder, mode in wanted:
        if source is not None:
            target = target_folder / source.name
            target.touch(mode=0o600)
            target.chmod(0o600)
            shutil.copyfile(source, target)
            target.chmod(mode)
            host.chown(target, options.user)


def main(arguments: Sequence[str] | None = None, host: Host | None = None, *, link_dir: Path = LINK_DIR) -> int:
    """Run the script; gives its exit status."""
    options = parse(arguments)
    host = host or Host()

    def work() -> None:
        install(
            "consul", options, host, ["consul_options.py", "consul_tokens.py", "host_aws_api.py"], link_dir=link_dir
        )
        install_tls(options, host)

    return run_script("consul.service", host, work)


if __name__ == "__main__":
    sys.exit(main())
