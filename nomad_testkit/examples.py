"""Examples: a folder with an example.toml that says which groups of hosts make a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Roles:
    """The groups whose hosts run each kind of agent."""

    consul_servers: tuple[str, ...]
    nomad_servers: tuple[str, ...]
    nomad_clients: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """An example with the values of its variables; never changes.

    >>> Example.load("nomad-consul-colocated-cluster").replace(num_clients=3).variables["num_clients"]
    3
    """

    folder: Path
    variables: Mapping[str, Any]
    roles: Roles

    @property
    def name(self) -> str:
        return self.folder.name

    @classmethod
    def load(cls, name_or_path: str | Path) -> Example:
        """Load a bundled example by its name, or any by its folder. Raises ExampleError."""
        raise NotImplementedError

    def replace(self, **variables: Any) -> Example:
        """Make an example with other values of some variables. Raises ExampleError."""
        raise NotImplementedError
