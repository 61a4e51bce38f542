"""Which outputs of a configuration tell where its cluster is, under the names that upstream's examples give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ROLES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "consul_servers": (("consul_servers", "servers"), "the Consul servers"),
    "nomad_servers": (("nomad_servers", "servers"), "the Nomad servers"),
    "nomad_clients": (("nomad_clients", "clients"), "the Nomad clients"),
}
"""Each role with the groups that may have it, the surest first, and with words for it."""


@dataclass(frozen=True, slots=True)
class GroupOutputs:
    """The outputs that tell of one group of hosts: the name of its auto scaling group, or else its tag."""

    group: str
    asg_name: str = ""
    tag_key: str = ""
    tag_value: str = ""
    num: str = ""

    @property
    def needed(self) -> tuple[str, ...]:
        """The outputs without which its hosts cannot be found."""
        return (self.asg_name,) if self.asg_name else (self.tag_key, self.tag_value, self.num)


def find_groups(outputs: Iterable[str]) -> dict[str, GroupOutputs]:
    """Find the group of each role; a role that no output tells of is left out.

    >>> {role: one.group for role, one in find_groups(["asg_name_servers", "asg_name_clients"]).items()}
    {'consul_servers': 'servers', 'nomad_servers': 'servers', 'nomad_clients': 'clients'}
    """
    names = frozenset(outputs)
    found = {role: _group(role, groups, names) for role, (groups, _) in ROLES.items()}
    return {role: one for role, one in found.items() if one is not None}


def expected(role: str) -> str:
    """Tell which outputs would tell of a role."""
    groups, words = ROLES[role]
    return f"{' or '.join(f'asg_name_{group}' for group in groups)}, the name of the auto scaling group of {words}"


def size_variables(group: str) -> tuple[str, ...]:
    """List the names that the variable of a group's size may have, upstream's first.

    >>> size_variables("servers")
    ('num_servers', 'num_nomad_servers')
    """
    own = f"num_{group}"
    other = f"num_nomad_{group}" if not group.startswith(("nomad_", "consul_")) else f"num_{group.partition('_')[2]}"
    return (own, other) if not group.startswith("consul_") else (own,)


def _group(role: str, groups: Sequence[str], names: frozenset[str]) -> GroupOutputs | None:
    for group in groups:
        if f"asg_name_{group}" in names:
            return GroupOutputs(group, asg_name=f"asg_name_{group}", num=_num(group, names))
    for group in groups:
        for key, value in (
            (f"cluster_tag_key_{group}", f"cluster_tag_value_{group}"),
            (f"{group}_cluster_tag_key", f"{group}_cluster_tag_value"),
        ):
            if key in names and value in names and (num := _num(group, names)):
                return GroupOutputs(group, tag_key=key, tag_value=value, num=num)
    return None


def _num(group: str, names: frozenset[str]) -> str:
    return next((name for name in size_variables(group) if name in names), "")
