"""Boot a real Nomad and Consul cluster for a test, verify it, destroy it.

The names below are loaded on first use: an installed plugin is imported by every pytest run on the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.cluster.host import Host
    from nomad_testkit.cluster.jobs import Job
    from nomad_testkit.deployment.lifecycle import deployed
    from nomad_testkit.examples.example import Example
    from nomad_testkit.settings import Settings
    from nomad_testkit.wait import Deadline

__version__ = "0.2.0"
__all__ = ["Cluster", "Deadline", "Example", "Host", "Job", "Settings", "__version__", "deployed"]

_HOMES = {
    "Cluster": "nomad_testkit.cluster.cluster",
    "Deadline": "nomad_testkit.wait",
    "Example": "nomad_testkit.examples.example",
    "Host": "nomad_testkit.cluster.host",
    "Job": "nomad_testkit.cluster.jobs",
    "Settings": "nomad_testkit.settings",
    "deployed": "nomad_testkit.deployment.lifecycle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
