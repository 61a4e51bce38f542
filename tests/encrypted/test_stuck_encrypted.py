"""A host whose Consul has a token that nobody made does not get ready, and the error says which host, and why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from deploying import stuck

from nomad_testkit import Example
from nomad_testkit.errors import WaitTimeout
from nomad_testkit.settings import Settings
from nomad_testkit.targets import Target

pytestmark = pytest.mark.encrypted

AGENTS_BEGIN = "/opt/consul/bin/run-consul"
ANOTHER = 'tr -d "\\n" </proc/sys/kernel/random/uuid >"$secrets/consul-agent.token"\n\n'


def test_a_wrong_agent_token_is_named_as_the_reason(
    nomad_settings: Settings, nomad_target: Target, tmp_path: Path
) -> None:
    folder = tmp_path / "example"
    shutil.copytree(Example.load("nomad-consul-encrypted-cluster").folder, folder)
    script = folder / "user-data-client.sh"
    text = script.read_text()
    assert text.count(AGENTS_BEGIN) == 1
    script.write_text(text.replace(AGENTS_BEGIN, ANOTHER + AGENTS_BEGIN))
    example = Example.load(folder).replace(num_servers=1, num_clients=1)
    said = stuck(nomad_settings, nomad_target, example, tmp_path, error=WaitTimeout, seconds=90)
    assert "clients-0 (i-" in said, said
    assert "consul.service warns:" in said, said
    assert "ACL not found" in said, said
    assert "ACL not found" not in said.partition("servers-0 (i-")[2].partition("clients-0 (i-")[0], said
