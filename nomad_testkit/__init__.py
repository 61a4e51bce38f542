"""Boot a real Nomad and Consul cluster for a test, verify it, destroy it.

The names below are loaded on first use: an installed plugin is imported by every pytest run on the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.cluster.host import Host
    from nomad_testkit.cluster.jobs import Job
    from nomad_testkit.examples.example import Example

__version__ = "0.1.0"
__all__ = ["Cluster", "Example", "Host", "Job", "__version__"]

_HOMES = {
    "Cluster": "nomad_testkit.cluster.cluster",
    "Example": "nomad_testkit.examples.example",
    "Host": "nomad_testkit.cluster.host",
    "Job": "nomad_testkit.cluster.jobs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
