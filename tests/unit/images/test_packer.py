"""What is told to Packer, and what is made of what it says; a script stands in its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nomad_testkit.errors import PackerError
from nomad_testkit.images import packer
from nomad_testkit.images.packer import Template
from nomad_testkit.wait import Deadline

Fake = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a program `packer` into PATH; gives the file that its arguments are written to, a line a call."""

    def make(script: str, version: str = "1.6.6") -> Path:
        folder, calls = tmp_path / "bin", tmp_path / "calls"
        folder.mkdir()
        program = folder / "packer"
        program.write_text(
            f'#!/bin/sh\necho "$*" >> {calls}\n'
            f'if [ "$1" = version ]; then echo "1,,ui,say,Packer v{version}"; exit; fi\n{script}\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return calls

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "template"
    made.mkdir()
    for name in ("web.pkr.hcl", "plugins.pkr.hcl"):
        (made / name).touch()
    return made


def build(template: Template, lines: list[str] | None = None, seconds: float = 60) -> str:
    heard = [] if lines is None else lines
    return packer.build(template, os.environ, deadline=Deadline.after(seconds), progress=heard.append)


def test_an_old_packer_reads_the_file_and_a_new_one_the_folder(folder: Path) -> None:
    template = Template(folder)
    assert template.argument((1, 6, 6)) == folder / "web.pkr.hcl"
    assert template.argument((1, 7, 0)) == folder
    assert Template(folder / "web.pkr.hcl").argument((1, 11, 0)) == folder / "web.pkr.hcl"
    (folder / "other.pkr.hcl").touch()
    assert template.argument((1, 6, 6)) == folder


def test_a_new_packer_gets_its_plugins_first(fake: Fake, folder: Path) -> None:
    calls = fake("true", version="1.11.2")
    packer.validate(Template(folder, {"a": "b"}, only="*.debian-12"), os.environ)
    assert calls.read_text().splitlines() == [
        "version -machine-readable",
        f"init -machine-readable {folder}",
        f"validate -machine-readable -only=*.debian-12 -var a=b {folder}",
    ]


def test_the_image_and_the_phases_are_told(fake: Fake, folder: Path) -> None:
    fake(
        "echo '1,,ui,say,==> amazon-ebs.web: Launching a source AWS instance...'\n"
        "echo '1,,ui,message,    amazon-ebs.web: Instance ID: i-1'\n"
        "echo '1,amazon-ebs.web,artifact,0,builder-id,mitchellh.amazonebs'\n"
        "echo '1,amazon-ebs.web,artifact,0,id,us-east-1:ami-0abc'"
    )
    lines: list[str] = []
    assert build(Template(folder), lines) == "ami-0abc"
    assert lines == ["packer: Launching a source AWS instance..."]


@pytest.mark.parametrize(
    ("artifacts", "told"),
    [
        ("", "made these AMIs: none; expected one"),
        ("us-east-1:ami-1%!(PACKER_COMMA)us-west-2:ami-2", "made these AMIs: ami-1, ami-2; expected one"),
    ],
)
def test_one_image_is_right(artifacts: str, told: str, fake: Fake, folder: Path) -> None:
    fake(f"echo '1,web,artifact,0,id,{artifacts}'" if artifacts else "true")
    with pytest.raises(PackerError, match=told):
        build(Template(folder, only="*.web"))


def test_its_own_words_are_shown(fake: Fake, folder: Path) -> None:
    said = r"Error: Unsupported argument\n\n  on web.pkr.hcl line 4:\n\nNo x%!(PACKER_COMMA) please.\n"
    fake(f"printf '%s\\n' '1,,ui,error,{said}'; exit 1")
    with pytest.raises(PackerError) as refused:
        packer.validate(Template(folder), os.environ)
    wanted = "Error: Unsupported argument\n\n  on web.pkr.hcl line 4:\n\nNo x, please."
    assert str(refused.value) == f"Packer refuses {folder} (status 1). Packer's own words:\n{wanted}"


def test_an_error_is_shown_before_the_last_lines(fake: Fake, folder: Path) -> None:
    fake(
        "echo '1,,ui,error,==> web: it went wrong'\n"
        'for i in $(seq 50); do echo "1,,ui,say,==> web: cleaning up $i"; done; exit 1'
    )
    with pytest.raises(PackerError) as refused:
        build(Template(folder))
    lines = str(refused.value).splitlines()
    assert lines[1] == "==> web: it went wrong"
    assert lines[-1] == "==> web: cleaning up 50"
    assert "==> web: cleaning up 20" not in lines


def interrupt(line: str) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("progress", "error", "match"),
    [
        (print, PackerError, "`packer build` did not end in time and was interrupted"),
        (interrupt, KeyboardInterrupt, "^$"),
    ],
)
def test_one_that_takes_too_long_or_whose_caller_is_interrupted_cleans_up(
    progress: Callable[[str], None], error: type[BaseException], match: str, fake: Fake, folder: Path, tmp_path: Path
) -> None:
    fake(
        f"trap 'echo cleaned > {tmp_path}/cleaned; exit 1' INT\n"
        "echo '1,,ui,say,==> web: Launching'; while :; do sleep 0.05; done"
    )
    with pytest.raises(error, match=match):
        packer.build(Template(folder), os.environ, deadline=Deadline.after(0.5), progress=progress)
    assert (tmp_path / "cleaned").read_text() == "cleaned\n"


def test_one_that_does_not_clean_up_is_ended(
    fake: Fake, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packer, "CLEANUP_SECONDS", 0.2)
    fake("trap '' INT; while :; do sleep 0.05; done")
    with pytest.raises(PackerError, match="did not end in time"):
        build(Template(folder), seconds=0.5)
    assert "did not clean up" in caplog.text


def test_a_path_where_nothing_is_and_a_machine_without_packer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(PackerError, match=r"no Packer template at .*gone; expected a file \*\.pkr\.hcl or its folder"):
        packer.validate(Template(tmp_path / "gone"), os.environ)
    monkeypatch.setenv("PATH", str(tmp_path))
    (missing,) = packer.preflight()
    assert str(missing).startswith("packer: apt-get install packer, or see https://")
    with pytest.raises(PackerError, match="packer cannot be run"):
        packer.packer_version()


def test_the_users_aws_settings_reach_aws_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")
    theirs = packer.environment(endpoint_url=None, region="us-east-1", credentials=None)
    assert (theirs["AWS_PROFILE"], "AWS_ENDPOINT_URL" in theirs) == ("mine", False)
    elsewhere = packer.environment(endpoint_url="http://127.31.255.1", region="us-east-1", credentials=None)
    assert (elsewhere["AWS_PROFILE"], elsewhere["AWS_ENDPOINT_URL"]) == ("mine", "http://127.31.255.1")
    own = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "hidden"}
    embedded = packer.environment(endpoint_url="http://127.31.255.1", region="us-east-1", credentials=own)
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN"} & set(embedded)
    assert own.items() <= embedded.items()
    assert embedded["AWS_ENDPOINT_URL"] == "http://127.31.255.1"
    assert embedded["PATH"] == os.environ["PATH"]
