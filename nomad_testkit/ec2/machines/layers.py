"""AMIs as layers: folders, the upper first, that overlayfs stacks below an instance's own disk."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nomad_testkit.ec2.machines.image_root import ImageRoot
from nomad_testkit.ec2.machines.isolation import take_out_of_range
from nomad_testkit.ec2.vpc.network import RESOLVER_ADDRESSES
from nomad_testkit.errors import ImageError

INJECTED = (
    "etc/resolv.conf",
    "etc/hostname",
    "etc/systemd/system.conf.d/50-cloud-ca.conf",
    "usr/local/share/ca-certificates/nomad-testkit-cloud.crt",
)
"""What the cloud itself puts on an instance's disk; it belongs to one instance, so no image made from it has it."""

CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
"""Where a host trusts the cloud's certificate, besides others."""
ENVIRONMENT = "etc/environment"
CA_VARIABLE = f"AWS_CA_BUNDLE=/{CERTIFICATES}"
"""The line of it that leads programs there which carry certificates of their own (awscli, boto3 from PyPI)."""


def inject(root: ImageRoot, hostname: str, *, certificate: str, search_domain: str) -> None:
    """Put onto an instance's disk what AWS gives by DHCP, and what makes the cloud's certificates valid."""
    # A program of the image's own may keep that file: a DHCP client leaves it alone then.
    if not root.is_link("etc/resolv.conf"):
        root.write("etc/resolv.conf", f"nameserver {RESOLVER_ADDRESSES[-1]}\nsearch {search_domain}\n")
    root.write("etc/hostname", hostname.split(".")[0] + "\n")
    root.write("usr/local/share/ca-certificates/nomad-testkit-cloud.crt", certificate)
    root.write(CERTIFICATES, (root.read(CERTIFICATES) or "") + certificate)
    root.write("etc/systemd/system.conf.d/50-cloud-ca.conf", f"[Manager]\nDefaultEnvironment={CA_VARIABLE}\n")
    others = (root.read(ENVIRONMENT) or "").splitlines()
    kept = [line for line in others if not line.startswith("AWS_CA_BUNDLE=")]
    root.write(ENVIRONMENT, "\n".join([*kept, CA_VARIABLE]) + "\n")


def image_id(key: Mapping[str, str]) -> str:
    """Give the AMI id that belongs to what an image was made from.

    >>> image_id({"suite": "bookworm"})
    'ami-d5e4a6cefeade033b'
    """
    text = "\n".join(f"{name}={value}" for name, value in sorted(key.items()))
    return f"ami-{hashlib.sha256(text.encode()).hexdigest()[:17]}"


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An AMI that lies on this machine's disk."""

    image_id: str
    name: str
    layers: tuple[Path, ...]
    """Folders, the upper first."""
    description: str = ""
    architecture: str = "x86_64"
    owner_id: str = ""
    """The account that it belongs to; empty for the cloud's own."""


class ImageStore:
    """The images of one cloud; those that it makes lie below `folder`, which goes away with the cloud."""

    def __init__(self, folder: Path, images: Iterable[LocalImage]) -> None:
        self._folder = folder
        self._layers = {image.image_id: image.layers for image in images}
        self._lock = threading.Lock()

    def has(self, image_id: str) -> bool:
        """Whether there is an image with this id."""
        return image_id in self._layers

    def layers(self, image_id: str) -> tuple[Path, ...]:
        """Give the layers of an image, the upper first."""
        try:
            return self._layers[image_id]
        except KeyError:
            raise ImageError(f"there is no image {image_id}; there are: {', '.join(self._layers) or 'none'}") from None

    def add(self, image_id: str, disk: Path, below: str, *, certificate: str = "", base: int = 0) -> None:
        """Make an image from an instance's own disk and the image that it was booted from.

        `disk` is the upper folder of the instance's overlay, whose owners are in the range that begins at `base`;
        `certificate` is the cloud's own, which its hosts trust, and nobody after it. Raises ImageError when the disk
        cannot be copied.
        """
        layer = self._folder / image_id
        copy_layer(disk, layer)
        if base:
            take_out_of_range(layer, base)
        root = ImageRoot(layer)
        for injected in INJECTED:
            if not root.is_link(injected):  # /etc/resolv.conf is one where systemd-resolved keeps it
                root.remove(injected)
        _cut(root, CERTIFICATES, certificate)
        _cut(root, ENVIRONMENT, f"{CA_VARIABLE}\n")
        with self._lock:
            self._layers[image_id] = (layer, *self.layers(below))

    def forget(self, image_id: str) -> None:
        """Forget an image, and delete what the cloud itself made of it."""
        with self._lock:
            self._layers.pop(image_id, None)
            in_use = any(self._folder / image_id in layers for layers in self._layers.values())
        if not in_use:
            shutil.rmtree(self._folder / image_id, ignore_errors=True)

    def save(self, image_id: str, folder: Path) -> None:
        """Copy the upper layer of an image to `folder`, which must not exist yet."""
        copy_layer(self.layers(image_id)[0], folder)


def _cut(root: ImageRoot, name: str, text: str) -> None:
    """Take a text out of a file, wherever it stands in it."""
    content = root.read(name, follow=False)
    if text and content is not None and text in content:
        root.write(name, content.replace(text, ""))


def copy_layer(source: Path, target: Path) -> None:
    """Copy a layer with owners, modes, whiteouts and overlayfs's own attributes.

    Raises ImageError, and leaves nothing at `target`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["cp", "--archive", str(source), str(target)], capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(target, ignore_errors=True)
        raise ImageError(f"the image layer {source} could not be copied to {target}: {done.stderr.strip()[-1000:]}")
