from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from nomad_testkit.errors import ExampleError
from nomad_testkit.examples.example import Example, Roles, Sizes
from nomad_testkit.examples.variables import TYPES, expand_user_data

COLOCATED = "nomad-consul-colocated-cluster"
SEPARATE = "nomad-consul-separate-cluster"
NO_KEY = "a key that means nothing here; did you mean"
TOML = """
[variables.cluster_name]
type = "cluster-name"
default = "mine"

[variables.size]
type = "server-count"
default = 3

[variables.zones]
type = "strings"
default = ["a", "b"]

[roles]
consul_servers = ["servers"]
nomad_servers = ["servers"]
nomad_clients = ["servers"]

[groups.servers]
module = "consul-cluster"
extra_modules = ["nomad-security-group-rules"]
user_data = "boot.sh"

[groups.servers.inputs]
cluster_name = "${cluster_name}-x"
cluster_size = "${size}"
instance_type = "t2.micro"
allowed_inbound_cidr_blocks = "${inbound_cidr_blocks}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "example.toml").write_text(TOML)
    (tmp_path / "boot.sh").write_text("#!/bin/bash\necho ${size} ${cluster_name} ${zones} ${HOME} $${size}\n")
    return tmp_path


def changed(folder: Path, old: str, new: str) -> str:
    """Load the example with a fault in its file, and give what is said about it, without the file's name."""
    assert TOML.count(old) >= 1
    (folder / "example.toml").write_text(TOML.replace(old, new, 1))
    with pytest.raises(ExampleError) as caught:
        Example.load(folder)
    said = str(caught.value)
    assert str(folder / "example.toml") in said
    return said.partition("example.toml: ")[2]


UPSTREAMS = {
    "ami_id": "",
    "server_instance_type": "t2.micro",
    "instance_type": "t2.micro",
    "cluster_tag_value": "auto-join",
    "ssh_key_name": "",
    "ssh_private_key_file": "",
    "vpc_id": "",
    "ssh_user": "admin",
}


@pytest.mark.parametrize(
    ("name", "roles", "own"),
    [
        (
            COLOCATED,
            Roles(("servers",), ("servers",), ("clients",)),
            {"cluster_name": "nomad-example", "num_servers": 3, "num_clients": 6, "cluster_tag_key": "nomad-servers"},
        ),
        (
            SEPARATE,
            Roles(("consul_servers",), ("nomad_servers",), ("nomad_clients",)),
            {
                "nomad_cluster_name": "nomad-example",
                "consul_cluster_name": "consul-example",
                "num_nomad_servers": 3,
                "num_nomad_clients": 6,
                "num_consul_servers": 3,
                "cluster_tag_key": "consul-servers",
            },
        ),
    ],
)
def test_an_example_has_upstreams_variables_and_defaults(name: str, roles: Roles, own: dict[str, object]) -> None:
    example = Example.load(name)
    assert dict(example.variables) == {**UPSTREAMS, **own}
    assert (example.name, example.roles, example.ssh_user, example.ami_id) == (name, roles, "admin", "")
    assert list(example.groups) == list(
        dict.fromkeys((*roles.consul_servers, *roles.nomad_servers, *roles.nomad_clients))
    )


def test_the_separate_examples_agents_join_consul_by_its_tag_and_no_other_runs() -> None:
    example = Example.load(SEPARATE)
    groups = {group.name: group.module for group in example.render(run_id="nt-1")}
    assert list(groups) == ["consul_servers", "nomad_servers", "nomad_clients"]
    tags = {(module.cluster_tag_key, module.cluster_tag_value) for module in groups.values()}
    assert tags == {(key, "auto-join-nt-1") for key in ("consul-servers", "nomad-servers", "nomad-clients")}
    for name, module in groups.items():
        kind = "--server" if name == "consul_servers" else "--client"
        assert f'run-consul {kind} \\\n  --cluster-tag-key "consul-servers"' in module.user_data.decode()
        assert '--cluster-tag-value "auto-join-nt-1"' in module.user_data.decode()
        assert (b"run-nomad" in module.user_data) == (name != "consul_servers")


@pytest.mark.parametrize(
    ("name", "topology", "variables", "sizes"),
    [
        (COLOCATED, "colocated", {}, Sizes(3, 3, 6)),
        (COLOCATED, "colocated", {"num_servers": 1, "num_clients": 0}, Sizes(1, 1, 0)),
        (SEPARATE, "separate", {"num_consul_servers": 5, "num_nomad_clients": 2}, Sizes(5, 3, 2)),
    ],
)
def test_an_examples_topology_and_sizes(name: str, topology: str, variables: dict[str, int], sizes: Sizes) -> None:
    example = Example.load(name).replace(**variables)
    assert (example.roles.topology, example.sizes) == (topology, sizes)
    assert Roles(("both", "consul"), ("both",), ("clients",)).topology == "mixed"


def test_replace_makes_another_example() -> None:
    example = Example.load(COLOCATED)
    other = example.replace(num_clients=0, ami_id="ami-0abc")
    assert (example.variables["num_clients"], other.variables["num_clients"], other.ami_id) == (6, 0, "ami-0abc")
    with pytest.raises(TypeError):
        other.variables["num_clients"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("num_servers", 0, "the integer 0; expected an odd number from 1 to 7: Raft elects"),
        ("num_servers", -1, "the integer -1; expected an odd number from 1 to 7: Raft elects"),
        ("num_servers", 2, "the integer 2; expected an odd number from 1 to 7: Raft needs a majority, so 2 servers"),
        ("num_servers", 9, "the integer 9; expected an odd number from 1 to 7: every write"),
        ("num_servers", "3", "the string '3'; expected an integer"),
        ("num_servers", True, "the boolean true; expected an integer"),
        ("num_servers", 3.0, "the float 3.0; expected an integer"),
        ("num_clients", -1, "the integer -1; expected 0 or more"),
        ("num_client", 3, "a variable that this example does not declare; did you mean num_clients"),
        ("ami", "ami-0abc", "a variable that this example does not declare; did you mean ami_id"),
        ("cluster_tag_key", "aws:x", "the string 'aws:x'; expected a tag key"),
        ("ssh_user", "Root", "the string 'Root'; expected a user's name"),
        ("ami_id", "debian", "the string 'debian'; expected an AMI id such as ami-0abc1234"),
        ("instance_type", "micro", "the string 'micro'; expected an instance type"),
        ("cluster_name", "a/b", "the string 'a/b'; expected letters, digits, -, _ and . only"),
        ("cluster_tag_value", "$(reboot)", "the string '$(reboot)'; expected a tag value"),
    ],
)
def test_refuses_a_value_and_says_what_is_right(name: str, value: object, seen: str) -> None:
    with pytest.raises(ExampleError) as caught:
        Example.load(COLOCATED).replace(**{name: value})
    assert str(caught.value).startswith(f"{Example.load(COLOCATED).file}: variable {name}: found {seen}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sg-1", "groups.servers.inputs.cluster_name: found 'sg-1-server'; expected letters"),
        ("n" * 300, "307 characters; expected at most 43, 264 fewer: with the run's id of up to 20"),
        ("n" * 37, "44 characters; expected at most 43, 1 fewer"),
    ],
)
def test_refuses_a_name_of_a_group_that_comes_of_a_variable(name: str, said: str) -> None:
    with pytest.raises(ExampleError, match=re.escape(said)):
        Example.load(COLOCATED).replace(cluster_name=name)


def test_takes_odd_numbers_of_servers_and_the_longest_name() -> None:
    example = Example.load(COLOCATED)
    for count in (1, 3, 5, 7):
        assert example.replace(num_servers=count).render()[0].module.sizes == (count, count, count)
    assert example.replace(cluster_name="n" * 36).render()[0].module.cluster_name == "n" * 36 + "-server"


def test_an_own_example_declares_own_variables(folder: Path) -> None:
    example = Example.load(folder / "example.toml").replace(size=5, zones=["c"])
    (group,) = example.render(inbound_cidr_blocks=["10.0.0.0/8"])
    assert group.module.cluster_name == "mine-x"
    assert group.module.sizes == (5, 5, 5)
    assert group.module.allowed_inbound_cidr_blocks == ("10.0.0.0/8",)
    assert group.module.user_data == b"#!/bin/bash\necho 5 mine c ${HOME} ${size}\n"
    assert {port.number for port in group.ports} == {4646, 4647, 4648}


@pytest.mark.parametrize(
    ("old", "new", "key", "seen"),
    [
        ("[roles]", "[rolls]", "rolls", f"{NO_KEY} roles"),
        ("default = 3", "defualt = 3", "variables.size.defualt", f"{NO_KEY} default"),
        ("default = 3", "default = 4", "variables.size.default", "the integer 4; expected an odd number"),
        ("default = 3", "", "variables.size.default", "nothing; expected a default"),
        ('"server-count"', '"figure"', "variables.size.type", "the string 'figure'; expected one of string, integer"),
        (
            '"consul-cluster"',
            '"consul"',
            "module",
            "the string 'consul'; expected one of consul-cluster, nomad-cluster",
        ),
        (
            '"nomad-security-group-rules"',
            '"nomad-security-rules"',
            "extra_modules",
            "the string 'nomad-security-rules'; did you mean nomad-security",
        ),
        ("cluster_size =", "cluster_sise =", "inputs.cluster_sise", f"{NO_KEY} cluster_size"),
        ("${size}", "${sise}", "inputs.cluster_size", "${sise}, which is not declared; did you mean size"),
        ('"${size}"', '"n${size}"', "inputs.cluster_size", "the string 'n3'; expected an integer"),
        (
            'instance_type = "t2.micro"',
            "",
            "inputs.instance_type",
            "nothing; expected a string: consul-cluster requires it",
        ),
        ('"boot.sh"', '"boot.bash"', "user_data", "'boot.bash', which cannot be read"),
        (
            'nomad_clients = ["servers"]',
            'nomad_clients = ["server"]',
            "roles.nomad_clients",
            "the string 'server'; did you mean servers",
        ),
        ('nomad_clients = ["servers"]', "", "roles.nomad_clients", "nothing; expected a list of groups"),
        (
            "[variables.size]",
            "[variables.inbound_cidr_blocks]",
            "variables.inbound_cidr_blocks",
            "a name that every deployment gives",
        ),
        ("instance_type =", 'user_data = "x"\ninstance_type =', "inputs.user_data", "an input"),
        ("instance_type =", "dns_port = 0\ninstance_type =", "inputs.dns_port", "0; expected a port from 1 to 65535"),
    ],
)
def test_names_the_key_and_what_is_right(folder: Path, old: str, new: str, key: str, seen: str) -> None:
    group = "" if key.startswith(("variables.", "roles.", "rolls")) else "groups.servers."
    assert changed(folder, old, new).startswith(f"{group}{key}: found {seen}")


def test_says_where_a_file_is_no_toml_and_suggests_a_bundled_example(folder: Path) -> None:
    (folder / "example.toml").write_text("[variables\n")
    with pytest.raises(ExampleError, match=r"example\.toml is not TOML: .*line 1"):
        Example.load(folder)
    with pytest.raises(ExampleError, match=f"did you mean {COLOCATED}"):
        Example.load("nomad-consul-collocated-cluster")


def test_user_data_has_a_limit_with_its_values(folder: Path) -> None:
    script = folder / "boot.sh"
    script.write_text("#!/bin/bash\n#é\n".ljust(16_383, "x"))  # é has two bytes
    assert len(Example.load(folder).render()[0].module.user_data) == script.stat().st_size == 16_384
    script.write_text("#!/bin/bash\n#é\n".ljust(16_384, "x"))
    with pytest.raises(ExampleError, match=r"boot\.sh: .*user_data: found 16385 bytes; expected at most 16384"):
        Example.load(folder)
    script.write_text("#!${cluster_name}".ljust(16_384, "x"))
    with pytest.raises(ExampleError, match=r"found 16394 bytes"):
        Example.load(folder).replace(cluster_name="n" * 25)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("${n}", "3"),
        ("$n ${n:-1} ${#n} ${N} ${other} $$ $((n))", "$n ${n:-1} ${#n} ${N} ${other} $$ $((n))"),
        ("$${n} $${other}", "${n} $${other}"),
        ("${yes}", "true"),
        ("${all}", "a b"),
    ],
)
def test_the_shell_keeps_what_is_its_own(script: str, expected: str) -> None:
    assert expand_user_data(script.encode(), {"n": 3, "yes": True, "all": ("a", "b")}) == expected.encode()


@pytest.mark.parametrize(("status", "side"), [(0, "server"), (0, "client"), (3, "server")])
def test_user_data_logs_and_keeps_its_status(tmp_path: Path, status: int, side: str) -> None:
    group = next(one for one in Example.load(COLOCATED).render(run_id="nt-1") if one.name == f"{side}s")
    script = group.module.user_data.decode()
    for agent in ("consul", "nomad"):
        fake = tmp_path / f"run-{agent}"
        fake.write_text(f'#!/bin/sh\necho "{agent} $@"\nexit {status if agent == "nomad" else 0}\n')
        fake.chmod(0o755)
        script = script.replace(f"/opt/{agent}/bin/run-{agent}", str(fake))
    log = tmp_path / "user-data.log"
    ended = subprocess.run(
        ["bash", "-c", script.replace("/var/log/user-data.log", str(log))], capture_output=True, text=True, timeout=30
    )
    join = "--cluster-tag-key nomad-servers --cluster-tag-value auto-join-nt-1"
    nomad = "--server --num-servers 3" if side == "server" else "--client --enable-raw-exec"
    quiet = "--environment CHECKPOINT_DISABLE=1"
    expected = f"consul --{side} {join} {quiet}\nnomad {nomad} {quiet}\nuser data ended with status {status}\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, expected, "")
    assert log.read_text() == expected


def test_the_readme_tells_every_variable() -> None:
    example = Example.load(COLOCATED)
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", (example.folder / "README.md").read_text(), re.MULTILINE)
    told = {name: default.strip('"') for name, default in rows}
    assert told == {name: str(value) for name, value in example.variables.items()}


def test_every_variable_is_described() -> None:
    for variable in Example.load(COLOCATED).declarations.values():
        assert variable.type in TYPES
        assert variable.description
