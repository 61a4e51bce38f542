"""The table [security] of an example."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nomad_testkit import Example
from nomad_testkit.errors import ExampleError, UsageError
from nomad_testkit.examples.security import Security
from nomad_testkit.plugin.topologies import refuse_another

ENCRYPTED = "nomad-consul-encrypted-cluster"


@pytest.fixture
def declare(tmp_path: Path) -> Callable[[str], Example]:
    """Give a function that loads the bundled example with another [security]."""

    def load(lines: str) -> Example:
        folder = tmp_path / "example"
        shutil.copytree(Example.load(ENCRYPTED).folder, folder)
        file = folder / "example.toml"
        before, _, rest = file.read_text().partition("[security]\n")
        file.write_text(f"{before}{lines}\n{rest[rest.index('[roles]') :]}")
        return Example.load(folder)

    return load


def test_what_examples_demand(declare: Callable[[str], Example]) -> None:
    for example, security in (
        (Example.load(ENCRYPTED), Security(tls=True, gossip_encryption=True, acl=True)),
        (declare('[security]\ntls = true\nconsul_datacenter = "dc1"'), Security(tls=True, consul_datacenter="dc1")),
        (Example.load("nomad-consul-colocated-cluster"), Security()),
    ):
        assert (example.security, example.security.wanted) == (security, security != Security())


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("[security]\ntsl = true", "security.tsl: found a key that means nothing here; did you mean tls?"),
        ('[security]\nacl = "yes"', "security.acl: found the string 'yes'; expected true or false"),
        ("[security]\ntls = 1", "security.tls: found the integer 1; expected true or false"),
        ("[security]\nconsul_datacenter = 1", "security.consul_datacenter: found the integer 1; expected a string"),
        (
            '[security]\nconsul_datacenter = "dc 1"',
            "security.consul_datacenter: found the string 'dc 1'; expected at most 64 letters, digits, - and _",
        ),
    ],
)
def test_what_is_wrong_is_named(declare: Callable[[str], Example], lines: str, said: str) -> None:
    with pytest.raises(ExampleError) as caught:
        declare(lines)
    assert str(caught.value).endswith(f"example.toml: {said}")


def test_tests_of_an_encrypted_cluster_refuse_one_that_leaves_something_open(declare: Callable[[str], Example]) -> None:
    refuse_another(Example.load(ENCRYPTED), ("encrypted",), "encrypted")
    open_to_all = declare("[security]\nacl = true")
    with pytest.raises(UsageError) as caught:
        refuse_another(open_to_all, ("encrypted",), "encrypted")
    assert str(caught.value) == (
        f"{open_to_all.file}: security: found no tls, gossip_encryption; right for tests marked encrypted is tls, "
        "gossip_encryption and acl, all of them true"
    )
    refuse_another(Example.load(ENCRYPTED), ("colocated",), "colocated")


@pytest.mark.parametrize("lines", ["", "[security]\ntls = false"])
def test_user_data_that_would_wait_for_nothing_is_refused(declare: Callable[[str], Example], lines: str) -> None:
    with pytest.raises(ExampleError) as caught:
        declare(lines)
    assert str(caught.value).endswith(
        "example.toml: security: found nothing that a run is to make; expected a table [security], for the user data "
        "of servers, clients refers to /etc/nomad-testkit"
    )


def test_it_is_a_table(tmp_path: Path) -> None:
    folder = tmp_path / "example"
    shutil.copytree(Example.load("nomad-consul-colocated-cluster").folder, folder)
    file = folder / "example.toml"
    file.write_text("security = true\n" + file.read_text())
    with pytest.raises(ExampleError, match=r"example\.toml: security: found the boolean true; expected a table"):
        Example.load(folder)
