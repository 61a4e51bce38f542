"""The base image: Debian bookworm with systemd, sshd and cloud-init, made by mmdebstrap."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections import deque
from pathlib import Path

from nomad_testkit.errors import ImageError, Missing
from nomad_testkit.events import Progress
from nomad_testkit.images.cache import Cache

SUITE = "bookworm"
DESCRIPTION = "Debian bookworm for the embedded EC2"
OWNER_ID = "136693071363"
"""The account with Debian's own images, so that what looks for those in AWS finds this one here."""
MIRROR_VARIABLE = "NOMAD_TESTKIT_MIRROR"
"""The Debian mirror that the base image is made from (default: the machine's own)."""
DEFAULT_MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    "ca-certificates",
    "cloud-init",
    "curl",
    "dbus",
    "dnsmasq",
    "iproute2",
    "iputils-ping",
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "sudo",
    "systemd",
    "systemd-resolved",
    "systemd-sysv",
)
# As in Debian's slim images. Every file that a host does without is one less to link for each exec task of Nomad.
_DPKG_OPTIONS = (
    *(f"path-exclude=/usr/share/{folder}/*" for folder in ("man", "info", "locale", "i18n", "lintian", "doc")),
    "path-include=/usr/share/doc/*/copyright",
)
_FILES = Path(__file__).with_name("image_files")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
NAME = f"debian-12-{_ARCHITECTURES.get(platform.machine(), platform.machine())}-nomad-testkit"
"""As Debian names its own (https://wiki.debian.org/Cloud/AmazonEC2Image/Bookworm)."""


def preflight() -> list[Missing]:
    """List what this machine lacks to make the base image."""
    lacking = []
    if shutil.which("mmdebstrap") is None:
        lacking.append(Missing("mmdebstrap", "apt-get install mmdebstrap"))
    if not _KEYRING.is_file():
        lacking.append(Missing("Debian's archive keyring", "apt-get install debian-archive-keyring"))
    if platform.machine() not in _ARCHITECTURES:
        lacking.append(
            Missing(f"an architecture that the image exists for, not {platform.machine()}", "use x86_64 or aarch64")
        )
    return lacking


def image_key() -> dict[str, str]:
    """Give everything that the base image is made from; equal keys mean an equal image."""
    digest = hashlib.sha256("\0".join((*PACKAGES, *_DPKG_OPTIONS, "")).encode())
    for path in sorted(_FILES.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(_FILES)}\0".encode() + path.read_bytes())
    return {
        "suite": SUITE,
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "mirror": _mirror(),
        "recipe": digest.hexdigest(),
    }


def base_image(cache: Cache, progress: Progress) -> Path:
    """Give the folder of the base image's root, made now if the cache has none.

    Raises ImageError with mmdebstrap's last words, and CacheError when the cache cannot take it.
    """
    return cache.get("base-image", image_key(), lambda folder: _make(folder, progress))


def _mirror() -> str:
    return os.environ.get(MIRROR_VARIABLE, DEFAULT_MIRROR)


def _make(folder: Path, progress: Progress) -> None:
    progress(f"making the base image: Debian {SUITE} from {_mirror()}")
    command = [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt={option}" for option in _DPKG_OPTIONS),
        f'--customize-hook=/bin/sh {shlex.quote(str(_FILES / "customize.sh"))} "$1"',
        SUITE,
        str(folder),
        *(f"deb [signed-by={_KEYRING}] {_mirror()} {suite} main" for suite in (SUITE, f"{SUITE}-updates")),
    ]
    last: deque[str] = deque(maxlen=20)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        umask=0o022,
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                last.append(line.rstrip())
                if line.startswith("I: "):
                    progress(f"base image: {line[3:].strip()}")
        except BaseException:
            process.terminate()  # nothing may still write into the folder when the cache removes it
            raise
    if process.returncode:
        words = "\n".join(last) or "(nothing)"
        raise ImageError(
            f"mmdebstrap could not make the base image (status {process.returncode}). Is {_mirror()} reachable? "
            f"{MIRROR_VARIABLE} names another mirror. Its last words:\n{words}"
        )
