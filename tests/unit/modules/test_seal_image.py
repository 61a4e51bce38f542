from __future__ import annotations

from pathlib import Path

import pytest
import seal_image

LEFT = (
    "etc/ssh/sshd_config",
    "etc/ssh/moduli",
    "home/admin/.bashrc",
    "opt/consul/bin/consul",
    "tmp/systemd-private-1-chrony.service/tmp/x",
    "var/lib/cloud/seed/nocloud/meta-data",
)
GONE = (
    "etc/netplan/50-cloud-init.yaml",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "etc/sudoers.d/90-cloud-init-users",
    "home/admin/.aws/credentials",
    "home/admin/.bash_history",
    "home/admin/.ssh/authorized_keys",
    "root/.python_history",
    "root/.ssh/authorized_keys",
    "tmp/nomad-testkit/consul.zip",
    "var/lib/cloud/data/previous-instance-id",
    "var/lib/cloud/instances/i-1/user-data.txt",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/log/cloud-init.log",
    "var/log/journal/0123/system.journal",
    "var/log/apt/history.log",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (*LEFT, *GONE, "etc/machine-id"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "var/lib/cloud/instance").symlink_to("instances/i-1")
    return tmp_path


def test_identities_and_traces_go_and_nothing_else(root: Path) -> None:
    assert seal_image.main([], root) == 0
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() or path.is_symlink()}
    assert files == {*LEFT, "etc/machine-id"}
    assert (root / "etc/machine-id").read_text() == ""
    # Programs expect their folders there.
    assert (root / "var/log/journal").is_dir()
    assert (root / "var/log/apt").is_dir()
    assert seal_image.main([], root) == 0


def test_a_link_of_dbus_to_the_machine_id_stays(root: Path) -> None:
    link = root / "var/lib/dbus/machine-id"
    link.unlink()
    link.symlink_to("/etc/machine-id")
    seal_image.seal(root)
    assert link.is_symlink()


def test_an_unknown_option_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        seal_image.main(["--all"], root)
    assert ended.value.code == 2
    assert "--all" in capsys.readouterr().err
    assert (root / "etc/machine-id").read_text() == "text"


def test_a_file_that_cannot_be_changed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "etc/machine-id").mkdir(parents=True)
    assert seal_image.main([], tmp_path) == 1
    assert "etc/machine-id" in capsys.readouterr().err
