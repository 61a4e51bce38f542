"""Unpack a machine image that was made elsewhere: a root folder, a tar, an OCI image or a disk.

An image is not trusted: archives are unpacked below a root of their own (bsdtar's --chroot), so no link and no path in
them leads out of it. Owners, modes, file capabilities, access control lists and hard links are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from nomad_testkit.errors import Missing, PreflightError, UsageError
from nomad_testkit.images.disk import root_of_disk

_QCOW2 = b"QFI\xfb"
_OCI_LAYOUT = "oci-layout"
_INDEX, _WHITEOUT, _OPAQUE = "index.json", ".wh.", ".wh..wh..opq"
_OCI_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_TOOLS = {"bsdtar": "libarchive-tools", "qemu-img": "qemu-utils", "sfdisk": "fdisk"}
_KINDS = "a root folder, a tar, an OCI layout or archive, or a raw or qcow2 disk"


def kind_of(source: Path) -> str:
    """Name what a source is: folder, tar, oci-folder, oci-archive, raw or qcow2. Raises UsageError."""
    if not source.exists():
        raise UsageError(f"there is no image at {source}; expected {_KINDS}")
    if source.is_dir():
        return "oci-folder" if (source / _OCI_LAYOUT).is_file() else "folder"
    if not source.is_file():
        raise UsageError(f"{source} is neither a file nor a folder; expected {_KINDS}")
    with source.open("rb") as file:
        start = file.read(4)
    if start == _QCOW2:
        return "qcow2"
    if _is_tar(source):
        return "oci-archive" if _tar(source, "--list", "--fast-read", "--file", str(source), _OCI_LAYOUT) else "tar"
    return "raw"


def unpack(source: Path, folder: Path) -> None:
    """Unpack a source into an empty folder on this machine, beside which there is room for its parts.

    Raises UsageError with what is wrong with the source, PreflightError for a program that this machine lacks, and
    OSError. The caller removes what a failure leaves in `folder`.
    """
    kind = kind_of(source)
    work = folder.parent / "work"
    work.mkdir()
    try:
        if kind == "folder":
            _copy(source, folder)
        elif kind == "tar":
            _check_names(source)
            _extract(source, folder)
        elif kind.startswith("oci"):
            layout = source
            if kind == "oci-archive":
                layout = work / "layout"
                layout.mkdir()
                _check_names(source)
                _extract(source, layout)
            _unpack_oci(source, layout, folder)
        else:
            disk = source
            if kind == "qcow2":
                disk = work / "disk"
                _convert(source, disk)
            with root_of_disk(disk, source, work) as root:
                _copy(root, folder)
    finally:
        shutil.rmtree(work)


def need(tool: str) -> str:
    """Return the name of a program. Raises PreflightError if this machine lacks it."""
    if shutil.which(tool) is None:
        raise PreflightError([Missing(tool, f"apt-get install {_TOOLS[tool]}")])
    return tool


def run(what: str, *command: str, cwd: Path | None = None) -> str:
    """Run a program and return its output. Raises UsageError with its last words."""
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    if done.returncode:
        words = "\n".join(done.stderr.strip().splitlines()[-5:]) or f"it ended with status {done.returncode}"
        full = "no space left" in done.stderr.lower() or "write error" in done.stderr.lower()
        raise UsageError(
            f"{what}: {words}" + ("\nthe disk is full: free some space, or import a smaller image" if full else "")
        )
    return done.stdout


def _is_tar(source: Path) -> bool:
    # bsdtar lists nothing of what it takes for an empty archive, such as a disk that begins with zeros.
    return bool(_tar(source, "--list", "--fast-read", "--file", str(source), "*"))


def _tar(source: Path, *arguments: str) -> str:
    done = subprocess.run([need("bsdtar"), *arguments], capture_output=True, text=True, errors="replace", check=False)
    return done.stdout if done.returncode == 0 else ""


def _check_names(archive: Path) -> None:
    """Refuse an archive with names that lead out of it, or device nodes outside of /dev. Raises UsageError."""
    for member in _members(archive):
        names = [member.name, *([member.linkname] if member.islnk() else [])]
        for name in names:
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise UsageError(f"{archive}: found the name {name!r}; expected names below the image's root")
        if member.isdev() and not member.isfifo() and PurePosixPath(member.name).parts[:1] != ("dev",):
            raise UsageError(f"{archive}: found the device node {member.name!r}; expected none outside of dev/")


def _members(archive: Path) -> Iterator[tarfile.TarInfo]:
    # Through bsdtar, which knows every compression; as pax, which tarfile reads.
    with subprocess.Popen(
        [need("bsdtar"), "-cf", "-", "--format=pax", f"@{archive}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as opened:
                yield from opened
        except tarfile.TarError as error:
            raise UsageError(f"{archive} cannot be read as an archive: {error}") from error
        finally:
            assert process.stdout is not None
            process.stdout.close()
            process.kill()


def _extract(archive: Path, folder: Path, *, whiteouts: bool = False) -> None:
    flags = ("--same-owner", "--numeric-owner", "--exclude=^dev/*", "--exclude=^./dev/*")
    # -p keeps access control lists and extended attributes, too.
    # In the root of the archive's own, where an absolute link leads to what it leads to on the host.
    run(
        f"{archive} cannot be unpacked",
        need("bsdtar"),
        "-xpPf",
        str(archive.absolute()),
        *flags,
        *([f"--exclude={_WHITEOUT}*"] if whiteouts else []),
        "--chroot",
        "-C",
        str(folder),
    )


def _copy(source: Path, folder: Path) -> None:
    size = int(run(str(source), "du", "--summarize", "--one-file-system", "--block-size=1", str(source)).split()[0])
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UsageError(
            f"{source} takes {size / 2**20:.0f} MiB, found {free / 2**20:.0f} MiB free in {folder.parent}; free some"
        )
    # One file system: what is mounted in a root folder, such as /proc, is no part of the image.
    copy = ["cp", "--archive", "--one-file-system", f"{source}/.", str(folder)]
    run(f"{source} cannot be copied", *copy)
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            name = path.relative_to(folder)
            if name.parts[0] != "dev":
                raise UsageError(f"{source}: found the device node {str(name)!r}; expected none outside of dev/")
            path.unlink()


def _convert(source: Path, disk: Path) -> None:
    info = json.loads(run(f"{source} cannot be read", need("qemu-img"), "info", "--output=json", str(source)))
    if info.get("encrypted"):
        raise UsageError(f"{source} is encrypted; expected a disk that anybody can read")
    if "backing-filename" in info:
        raise UsageError(
            f"{source} needs another file, {info['backing-filename']}; expected a disk by itself "
            "(`qemu-img convert -O qcow2` makes one)"
        )
    free = shutil.disk_usage(disk.parent).free
    if info["actual-size"] > free:
        raise UsageError(f"{source} takes {info['actual-size'] / 2**20:.0f} MiB, found {free / 2**20:.0f} MiB free")
    run(f"{source} cannot be read", "qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(source), str(disk))


# -- OCI (https://github.com/opencontainers/image-spec)


def _unpack_oci(source: Path, layout: Path, folder: Path) -> None:
    manifest = _manifest(source, layout, _json(source, layout / _INDEX))
    for layer in manifest["layers"]:
        blob = _blob(source, layout, layer["digest"])
        _check_names(blob)
        for member in _members(blob):
            name = PurePosixPath(member.name)
            if name.name.startswith(_WHITEOUT):
                _remove_in(folder, name)
        _extract(blob, folder, whiteouts=True)


def _manifest(source: Path, layout: Path, index: dict[str, Any]) -> dict[str, Any]:
    """Choose the manifest of this machine's architecture. Raises UsageError."""
    wanted = _OCI_MACHINES.get(platform.machine(), platform.machine())
    named = [one.get("platform", {}).get("architecture") for one in index.get("manifests", ())]
    fits = [
        one
        for one, architecture in zip(index.get("manifests", ()), named, strict=True)
        if architecture in (None, wanted)
    ]
    if len(fits) != 1:
        raise UsageError(f"{source} has {len(fits)} images for {wanted} (found {named}); expected one")
    found = _json(source, _blob(source, layout, fits[0]["digest"]))
    return _manifest(source, layout, found) if "manifests" in found else found


def _blob(source: Path, layout: Path, digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or not value.isalnum():
        raise UsageError(f"{source}: found the digest {digest!r}; expected one by sha256")
    path = layout / "blobs" / algorithm / value
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{source} lacks the blob {digest}: {error.strerror}") from error
    if found != value:
        raise UsageError(f"{source} is damaged: expected the blob {digest}, found sha256:{found}")
    return path


def _json(source: Path, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{source} is no OCI image: {path.name} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{source} is no OCI image: {path.name} holds no object")
    return found


def _remove_in(folder: Path, whiteout: PurePosixPath) -> None:
    """Remove what a layer hides of those below it."""
    parent = folder.joinpath(whiteout.parent)
    # A link may lead out of the root: a layer that hides something behind one hides it under its own name, too.
    if not parent.is_dir() or not parent.resolve().is_relative_to(folder.resolve()):
        return
    hidden = parent / whiteout.name.removeprefix(_WHITEOUT)
    for path in list(parent.iterdir()) if whiteout.name == _OPAQUE else [hidden]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
