"""The examples that come with the package."""

from __future__ import annotations

from typing import Any

import click

from nomad_testkit.cli.group import columns, json_option, main, say_json


@main.command(short_help="List the bundled examples.")
@json_option
def examples(as_json: bool) -> None:
    """List the examples that come with the package: what each deploys, and how many hosts by default.

    `nomad-testkit up NAME` deploys one, and `nomad-testkit init --example NAME` copies one to change.
    """
    found = bundled()
    if as_json:
        say_json({"examples": found})
        return
    rows = [["EXAMPLE", "HOSTS", "WHAT IT DEPLOYS"]]
    rows += [[one["name"], str(sum(one["hosts"].values())), one["description"]] for one in found]
    click.echo(columns(rows))


def bundled() -> list[dict[str, Any]]:
    """Describe the bundled examples in JSON's types."""
    from nomad_testkit.examples.example import Example
    from nomad_testkit.modules.bundle import examples_dir

    return [_described(Example.load(path.parent.name)) for path in sorted(examples_dir().glob("*/example.toml"))]


def _described(example: Any) -> dict[str, Any]:
    sizes = example.sizes
    roles = {"colocated": ("nomad_servers", "nomad_clients")}.get(
        example.roles.topology, ("consul_servers", "nomad_servers", "nomad_clients")
    )
    return {
        "name": example.folder.name,
        "folder": str(example.folder),
        "topology": example.roles.topology,
        "description": example.description,
        "hosts": {role: getattr(sizes, role) for role in roles},
    }
