#!/usr/bin/env python3
"""Install Consul, run-consul and their folders on this host, to make an image of it.

python3 install_consul.py --version 1.14.0
python3 install_consul.py --download-url file:///tmp/consul.zip --sha256 HEX
"""

from __future__ import annotations

import sys

from host_install import LINK_DIR, install, parse_install
from host_systemd import Host, run_script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MODULES = ["consul_options.py", "consul_tokens.py", "host_aws_api.py"]


def main(arguments: Sequence[str] | None = None, host: Host | None = None, *, link_dir: Path = LINK_DIR) -> int:
    """Run the script; gives its exit status."""
    options = parse_install("consul", arguments)
    host = host or Host()
    return run_script("consul.service", host, lambda: install("consul", options, host, MODULES, link_dir=link_dir))


if __name__ == "__main__":
    sys.exit(main())
