"""Images that were made elsewhere: imported once, kept on this machine, and in every embedded EC2 from then on."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_testkit.ec2.machines.image_root import ImageRoot
from nomad_testkit.ec2.machines.layers import LocalImage
from nomad_testkit.errors import ImageError, UsageError
from nomad_testkit.images.unpack import unpack
from nomad_testkit.runs.run import state_path

if TYPE_CHECKING:
    from nomad_testkit.events import Progress

_FACTS, _ROOT = "image.json", "root"
_NAME = re.compile(r"[A-Za-z0-9()\[\] ./'@_-]{3,128}")
"""What EC2 takes for the name of an AMI."""
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_INITS = ("usr/lib/systemd/systemd", "lib/systemd/systemd")
_NEEDED = {
    "systemd": _INITS,
    "sshd": ("usr/sbin/sshd", "usr/bin/sshd"),
    "cloud-init": ("usr/bin/cloud-init", "usr/local/bin/cloud-init"),
}
_MOUNT_POINTS = ("dev", "proc", "run", "sys", "tmp")
"""What an archive may leave out, since a running system has other file systems there."""
_ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
_ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class ImportedImage:
    """An imported AMI as its folder describes it."""

    ami_id: str
    name: str
    owner_id: str
    """The account that it belongs to; empty for the cloud's own."""
    user: str
    """The user that its cloud-init gives the key pair to."""
    architecture: str
    source: str

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return images_path() / self.ami_id

    def local(self) -> LocalImage:
        """Give what an embedded EC2 boots hosts from."""
        description = f"imported from {self.source}"
        layers = (self.folder / _ROOT,)
        return LocalImage(self.ami_id, self.name, layers, description, self.architecture, self.owner_id)


def images_path() -> Path:
    """Return the folder of the imported images."""
    return state_path() / "images"


def imported_images() -> list[ImportedImage]:
    """List the images that were imported and not deleted, by their ids."""
    found = []
    for facts in sorted(images_path().glob(f"ami-*/{_FACTS}")):
        try:
            found.append(ImportedImage(**json.loads(facts.read_text())))
        except (OSError, ValueError, TypeError) as error:
            raise ImageError(f"{facts} cannot be read: {error}; remove {facts.parent} and import it again") from error
    return found


def imported_image(ami_id: str | None) -> ImportedImage | None:
    """Find an imported image by its id; None if there is none."""
    return next((one for one in imported_images() if one.ami_id == ami_id), None)


def import_image(source: Path, *, name: str, owner: str = "", user: str = "admin", progress: Progress) -> ImportedImage:
    """Import an image; it exists when this returns, and nothing of it if this raises or is interrupted.

    Raises UsageError with what is wrong with the arguments or the image, PreflightError and ImageError.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"--name: expected 3 to 128 letters, digits and ()[] ./-'@_, found {name!r}")
    if owner and not re.fullmatch(r"[0-9]{12}", owner):
        raise UsageError(f"--owner: expected the 12 digits of an AWS account, found {owner!r}")
    if not _USER.fullmatch(user):
        raise UsageError(f"--user: expected the name of a user, found {user!r}")
    for other in imported_images():
        if (other.name, other.owner_id) == (name, owner):
            raise UsageError(
                f"--name: {name!r} is {other.ami_id} already; `ami delete {other.ami_id}` makes room for it"
            )
    with _new_folder() as folder:
        root = folder / _ROOT
        root.mkdir(mode=0o755)
        root.chmod(0o755)  # whatever the umask
        progress(f"unpacking {source}")
        try:
            unpack(source, root)
        except OSError as error:
            raise ImageError(f"{source} cannot be unpacked in {images_path()}: {error.strerror or error}") from error
        for point in _MOUNT_POINTS:
            if not root.joinpath(point).is_symlink():
                root.joinpath(point).mkdir(exist_ok=True)
        architecture = _ARCHITECTURES[check_root(root, source)]
        # As AWS's own: of 17 hexadecimal digits.
        ami = f"ami-{secrets.token_hex(9)[:17]}"
        image = ImportedImage(ami, name, owner, user, architecture, str(source))
        (folder / _FACTS).write_text(json.dumps(asdict(image)))
        folder.rename(image.folder)
        progress(f"imported {image.name} as {ami}")
    return image


def delete_image(image: ImportedImage) -> None:
    """Delete an imported image, which no host may be using. Raises ImageError."""
    gone = image.folder.with_name(f".{image.ami_id}")
    try:
        image.folder.rename(gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise ImageError(f"{image.ami_id} cannot be deleted: {error}") from error


def check_root(folder: Path, source: Path) -> str:
    """Return the architecture of an unpacked root. Raises UsageError with all that it lacks to become a host."""
    root = ImageRoot(folder)
    lacking = [what for what, names in _NEEDED.items() if not any(root.is_file(name) for name in names)]
    if lacking:
        places = "; ".join(f"{what} at /{' or /'.join(_NEEDED[what])}" for what in lacking)
        raise UsageError(f"{source} lacks {', '.join(lacking)}, which a host on EC2 needs: expected {places}")
    header = next(start for name in _INITS if (start := root.start(name, 20)) is not None)
    machine = _ELF_MACHINES.get(int.from_bytes(header[18:20], "little"), f"ELF machine {header[18:20].hex()}")
    if machine != os.uname().machine:
        raise UsageError(f"{source} is an image for {machine}; expected one for this machine, {os.uname().machine}")
    return machine


@contextmanager
def _new_folder() -> Iterator[Path]:
    """Make a folder that nobody lists, and remove it at the end unless it was renamed; also of imports that died."""
    images = images_path()
    try:
        images.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(images):  # else another import could remove the new folder before its lock is held
            for left in images.glob(".*"):
                _remove_unless_locked(left)
            folder = Path(tempfile.mkdtemp(prefix=".import-", dir=images))
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise ImageError(f"{images} cannot be used for an image: {error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _remove_unless_locked(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


def describe(image: ImportedImage) -> dict[str, Any]:
    """Tell it as `ami list` does."""
    return {"ami": image.ami_id, "run_id": "", "name": image.name, "target": "embedded", "state": "available"}
