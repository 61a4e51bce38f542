"""Images from elsewhere: what is unpacked of each form, what is refused, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from image_forms import as_disk, as_oci, as_tar

from nomad_testkit.errors import UsageError
from nomad_testkit.targets.embedded import imported
from nomad_testkit.targets.embedded.imported import ImportedImage, images_path, import_image, imported_images

FILES = ("usr/lib/systemd/systemd", "usr/sbin/sshd", "usr/bin/cloud-init")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root folder with as much in it as an import looks at, and with all that it has to keep."""
    folder = tmp_path / "root"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", folder / name)
    (folder / "etc").mkdir()
    (folder / "etc/absolute").symlink_to("/etc/shadow")
    (folder / "etc/file").write_text("text")
    os.chown(folder / "etc/file", 1234, 5678)
    (folder / "etc/file").chmod(0o4711)
    os.link(folder / "etc/file", folder / "etc/second")
    os.setxattr(
        folder / "usr/sbin/sshd", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
    )
    # user::rw- user:1234:r-- group::r-- mask::r-- other::---
    entries = ((1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
    (folder / "etc/listed").touch(0o640)
    listed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(folder / "etc/listed", "system.posix_acl_access", listed)
    return folder


UPPER = (".wh.gone", "hidden/.wh..wh..opq", "hidden/new", "link/through")
"""A layer that hides a file and a folder's content, and writes through a link."""


def with_hidden(root: Path) -> Path:
    (root / "hidden").mkdir()
    (root / "hidden/one").touch()
    (root / "gone").touch()
    (root / "link").symlink_to("/etc")
    return root


def imports(source: Path, name: str = "mine") -> ImportedImage:
    return import_image(source, name=name, owner="123456789012", user="debian", progress=lambda line: None)


@pytest.mark.parametrize(
    "made",
    [
        lambda root, folder: root,
        lambda root, folder: as_tar(root, folder / "root.tar"),
        lambda root, folder: as_tar(root, folder / "root.tar.zst", "--zstd"),
        lambda root, folder: as_oci(with_hidden(root), folder / "oci", UPPER),
        lambda root, folder: as_tar(as_oci(with_hidden(root), folder / "oci", UPPER), folder / "oci.tar"),
        lambda root, folder: as_disk(root, folder / "disk.raw"),
    ],
    ids=["folder", "tar", "tar.zst", "oci", "oci archive", "disk"],
)
def test_what_an_image_has_is_kept(made: Callable[[Path, Path], Path], root: Path, tmp_path: Path) -> None:
    source = made(root, tmp_path)
    image = imports(source)
    assert imported_images() == [image]
    found = image.folder / "root"
    status = (found / "etc/file").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777, status.st_nlink) == (1234, 5678, 0o4711, 2)
    assert (found / "etc/second").samefile(found / "etc/file")
    assert (found / "etc/absolute").readlink() == Path("/etc/shadow")
    for name, attribute in (("usr/sbin/sshd", "security.capability"), ("etc/listed", "system.posix_acl_access")):
        assert os.getxattr(found / name, attribute) == os.getxattr(root / name, attribute)
    if (root / "gone").exists():
        assert not (found / "gone").exists()
        assert [one.name for one in (found / "hidden").iterdir()] == ["new"]
        # An absolute link is the image's own: nothing was written into this machine's /etc.
        assert (found / "etc/through").is_file()
        assert not Path("/etc/through").exists()


def damaged_tar(target: Path, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    with tarfile.open(target, "w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        archive.addfile(member)
    return target


def luks(target: Path) -> Path:
    target.write_bytes(b"LUKS\xba\xbe".ljust(2**20, b"\0"))
    return target


def two_partitions(target: Path) -> Path:
    with target.open("wb") as disk:
        disk.truncate(64 * 2**20)
        for start in (1, 33):
            disk.seek(start * 2**20 + 1024 + 56)
            disk.write(b"\x53\xef")
    table = "label: gpt\nstart=2048, size=61440, type=L\nstart=67584, size=61440, type=L\n"
    subprocess.run(["sfdisk", "-q", target], input=table, text=True, check=True)
    return target


def other_architecture(root: Path) -> Path:
    program = root / FILES[0]
    program.write_bytes(program.read_bytes()[:18] + (8).to_bytes(2, "little") + b"\0" * 64)  # MIPS
    return root


def without(root: Path, name: str) -> Path:
    (root / name).unlink()
    return root


def changed_blob(layout: Path) -> Path:
    digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"].partition(":")[2]
    (layout / "blobs/sha256" / digest).write_text("{}")
    return layout


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda root, folder: folder / "nothing", "there is no image at .*; expected a root folder, a tar"),
        (lambda root, folder: without(root, FILES[0]), "lacks systemd.*expected systemd at /usr/lib/systemd/systemd"),
        (lambda root, folder: without(root, FILES[1]), "lacks sshd"),
        (lambda root, folder: without(root, FILES[2]), "lacks cloud-init"),
        (lambda root, folder: other_architecture(root), "is an image for ELF machine 0800; expected one for this"),
        (lambda root, folder: damaged_tar(folder / "a.tar", "/etc/x"), "found the name '/etc/x'; expected names below"),
        (lambda root, folder: damaged_tar(folder / "a.tar", "a/../../x"), r"found the name 'a/\.\./\.\./x'"),
        (lambda root, folder: damaged_tar(folder / "a.tar", "x", tarfile.LNKTYPE, "/etc/shadow"), "'/etc/shadow'"),
        (lambda root, folder: damaged_tar(folder / "a.tar", "etc/sda", tarfile.BLKTYPE), "found the device node 'etc/"),
        (lambda root, folder: luks(folder / "disk"), "its file system is encrypted; expected a plain file system"),
        (lambda root, folder: two_partitions(folder / "disk"), r"has 2 partitions with .*partition 1 \(ext4\), part"),
        (lambda root, folder: changed_blob(as_oci(root, folder / "oci")), "is damaged: expected the blob sha256:"),
    ],
)
def test_bad_images_are_refused_and_leave_nothing(
    made: Callable[[Path, Path], Path], error: str, root: Path, tmp_path: Path
) -> None:
    source = made(root, tmp_path)
    with pytest.raises(UsageError, match=error):
        imports(source)
    assert list(images_path().iterdir()) == []


def test_an_image_that_is_larger_than_the_disk_is_refused_and_leaves_nothing(root: Path, state: Path) -> None:
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", state], check=True)
    try:
        (root / "large").write_bytes(os.urandom(8 * 2**20))
        with pytest.raises(UsageError, match=r"MiB, found 4 MiB free in"):
            imports(root)
        with pytest.raises(UsageError, match=r"the disk is full: free some space"):
            imports(as_tar(root, root.with_name("large.tar")))
        assert list(images_path().iterdir()) == []
    finally:
        subprocess.run(["umount", state], check=True)


def test_an_import_that_is_killed_leaves_nothing_to_the_next(root: Path, tmp_path: Path) -> None:
    # Its unpacking never ends, so it is killed in the middle, however fast the machine is.
    code = (
        "import time; from pathlib import Path; from nomad_testkit.targets.embedded import imported\n"
        "def unpack(source, root): (root / 'half').touch(); print('half', flush=True); time.sleep(600)\n"
        "imported.unpack = unpack\n"
        "imported.import_image(Path('/'), name='half', progress=lambda line: None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        (half,) = images_path().iterdir()
        assert imported_images() == []
        imports(root, "meanwhile")
        assert (half / "root/half").exists()  # another import leaves it alone while it lives
        process.send_signal(signal.SIGKILL)
    imports(root, "next")
    assert not half.exists()
    assert sorted(one.name for one in imported_images()) == ["meanwhile", "next"]


def test_names_are_given_once_an_owner(root: Path) -> None:
    first = imports(root)
    with pytest.raises(UsageError, match=f"--name: 'mine' is {first.ami_id} already"):
        imports(root)
    imported.delete_image(first)
    assert imported_images() == []
    with pytest.raises(UsageError, match="--owner: expected the 12 digits of an AWS account, found 'me'"):
        import_image(root, name="mine", owner="me", progress=lambda line: None)
