"""The inputs of a module, and what an example needs besides its table: scripts, a folder, a private key."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from nomad_testkit.errors import ExampleError
from nomad_testkit.examples.example import Example
from nomad_testkit.modules.cluster_tables import LAUNCHING, TERMINATING, EbsBlockDevice, LifecycleHook, Tag
from nomad_testkit.targets.key_pair import write_key_pair

COLOCATED = "nomad-consul-colocated-cluster"
TOML = """
[variables.tags]
type = "tables"
default = [{ key = "team", value = "a" }]

[variables.price]
type = "number"
default = 0

[variables.marks]
type = "table"
default = { purpose = "test" }

[roles]
consul_servers = ["servers"]
nomad_servers = ["servers"]
nomad_clients = ["servers"]

[groups.servers]
module = "nomad-cluster"
user_data = "boot.sh"

[groups.servers.inputs]
cluster_name = "mine"
min_size = 1
max_size = 1
desired_capacity = 1
instance_type = "t3.micro"
allowed_inbound_cidr_blocks = "${inbound_cidr_blocks}"
tags = "${tags}"
spot_price = "${price}"
security_group_tags = "${marks}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "boot.sh").write_text("#!/bin/sh\necho '${tags} ${marks}'\n")
    (folder / "example.toml").write_text(TOML)
    return folder


def with_inputs(folder: Path, inputs: str) -> Example:
    (folder / "example.toml").write_text(TOML + inputs)
    return Example.load(folder)


def test_inputs_take_tables_numbers_and_lists(folder: Path) -> None:
    example = with_inputs(
        folder,
        f"""
        termination_policies = ["OldestInstance", "Default"]
        enabled_metrics = ["GroupTotalInstances"]
        ebs_block_devices = [{{ device_name = "/dev/sdf", volume_size = 2 }}]
        wait_for_capacity_timeout = "5m"
        iam_permissions_boundary = "arn:aws:iam::123456789012:policy/edge"

        [[groups.servers.inputs.lifecycle_hooks]]
        name = "in"
        lifecycle_transition = "{LAUNCHING}"
        heartbeat_timeout = 30

        [[groups.servers.inputs.lifecycle_hooks]]
        name = "out"
        lifecycle_transition = "{TERMINATING}"
        default_result = "CONTINUE"
        """,
    ).replace(price=0.5)
    (group,) = example.render()
    module = group.module
    assert module.tags == (Tag(key="team", value="a"),)
    assert module.security_group_tags == {"purpose": "test"}
    assert module.spot_price == 0.5
    assert module.chosen_termination_policies == ("OldestInstance", "Default")
    assert module.ebs_block_devices == (EbsBlockDevice(device_name="/dev/sdf", volume_size=2),)
    assert module.lifecycle_hooks == (
        LifecycleHook(name="in", lifecycle_transition=LAUNCHING, heartbeat_timeout=30),
        LifecycleHook(name="out", lifecycle_transition=TERMINATING, default_result="CONTINUE"),
    )
    assert module.capacity_seconds == 300
    assert module.user_data == b"""#!/bin/sh\necho '[{"key": "team", "value": "a"}] {"purpose": "test"}'\n"""


@pytest.mark.parametrize(
    ("inputs", "key", "seen"),
    [
        ("lifecycle_hooks = [1]", "lifecycle_hooks", "the list [1]; expected a list of tables with name, lifecycle_"),
        ('lifecycle_hooks = "x"', "lifecycle_hooks", "the string 'x'; expected a list of tables with name"),
        (
            'lifecycle_hooks = [{ name = "x" }]',
            "lifecycle_hooks[0].lifecycle_transition",
            "nothing; expected a string: a table of lifecycle_hooks req",
        ),
        (
            'ebs_block_devices = [{ device_name = "/dev/sdf", size = 2 }]',
            "ebs_block_devices[0].size",
            "a key that means nothing here; expected",
        ),
        (
            'ebs_block_devices = [{ device_name = "/dev/sdf", volume_size = "2" }]',
            "ebs_block_devices[0].volume_size",
            "the string '2'; expected an integer",
        ),
        (
            'ebs_block_devices = [{ device_name = "/dev/sdf" }]',
            "ebs_block_devices[0].volume_size",
            "0; expected a size in GiB, or a snapshot_id that has one",
        ),
        ('termination_policies = [""]', "termination_policies", "''; expected one of Default, "),
        ("termination_policies = 1", "termination_policies", "the integer 1; expected a string or a list of strings"),
        ("protect_from_scale_in = 1", "protect_from_scale_in", "the integer 1; expected true or false"),
        ('root_volume_size = "50"', "root_volume_size", "the string '50'; expected an integer"),
        ("security_groups = [1]", "security_groups", "the list [1]; expected a list of strings"),
    ],
)
def test_says_which_input_is_wrong(folder: Path, inputs: str, key: str, seen: str) -> None:
    with pytest.raises(ExampleError) as caught:
        with_inputs(folder, inputs)
    assert f"example.toml: groups.servers.inputs.{key}: found {seen}" in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"tags": [1]}, "variable tags: found the list [1]; expected a list of tables"),
        ({"tags": [{"key": "a"}]}, "groups.servers.inputs.tags[0].value: found nothing; expected a string"),
        ({"price": "1"}, "variable price: found the string '1'; expected a number"),
        ({"price": True}, "variable price: found the boolean true; expected a number"),
        ({"price": -1}, "groups.servers.inputs.spot_price: found -1.0; expected the most that an hour may cost"),
        ({"marks": {"a": 1}}, "variable marks: found the table {'a': 1}; expected a table of strings"),
    ],
)
def test_says_which_variable_is_wrong(folder: Path, variables: dict[str, Any], expected: str) -> None:
    with pytest.raises(ExampleError) as caught:
        Example.load(folder).replace(**variables)
    assert str(caught.value).partition("example.toml: ")[2].startswith(expected)


def test_a_folder_without_an_example_or_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(ExampleError, match=f"there is no example at {tmp_path}/none, and none is bundled as"):
        Example.load(tmp_path / "none")
    bundled = Example.load(COLOCATED).folder.parent.glob("*/example.toml")
    (tmp_path / "exmaple.toml").touch()
    with pytest.raises(ExampleError) as caught:
        Example.load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: found a folder without example.toml or *.tf (in it: exmaple.toml); expected one with it, or "
        f"one that is bundled: {', '.join(sorted(path.parent.name for path in bundled))}"
    )


def test_a_script_that_is_missing(folder: Path) -> None:
    (folder / "boot.sh").rename(folder / "boot.bash")
    with pytest.raises(ExampleError) as caught:
        Example.load(folder)
    assert str(caught.value) == (
        f"{folder}/example.toml: groups.servers.user_data: found 'boot.sh', which cannot be read (No such file or "
        "directory); expected a script beside example.toml; did you mean boot.bash?"
    )


@pytest.fixture
def key(tmp_path: Path) -> Path:
    write_key_pair(tmp_path / "mine")
    return tmp_path / "mine"


def refused(**variables: Any) -> str:
    with pytest.raises(ExampleError) as caught:
        Example.load(COLOCATED).replace(**variables)
    return str(caught.value).partition("example.toml: ")[2]


def test_a_key_pair_of_ones_own_needs_its_private_key(key: Path) -> None:
    example = Example.load(COLOCATED).replace(ssh_key_name="mine", ssh_private_key_file=str(key))
    assert example.ssh_private_key_file == key
    assert Example.load(COLOCATED).ssh_private_key_file is None
    right = "expected the file of the private key of the key pair 'mine', with which hosts are logged in to"
    assert refused(ssh_key_name="mine") == f"variable ssh_private_key_file: found nothing; {right}"


def test_a_private_key_of_pem(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-m", "PEM", "-N", "", "-f", tmp_path / "mine.pem"], check=True)
    Example.load(COLOCATED).replace(ssh_key_name="mine", ssh_private_key_file=str(tmp_path / "mine.pem"))


def test_a_private_key_that_cannot_be_used(tmp_path: Path, key: Path) -> None:
    right = "; expected a private key without a passphrase, that of the key pair 'mine'"
    assert refused(ssh_key_name="mine", ssh_private_key_file=str(tmp_path / "none")) == (
        f"variable ssh_private_key_file: found '{tmp_path}/none', which cannot be read (No such file or directory)"
        + right
    )
    (tmp_path / "public").write_text("ssh-ed25519 AAAA\n")
    assert refused(ssh_key_name="mine", ssh_private_key_file=str(tmp_path / "public")) == (
        f"variable ssh_private_key_file: found '{tmp_path}/public', which is no private key that SSH can use{right}"
    )
    for form in ((), ("-m", "PEM")):
        path = tmp_path / f"locked{len(form)}"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ecdsa", "-a", "1", *form, "-N", "secret phrase", "-f", path], check=True
        )
        assert refused(ssh_key_name="mine", ssh_private_key_file=str(path)) == (
            f"variable ssh_private_key_file: found '{path}', which is protected by a passphrase{right}"
        )
    assert refused(ssh_private_key_file=str(key)) == (
        f"variable ssh_private_key_file: found '{key}' without the name of its key pair; expected a name in "
        'ssh_key_name beside it, or ""'
    )


def test_all_groups_have_one_key_pair(folder: Path) -> None:
    text = (Example.load(COLOCATED).folder / "example.toml").read_text()
    copy = folder / "example.toml"
    copy.write_text(text.replace('ssh_key_name = "${ssh_key_name}"', 'ssh_key_name = "mine"', 1))
    for script in ("user-data-server.sh", "user-data-client.sh"):
        (folder / script).touch()
    with pytest.raises(ExampleError, match="ssh_key_name: found 'mine' and ''; expected the same for all groups"):
        Example.load(folder)
