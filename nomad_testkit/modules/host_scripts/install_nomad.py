#!/usr/bin/env python3
"""Install Nomad, run-nomad and their folders on this host, to make an image of it.

python3 install_nomad.py --version 1.6.1
python3 install_nomad.py --download-url file:///tmp/nomad.zip --sha256 HEX
"""

from __future__ import annotations

import sys

from host_install import LINK_DIR, install, parse_install
from host_systemd import Host, run_script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MODULES = ["nomad_agent.py", "nomad_options.py", "wait_for_consul.py"]


def main(arguments: Sequence[str] | None = None, host: Host | None = None, *, link_dir: Path = LINK_DIR) -> int:
    """Run the script; gives its exit status."""
    options = parse_install("nomad", arguments)
    host = host or Host()
    return run_script("nomad.service", host, lambda: install("nomad", options, host, MODULES, link_dir=link_dir))


if __name__ == "__main__":
    sys.exit(main())
