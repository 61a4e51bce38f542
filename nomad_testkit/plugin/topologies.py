"""Which cluster a test is for, as its marks say; and how tests for several are kept from taking turns.

Works on pytest's items by what it needs of them, so that it can be told without pytest what is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import CodeType
from typing import TYPE_CHECKING, Any

from nomad_testkit.errors import UsageError

if TYPE_CHECKING:
    from nomad_testkit.examples.example import Example

TOPOLOGIES: Mapping[str, str] = {
    "colocated": "nomad-consul-colocated-cluster",
    "separate": "nomad-consul-separate-cluster",
    "encrypted": "nomad-consul-encrypted-cluster",
}
"""Each topology, which is also a marker's name, and the bundled example of it."""
DEFAULT = "colocated"
"""What a test is for that has no mark."""
MARKER = "nomad_topology"


def asked_for(node: Any) -> tuple[str, ...]:
    """List the topologies that a test's marks ask for; none where it has no such mark. Raises UsageError."""
    marker = node.get_closest_marker(MARKER)
    if marker is None:
        return tuple(name for name in TOPOLOGIES if node.get_closest_marker(name) is not None)
    if not marker.args or (unknown := [name for name in marker.args if name not in TOPOLOGIES]):
        found = ", ".join(map(repr, unknown)) if marker.args else "none"
        raise UsageError(f"{node.nodeid}: the marker {MARKER} has {found}; expected any of {', '.join(TOPOLOGIES)}")
    return tuple(dict.fromkeys(marker.args))


def uses(item: Any, *fixtures: str) -> bool:
    """Tell whether a test takes any of these fixtures, or may get one by `getfixturevalue`.

    That it may, its code says or that of a fixture that it takes, by the name of what it gets.
    """
    taken = getattr(item, "fixturenames", ())
    if any(name in taken for name in fixtures):
        return True
    if "request" not in taken:
        return False
    found = getattr(item, "_fixtureinfo", None)
    chosen = [definitions[-1].func for definitions in found.name2fixturedefs.values() if definitions] if found else []
    codes = [getattr(function, "__code__", None) for function in (getattr(item, "function", None), *chosen)]
    return any(name in _texts(code) for code in codes if code is not None for name in fixtures)


def _texts(code: CodeType) -> Iterator[str]:
    """Give the texts that a function's code has in it, with those of the functions within."""
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, CodeType):
            yield from _texts(constant)


def used_by(item: Any) -> str | None:
    """Tell the topology of the cluster that a test uses, None where it uses none."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    late = MARKER in params and "request" in item.fixturenames
    if not (late or uses(item, "nomad_cluster")):
        return None
    return params.get(MARKER) or DEFAULT


def one_after_the_other(items: list[Any]) -> list[str]:
    """Sort tests so that all of one topology come together; list those in use, in their order."""
    used = [name for name in TOPOLOGIES if name in {used_by(item) for item in items}]
    if len(used) > 1:
        items.sort(key=lambda item: used.index(topology) if (topology := used_by(item)) else 0)
    return used


def groups(items: list[Any]) -> dict[str, str]:
    """Tell which tests are to run in the same worker, by their names, from their marks ``xdist_group``."""
    found: dict[str, str] = {}
    for item in items:
        marks = list(item.iter_markers("xdist_group"))
        names = {str(mark.args[0] if mark.args else mark.kwargs.get("name", "default")) for mark in marks}
        if names:
            found[item.nodeid] = "_".join(sorted(names))
    return found


def refuse_another(example: Example, asked: tuple[str, ...], topology: str) -> None:
    """Refuse an example that is of another topology than the test's marks ask for. Raises UsageError."""
    if not asked:
        return
    if topology == "encrypted":
        if lacking := example.security.lacking:
            right = "tls, gossip_encryption and acl, all of them true"
            raise UsageError(
                f"{example.file}: security: found no {', '.join(lacking)}; right for tests marked encrypted is {right}"
            )
        return
    if (found := example.roles.topology) == topology:
        return
    consul, nomad = (", ".join(groups) for groups in (example.roles.consul_servers, example.roles.nomad_servers))
    raise UsageError(
        f"{example.file}: found a {found} cluster: Consul servers in {consul}, Nomad servers in {nomad}; right for "
        f"tests marked {topology} is a {topology} one. Run with -m {found} instead, or let the fixture nomad_example "
        "take nomad_topology and return an example of each."
    )
