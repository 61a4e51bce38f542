from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nomad_testkit.errors import TestkitError
from nomad_testkit.runs.journal import Entry, Journal


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    return Journal(folder / "journal.jsonl")


def test_a_run_that_was_forgotten_does_not_come_back(journal: Journal) -> None:
    journal.record("key pair", "web")
    shutil.rmtree(journal.path.parent)
    journal.destroyed("key pair", "web")
    with pytest.raises(TestkitError, match=r"the journal .* cannot be written: No such file or directory"):
        journal.record("key pair", "another")
    with pytest.raises(TestkitError, match=r"cannot be written"):
        journal.created("key pair", "another", "web")
    assert journal.left() == []
    assert not journal.path.parent.exists()


def test_tells_what_may_still_exist(journal: Journal) -> None:
    journal.record("security group", "web", step="servers: security group")
    journal.record("IAM role", "web")
    journal.record("key pair", "web")
    journal.created("security group", "web", "sg-1")
    journal.created("key pair", "web", "web")
    journal.destroyed("key pair", "web")
    again = Journal(journal.path)
    assert again.left() == [
        Entry("security group", "web", "sg-1", facts={"step": "servers: security group"}),
        Entry("IAM role", "web"),
    ]
    assert [entry.destroyed for entry in again.entries()] == [False, False, True]


def test_only_its_owner_can_read_it(journal: Journal) -> None:
    journal.record("key pair", "web")
    assert journal.path.stat().st_mode & 0o777 == 0o600


def test_a_line_cut_short_spoils_no_other(journal: Journal) -> None:
    journal.record("key pair", "one")
    with journal.path.open("ab") as file:
        file.write(b'{"event":"record","kind":"key pa')
    journal.record("key pair", "two")
    assert [entry.name for entry in journal.left()] == ["one", "two"]


def test_no_file_is_no_resource(journal: Journal) -> None:
    assert journal.left() == []


def test_refuses_what_no_journal_has_written(journal: Journal) -> None:
    journal.record("key pair", "one")
    with journal.path.open("a") as file:
        file.write(json.dumps({"something": "else"}) + "\n")
    with pytest.raises(TestkitError, match=r"journal\.jsonl is not a journal"):
        journal.entries()


def test_names_the_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TestkitError, match=r"the journal .*/file/journal\.jsonl cannot be written: "):
        Journal(tmp_path / "file" / "journal.jsonl").record("key pair", "one")


def test_threads_write_whole_lines(journal: Journal) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: journal.record("key pair", str(number)), range(40)))
    assert {entry.name for entry in journal.left()} == {str(number) for number in range(40)}


def test_what_never_got_an_id_is_destroyed_by_its_name(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.record("key pair", "web")
    journal.destroyed("key pair", "web")
    assert [entry.destroyed for entry in journal.entries()] == [True]
    assert journal.left() == []
