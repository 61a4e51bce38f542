"""Fixtures that a conftest.py overrides: what they give must be what the options of this run ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nomad_testkit.settings import Settings

WATCHED = ("nomad_example", "nomad_target", "nomad_cluster", "nomad_ami")
_FOR_THIS_RUN = ("option", "environment variable")
"""Sources of a setting that is asked for in this run; what an ini file says, a conftest.py may well override."""


def defeated(fixture: str, value: Any, settings: Settings, where: str) -> str | None:
    """Say which options an overridden fixture does not honour, by what it gave; None where it honours all.

    `where` is the place of the override. One that takes the overridden fixture, or `nomad_settings`, as its own
    argument can honour them.
    """
    wrong = [
        f"{settings.source(name)}: asked for {asked}, but {fixture}, overridden at {where}, gives {found}"
        for name, asked, found in _differing(fixture, value, settings)
        if settings.source(name).startswith(_FOR_THIS_RUN)
    ]
    if not wrong:
        return None
    remedy = f"Leave the option out, or let {fixture} take the fixture of the same name as an argument and change that"
    return "\n".join([*wrong, remedy])


def _differing(fixture: str, value: Any, settings: Settings) -> Iterator[tuple[str, object, object]]:
    """Give each setting that asks for something else than what the fixture gave: its name, and both."""
    if fixture == "nomad_example":
        yield from _of_example(value, settings)
    elif fixture == "nomad_target":
        for name, found in (("target", getattr(value, "name", None)), ("region", getattr(value, "region", None))):
            asked = getattr(settings, name)
            if found is not None and found != asked:
                yield name, asked, found
    elif fixture == "nomad_ami":
        if settings.ami is not None and value != settings.ami:
            yield "ami", settings.ami, value
    elif fixture == "nomad_cluster":
        yield from _of_cluster(value, settings)


def _of_example(example: Any, settings: Settings) -> Iterator[tuple[str, object, object]]:
    from nomad_testkit.examples.example import Example

    if settings.example is None or settings.attach or not isinstance(example, Example):
        return
    asked = Example.load(settings.example).folder
    if example.folder.resolve() != asked.resolve():
        yield "example", settings.example, example.folder


def _of_cluster(cluster: Any, settings: Settings) -> Iterator[tuple[str, object, object]]:
    from nomad_testkit.cluster.cluster import Cluster

    if not isinstance(cluster, Cluster):
        return
    if settings.attach:
        from nomad_testkit.plugin.attaching import attached_run

        if (asked := attached_run(settings)).run_id != cluster.run_id:
            yield "attach", asked, cluster.run_id
        return
    from nomad_testkit.examples.example import Example

    if isinstance(cluster.example, Example):
        yield from _of_example(cluster.example, settings)
        for name, text in settings.var.items():
            found = cluster.example.variables.get(name)
            if found is not None and name in cluster.example.declarations:
                asked_value = cluster.example.declarations[name].read(text)
                if found != asked_value:
                    yield f"var {name}", text, found
    for name, hosts in (("servers", cluster.nomad_servers), ("clients", cluster.nomad_clients)):
        size = getattr(settings, name)
        if size is not None and len(hosts) != size:
            yield name, size, f"{len(hosts)} {name}"
