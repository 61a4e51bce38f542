"""A backup that cannot be used is refused before anything is sent, and its keys are shown to nobody."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from snapshots import snapshot

from nomad_testkit.errors import UsageError
from nomad_testkit.operations import Backup, restore

BACKUP = Backup("nt-old", snapshot(), snapshot(), {"a.nks.json": b'{"Meta": "secret"}'})


def cluster(*, acl: bool = False, run_id: str = "nt-new") -> Any:
    """Make a cluster that has nothing else, so that whatever touches it fails."""
    return SimpleNamespace(run_id=run_id, example=SimpleNamespace(security=SimpleNamespace(acl=acl)))


@pytest.mark.parametrize(
    ("backup", "said"),
    [
        (replace(BACKUP, consul=b"none"), "4 bytes is damaged.*of a consul client"),
        (replace(BACKUP, nomad=snapshot()[:-9]), "is damaged.*of a nomad client"),
        (replace(BACKUP, keys={"a.nks.json": b'{"Meta": "sec'}), "key a.nks.json of the backup of nt-old is damaged"),
        (replace(BACKUP, keys={}), "nt-old has no key of Nomad's keystore; expected what save gave"),
    ],
)
def test_what_is_damaged_is_refused(backup: Backup, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        restore(cluster(), backup)
    assert "sec" not in str(caught.value)


def test_tokens_of_another_cluster_are_refused_and_what_can_be_used_goes_on_to_the_hosts() -> None:
    with pytest.raises(UsageError, match="nt-new has ACLs, and the backup is of nt-old: it would get that one's tok"):
        restore(cluster(acl=True), BACKUP)
    for usable in (cluster(), cluster(acl=True, run_id="nt-old")):
        with pytest.raises(AttributeError, match="nomad_servers"):
            restore(usable, BACKUP)


def test_nobody_is_shown_what_is_in_it() -> None:
    assert repr(BACKUP) == "Backup(run_id='nt-old')"
