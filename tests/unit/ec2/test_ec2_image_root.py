from __future__ import annotations

import os
from pathlib import Path

import pytest

from nomad_testkit.ec2.machines.image_root import ImageRoot
from nomad_testkit.ec2.machines.layers import CA_VARIABLE, CERTIFICATES, ENVIRONMENT, INJECTED, ImageStore, LocalImage

PATHS = (*INJECTED, CERTIFICATES, ENVIRONMENT)
LINKS = [name for path in PATHS for name in (path, *map(str, Path(path).parents)) if name != "."]
"""Each path that is written, and each folder above it."""


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the machine with everything that a link out of an image could reach."""
    folder = tmp_path / "victim"
    for path in PATHS:
        for name in (path, Path(path).name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("the machine's\n")
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    folder = tmp_path / "image"
    folder.mkdir()
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("way", ["absolute", "relative", "both"])
@pytest.mark.parametrize("link", sorted(set(LINKS)))
@pytest.mark.parametrize("there", [True, False], ids=["leads somewhere in the image", "leads nowhere"])
def test_no_link_leads_out_of_an_image(link: str, way: str, there: bool, image: Path, victim: Path) -> None:
    for name in {str(victim), f"{victim}/{link}"} if there else ():
        (image / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
    (image / link).parent.mkdir(parents=True, exist_ok=True)
    target = f"{victim}/{link}" if link in PATHS else str(victim)
    steps = "../" * 40
    (image / link).symlink_to(
        {"absolute": target, "relative": steps + target.lstrip("/")}.get(way, f"/{steps}{target}")
    )
    before = contents(victim)
    root = ImageRoot(image)
    for path in PATHS:
        assert root.read(path) != "the machine's\n"
        root.write(path, "the image's\n")
        assert root.read(path) == "the image's\n"
    assert contents(victim) == before
    for path in PATHS:
        root.remove(path)
        assert root.read(path) is None
    assert contents(victim) == before


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_an_image_made_of_a_disk_with_links_changes_nothing_else(
    link: str, image: Path, victim: Path, tmp_path: Path
) -> None:
    for name in (CERTIFICATES, ENVIRONMENT):
        (victim / name).write_text(f"the cloud's\n{CA_VARIABLE}\n")
        (victim / Path(name).name).write_text(f"the cloud's\n{CA_VARIABLE}\n")
    (image / link).parent.mkdir(parents=True, exist_ok=True)
    (image / link).symlink_to(f"{victim}/{link}" if link in PATHS else victim)
    before = contents(victim)
    store = ImageStore(tmp_path / "made", [LocalImage("ami-base", "base", (image,))])
    store.add("ami-new", image, "ami-base", certificate="the cloud's\n")
    assert contents(victim) == before
    assert (tmp_path / "made/ami-new" / link).is_symlink()


def test_a_loop_of_links_makes_room(image: Path) -> None:
    (image / "etc").mkdir()
    (image / "etc/hostname").symlink_to("hostname")
    ImageRoot(image).write("etc/hostname", "a-name\n")
    assert (image / "etc/hostname").read_text() == "a-name\n"


def test_a_fifo_is_not_waited_for(image: Path) -> None:
    (image / "etc").mkdir()
    os.mkfifo(image / "etc/environment")
    root = ImageRoot(image)
    assert root.read("etc/environment") is None
    root.write("etc/environment", "A=1\n")
    assert (image / "etc/environment").read_text() == "A=1\n"


def test_a_file_that_is_there_keeps_its_mode(image: Path) -> None:
    (image / "file").touch(mode=0o600)
    root = ImageRoot(image)
    root.write("file", "longer than what comes next\n")
    root.write("file", "short\n")
    assert root.read("file") == "short\n"
    assert (image / "file").stat().st_mode & 0o777 == 0o600


def test_a_link_is_followed_within_the_image_only_where_that_is_asked_for(image: Path) -> None:
    (image / "real").write_text("text\n")
    (image / "etc").mkdir()
    (image / "etc/link").symlink_to("/real")
    root = ImageRoot(image)
    assert root.read("etc/link") == "text\n"
    assert root.read("etc/link", follow=False) is None
    assert root.is_link("etc/link")
    assert not root.is_link("real")
    assert not root.is_link("no/such")


def test_new_files_and_folders_are_the_hosts_own(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[object, ...]] = []
    monkeypatch.setattr(os, "fchown", lambda file, owner, group: given.append((owner, group)))
    monkeypatch.setattr(os, "chown", lambda path, owner, group, **_: given.append((path, owner, group)))
    ImageRoot(image, owner=1000000).write("a/b/file", "text")
    assert given == [("a", 1000000, 1000000), ("b", 1000000, 1000000), (1000000, 1000000)]
