"""Operations on a running cluster: drain, scale, replace, upgrade, power loss, backup and restore.

>>> from nomad_testkit.operations import scale, upgrade
>>> scale(nomad_cluster, "servers", 5)  # doctest: +SKIP
"""

from __future__ import annotations

from nomad_testkit.images.agents import Agent, get_agent
from nomad_testkit.operations.backup import Backup, restore, save
from nomad_testkit.operations.drain import drained, node_id
from nomad_testkit.operations.health import require_healthy
from nomad_testkit.operations.hosts import cut_power, replace_servers, scale
from nomad_testkit.operations.upgrades import upgrade

__all__ = [
    "Agent",
    "Backup",
    "cut_power",
    "drained",
    "get_agent",
    "node_id",
    "replace_servers",
    "require_healthy",
    "restore",
    "save",
    "scale",
    "upgrade",
]
