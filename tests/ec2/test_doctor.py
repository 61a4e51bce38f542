"""`nomad-testkit doctor --fix` on this machine: it makes the one thing that is not in the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nomad_testkit.cli import main
from nomad_testkit.images.cache import Cache
from nomad_testkit.settings import Settings
from nomad_testkit.targets.embedded import image_builder
from nomad_testkit.targets.embedded.target import agents_of

IMAGE = "image with Consul and Nomad"


def call(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["doctor", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["ready"] is True
    return {one["what"]: one for one in told["findings"]}


def test_it_makes_the_image_that_is_not_made_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache()
    agents_of(Settings(), cache=cache, progress=print)
    image_builder.base(cache, print)
    for kind in ("agents", "base-image"):
        (tmp_path / kind).symlink_to(cache.root / kind)
    monkeypatch.setenv("NOMAD_TESTKIT_CACHE", str(tmp_path))

    before = call()
    assert (before["base image"]["state"], before[IMAGE]["state"]) == ("found", "later")
    assert before[IMAGE]["fix"] == "made at first use, or by --fix"
    after = call("--fix")
    assert after[IMAGE]["state"] == "found"
    assert Path(after[IMAGE]["where"]).is_relative_to(tmp_path)
    assert {what: one["state"] for what, one in after.items() if one["state"] != "found" and not one["optional"]} == {}
