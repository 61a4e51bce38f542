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

_CLOUD_INIT = {
    # A container has no DMI in which ds-identify would find that this is EC2.
    "etc/cloud/ds-identify.cfg": "policy: enabled\ndatasource: Ec2\n",
    "etc/cloud/cloud.cfg.d/99_nomad_testkit_cloud.cfg": """\
datasource_list: [Ec2]
datasource:
  Ec2:
    strict_id: false
network:
  config: disabled
system_info:
  network:
    dhcp_client_priority: [udhcpc]
updates:
  network:
    when: [boot-new-instance]
""",
}
"""How cloud-init finds this EC2, leaves the network as it is, and installs nothing for hotplug, which needs udev.

No DHCP server answers here, so cloud-init is to find no client.
"""
_RESOLVED = "etc/systemd/resolved.conf.d/50-nomad-testkit-cloud.conf"
_SETUP = {
    "etc/systemd/system/nomad-testkit-setup.service": """\
[Unit]
Description=Show this host as one of EC2, with version 1 cgroup controllers that can be written
DefaultDependencies=no
Before=cloud-init-local.service cloud-init-main.service sysinit.target

[Service]
Type=oneshot
# For itself only: units that want to write /sys, such as udev's, must go on finding that they cannot.
ExecStart=-/bin/sh -c 'unshare --mount sh -c "mount -o remount,bind,rw /sys && mkdir -p /sys/hypervisor && \\
  echo ec2e1916-9099-7caf-fd21-012345abcdef > /sys/hypervisor/uuid"'
ExecStart=-/bin/sh -c 'for one in /sys/fs/cgroup/*; do \
  test -L "$one" || ! mountpoint -q "$one" || mount -o remount,rw,bind "$one"; done'
""",
    # Of a client that is there, older versions of cloud-init would wait minutes for an answer.
    "etc/systemd/system/cloud-init-local.service.d/50-nomad-testkit-dhcp.conf": (
        "[Service]\nInaccessiblePaths=-/usr/sbin/dhclient -/sbin/dhclient\n"
    ),
    "etc/systemd/system/sysinit.target.d/50-nomad-testkit-setup.conf": "[Unit]\nWants=nomad-testkit-setup.service\n",
}
"""By this UUID, which instances on Xen have, cloud-init knows EC2, and asks its metadata service for a token.

systemd-nspawn mounts /sys, a file system in memory that belongs to the host, and the controllers to be read only.
"""
_BUNDLES = {
    "etc/ssl/certs/ca-certificates.crt": "usr/local/share/ca-certificates",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem": "etc/pki/ca-trust/source/anchors",
    "var/lib/ca-certificates/ca-bundle.pem": "etc/pki/trust/anchors",
}
"""Where distributions (Debian, Fedora, SUSE) keep the certificates that they trust, and where one is added to them."""
_CERTIFICATE = "nomad-testkit-cloud.crt"
INJECTED = (
    "etc/resolv.conf",
    "etc/hostname",
    "etc/systemd/system.conf.d/50-cloud-ca.conf",
    *(f"{folder}/{_CERTIFICATE}" for folder in _BUNDLES.values()),
    *_CLOUD_INIT,
    *_SETUP,
    _RESOLVED,
)
"""What the cloud itself puts on an instance's disk; it belongs to one instance, so no image made from it has it."""

CERTIFICATES = next(iter(_BUNDLES))
"""Where a Debian host trusts the cloud's certificate, besides others."""
ENVIRONMENT = "etc/environment"
CA_VARIABLE = f"AWS_CA_BUNDLE=/{CERTIFICATES}"
"""The line of it that leads programs there which carry certificates of their own (awscli, boto3 from PyPI)."""
_OWN = "etc/cloud/cloud.cfg.d/90_embedded_ec2.cfg"
"""A file of the base image, which has all that an image from elsewhere is given here."""


def inject(root: ImageRoot, hostname: str, *, certificate: str, search_domain: str) -> None:
    """Put onto an instance's disk what AWS gives by DHCP, and what makes the cloud's certificates valid.

    On an image that was not made for this EC2 also what cloud-init, systemd-resolved and Nomad's exec driver need here.
    """
    foreign = not root.is_file(_OWN)
    link = root.link("etc/resolv.conf")
    if link is None or (foreign and "systemd/resolve" not in link):
        # Nothing of the image gets an address here, so no program would ever write what the link leads to.
        root.write("etc/resolv.conf", f"nameserver {RESOLVER_ADDRESSES[-1]}\nsearch {search_domain}\n")
    elif foreign:
        root.write(_RESOLVED, f"[Resolve]\nDNS={RESOLVER_ADDRESSES[-1]}\nDomains={search_domain}\n")
    root.write("etc/hostname", hostname.split(".")[0] + "\n")
    if foreign:
        for name, text in (_CLOUD_INIT | _SETUP).items():
            root.write(name, text)
    bundle = next((name for name in _BUNDLES if root.is_file(name)), CERTIFICATES)
    variable = CA_VARIABLE.replace(CERTIFICATES, bundle)
    root.write(f"{_BUNDLES[bundle]}/{_CERTIFICATE}", certificate)
    root.write(bundle, (root.read(bundle) or "") + certificate)
    root.write("etc/systemd/system.conf.d/50-cloud-ca.conf", f"[Manager]\nDefaultEnvironment={variable}\n")
    others = (root.read(ENVIRONMENT) or "").splitlines()
    kept = [line for line in others if not line.startswith("AWS_CA_BUNDLE=")]
    root.write(ENVIRONMENT, "\n".join([*kept, variable]) + "\n")


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
        for bundle in _BUNDLES:
            _cut(root, bundle, certificate)
            _cut(root, ENVIRONMENT, f"{CA_VARIABLE.replace(CERTIFICATES, bundle)}\n")
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
