"""Clients of the agents' HTTP APIs that the environment cannot redirect, and that never wait for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nomad_testkit.cluster.clients.consul import ConsulClient
    from nomad_testkit.cluster.clients.nomad import NomadClient

__all__ = ["ConsulClient", "NomadClient"]

_HOMES = {"ConsulClient": "nomad_testkit.cluster.clients.consul", "NomadClient": "nomad_testkit.cluster.clients.nomad"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
