"""Boot a real Nomad and Consul cluster for a test, verify it, destroy it.

The names below are loaded on first use: an installed plugin is imported by every pytest run on the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nomad_testkit.cluster import Cluster
    from nomad_testkit.examples import Example
    from nomad_testkit.host import Host
    from nomad_testkit.jobs import Job

__version__ = "0.1.0"
__all__ = ["Cluster", "Example", "Host", "Job", "__version__"]

_HOMES = {
    "Cluster": "nomad_testkit.cluster",
    "Example": "nomad_testkit.examples",
    "Host": "nomad_testkit.host",
    "Job": "nomad_testkit.jobs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
