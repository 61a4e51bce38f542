from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from nomad_testkit.ec2.machines.layers import (
    CA_VARIABLE,
    CERTIFICATES,
    ENVIRONMENT,
    INJECTED,
    ImageStore,
    LocalImage,
    image_id,
)
from nomad_testkit.errors import ImageError


def test_image_id_depends_on_what_it_is_made_from() -> None:
    one = image_id({"suite": "bookworm", "files": "a"})
    assert re.fullmatch(r"ami-[0-9a-f]{17}", one)
    assert one == image_id({"files": "a", "suite": "bookworm"})
    assert one != image_id({"files": "b", "suite": "bookworm"})


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    base = tmp_path / "base"
    base.mkdir()
    return ImageStore(tmp_path / "made", [LocalImage("ami-base", "base", (base,))])


def test_an_image_lies_on_top_of_the_one_it_was_booted_from(store: ImageStore, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    for name in (*INJECTED, "opt/kept"):
        (disk / name).parent.mkdir(parents=True, exist_ok=True)
        (disk / name).write_text("text")
    (disk / "opt/kept").chmod(0o750)
    (disk / "opt/link").symlink_to("kept")
    store.add("ami-new", disk, "ami-base")
    assert store.layers("ami-new") == (tmp_path / "made/ami-new", tmp_path / "base")
    layer = tmp_path / "made/ami-new"
    assert [name for name in INJECTED if (layer / name).exists()] == []
    assert (layer / "opt/kept").stat().st_mode & 0o777 == 0o750
    assert (layer / "opt/link").readlink() == Path("kept")
    store.save("ami-new", tmp_path / "saved/layer")
    assert (tmp_path / "saved/layer/opt/kept").read_text() == "text"


def test_an_image_does_not_trust_the_cloud_that_it_was_made_in(store: ImageStore, tmp_path: Path) -> None:
    disk, certificate = tmp_path / "disk", "-----BEGIN CERTIFICATE-----\nthis cloud\n-----END CERTIFICATE-----\n"
    for name in (CERTIFICATES, ENVIRONMENT):
        (disk / name).parent.mkdir(parents=True, exist_ok=True)
    (disk / CERTIFICATES).write_text(f"others before\n{certificate}others after\n")
    (disk / ENVIRONMENT).write_text(f"LANG=C\n{CA_VARIABLE}\n")
    store.add("ami-new", disk, "ami-base", certificate=certificate)
    assert (tmp_path / "made/ami-new" / CERTIFICATES).read_text() == "others before\nothers after\n"
    assert (tmp_path / "made/ami-new" / ENVIRONMENT).read_text() == "LANG=C\n"


def test_a_forgotten_image_stays_on_disk_while_another_lies_on_it(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    store.add("ami-1", tmp_path / "disk", "ami-base")
    store.add("ami-2", tmp_path / "disk", "ami-1")
    store.forget("ami-1")
    assert not store.has("ami-1")
    assert (tmp_path / "made/ami-1").is_dir()
    store.forget("ami-2")
    assert not (tmp_path / "made/ami-2").exists()


def test_an_unknown_image_is_named_with_those_that_exist(store: ImageStore) -> None:
    with pytest.raises(ImageError, match=r"no image ami-x; there are: ami-base"):
        store.layers("ami-x")


def test_a_copy_that_fails_half_way_leaves_nothing(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, programs, half = tmp_path / "disk", tmp_path / "bin", tmp_path / "half"
    disk.mkdir()
    programs.mkdir()
    cp = programs / "cp"
    cp.write_text(f'#!/bin/sh\n{shutil.which("cp")} "$@"\nls -d "$3" > {half}\necho "no room" >&2\nexit 1\n')
    cp.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ImageError, match=r"could not be copied.*no room"):
        store.add("ami-new", disk, "ami-base")
    made = tmp_path / "made/ami-new"
    assert half.read_text() == f"{made}\n"
    assert not made.exists()
    assert not store.has("ami-new")


def test_a_resolver_configuration_that_a_program_of_the_image_keeps_stays(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "disk/etc").mkdir(parents=True)
    stub = Path("/run/systemd/resolve/stub-resolv.conf")
    (tmp_path / "disk/etc/resolv.conf").symlink_to(stub)
    store.add("ami-new", tmp_path / "disk", "ami-base")
    assert (tmp_path / "made/ami-new/etc/resolv.conf").readlink() == stub
