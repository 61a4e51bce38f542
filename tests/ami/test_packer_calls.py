"""The calls that Packer makes of AWS for an image are the recorded ones, from which its IAM policy is made."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from recording_endpoint import recording

from nomad_testkit.amis import built
from nomad_testkit.aws_policy import seen_calls
from nomad_testkit.settings import Settings
from nomad_testkit.targets.embedded import EmbeddedTarget

log = logging.getLogger(__name__)


def test_packer_makes_the_recorded_calls(
    bare: Path, nomad_settings: Settings, nomad_target: EmbeddedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(nomad_settings, artifacts=tmp_path / "artifacts")
    with recording(nomad_target.endpoint_url) as (url, calls):
        monkeypatch.setattr(EmbeddedTarget, "endpoint_url", url)
        with built(settings, target=nomad_target, progress=log.info, template=bare):
            pass
    assert sorted(set(calls)) == list(seen_calls("packer")), "fixtures/recorded/aws-calls.json has others"
