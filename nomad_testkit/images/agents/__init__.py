"""Get a Consul or Nomad binary: one the user names, the cache, the official release, or a build with Go.

>>> from nomad_testkit.images.agents import DEFAULT_NOMAD, get_agent
>>> agent = get_agent("nomad", DEFAULT_NOMAD, cache=Cache(), progress=print)  # doctest: +SKIP
>>> agent.version, agent.source  # doctest: +SKIP
('1.6.1', 'build')
"""

from __future__ import annotations

from nomad_testkit.images.agents.binary import Agent, AgentName, Source, identify
from nomad_testkit.images.agents.sources import DEFAULT_CONSUL, DEFAULT_NOMAD, get_agent, preflight

__all__ = ["DEFAULT_CONSUL", "DEFAULT_NOMAD", "Agent", "AgentName", "Source", "get_agent", "identify", "preflight"]
