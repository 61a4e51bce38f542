"""Debian's releases as mmdebstrap makes them, with nothing of ours: imported in one form each, and booted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from image_forms import as_disk, as_oci

from nomad_testkit.deployment.amis import launched
from nomad_testkit.settings import Settings
from nomad_testkit.targets import open_target
from nomad_testkit.targets.embedded.imported import delete_image, import_image

OWNER = "136693071363"
PACKAGES = (
    *("ca-certificates", "cloud-init", "curl", "dbus", "iproute2", "locales", "openssh-server", "procps", "python3"),
    *("sudo", "systemd", "systemd-sysv", "udev"),
)


@pytest.fixture(params=["bullseye", "bookworm", "trixie"], scope="module")
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def root(release: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release's root as a tar, from mmdebstrap's own mirror."""
    archive = tmp_path_factory.mktemp(release) / "root.tar"
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}", release]
    # cloud-init asks for en_US.UTF-8 otherwise, which Debian does not make.
    locale = 'echo "locale: C.UTF-8" > "$1/etc/cloud/cloud.cfg.d/10_locale.cfg"'
    command.insert(1, f"--customize-hook={locale}")
    done = subprocess.run([*command, archive], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return archive


@pytest.fixture(scope="module")
def source(release: str, root: Path) -> Path:
    if release == "trixie":
        return root
    folder = root.with_name("root")
    folder.mkdir()
    subprocess.run(["bsdtar", "-xpf", root, "--exclude=^./dev/*", "-C", folder], check=True)
    if release == "bullseye":
        return as_oci(folder, root.with_name("oci"))
    disk = as_disk(folder, root.with_name("disk.raw"), mebibytes=1500)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", disk, root.with_name("disk.qcow2")], check=True)
    return root.with_name("disk.qcow2")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("NOMAD_TESTKIT_") and not name.endswith("_CACHE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("state")
def test_a_release_boots_as_it_is(release: str, source: Path) -> None:
    image = import_image(source, name=f"{release}-amd64", owner=OWNER, user="debian", progress=print)
    settings = Settings.load(options={"nomad_timeout": "300"})
    with open_target(settings, progress=print) as target:
        wanted = [{"Name": "name", "Values": [f"{release}-*"]}]
        (found,) = target.client("ec2").describe_images(Owners=[OWNER], Filters=wanted)["Images"]
        assert (found["ImageId"], found["State"]) == (image.ami_id, "available")
        with launched(settings, image.ami_id, ssh_user=image.user, target=target, progress=print) as host:
            status = host.run("cloud-init status --long", check=False).stdout
            assert "status: done" in status, status
            assert "Ec2" in status, status
            assert host.run("systemctl --failed --no-legend").stdout.strip() == ""
            # The resolver, and the cloud's certificate.
            assert "MissingAuthenticationToken" in host.run("curl -sS https://ec2.us-east-1.amazonaws.com/").stdout
            host.run("test ! -d /sys/fs/cgroup/memory || mkdir /sys/fs/cgroup/memory/mine", sudo=True)
    delete_image(image)
