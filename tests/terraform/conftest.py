"""OpenTofu for all tests of this folder, from the cache or built with Go."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from nomad_testkit.examples.terraform_tool import Tool, checked
from nomad_testkit.images.agents.opentofu import get_opentofu
from nomad_testkit.images.cache import Cache
from nomad_testkit.settings import Settings

log = logging.getLogger(__name__)


@pytest.fixture(scope="session")
def tofu(nomad_settings: Settings) -> Path:
    """The program; the setting ``terraform`` can name another, for these tests too."""
    return nomad_settings.terraform or get_opentofu(Cache(), log.info)


@pytest.fixture(scope="session")
def tool(tofu: Path) -> Tool:
    """The program, as it describes itself."""
    return checked(tofu)
