"""OpenTofu for all tests of this folder, from the cache or built with Go."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from nomad_testkit.agents.opentofu import get_opentofu
from nomad_testkit.cache import Cache
from nomad_testkit.settings import Settings
from nomad_testkit.terraform.tool import Tool, checked

log = logging.getLogger(__name__)


@pytest.fixture(scope="session")
def tofu(nomad_settings: Settings) -> Path:
    """The program; the setting ``terraform`` can name another, for these tests too."""
    return nomad_settings.terraform or get_opentofu(Cache(), log.info)


@pytest.fixture(scope="session")
def tool(tofu: Path) -> Tool:
    """The program, as it describes itself."""
    return checked(tofu)
