"""What the settings change in an example: which one it is, how large it is, and the values of its variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_testkit.errors import ExampleError, SettingsError
from nomad_testkit.examples.example import Example

if TYPE_CHECKING:
    from nomad_testkit.settings import Settings

_SIZES: Mapping[str, str] = {"servers": "nomad_servers", "clients": "nomad_clients"}
"""Each setting that is a number of hosts, with the role of these hosts."""


def chosen_example(settings: Settings, default: str) -> Example:
    """Load the example that the settings name, else a bundled one, with what the settings change in it.

    Raises SettingsError, which says in the words of the example's own errors what is wrong, and where it came from.

    >>> chosen_example(Settings.load(options={"nomad_clients": "2"}), "nomad-consul-colocated-cluster").name
    'nomad-consul-colocated-cluster'
    """
    try:
        example = Example.load(settings.example or default)
    except ExampleError as error:
        if settings.example is None:
            raise
        raise SettingsError(f"{settings.source('example')}: {error}") from error
    return changed(example, settings)


def with_sensitive(settings: Settings) -> Settings:
    """Note in the settings which of their variables a folder of ``*.tf`` declares as sensitive; never raises."""
    from nomad_testkit.examples.configuration import Configuration, files

    try:
        folder = Path(settings.example or "")
        if not (settings.var and settings.example and folder.is_dir() and files(folder)):
            return settings
        declared = Configuration.read(folder).variables.values()
    except (ExampleError, OSError):  # it is refused where it is loaded
        return settings
    return replace(settings, sensitive=frozenset(one.name for one in declared if one.sensitive))


def changed(example: Example, settings: Settings) -> Example:
    """Give an example the sizes and the values of variables that the settings have. Raises SettingsError.

    ``servers`` and ``clients`` are the numbers of hosts with the roles nomad_servers and nomad_clients: the variable
    that is the size of the group with that role gets the value, whatever its name.
    """
    given: dict[str, tuple[Any, str]] = {}
    for name, role in _SIZES.items():
        if (size := getattr(settings, name)) is not None:
            given[_size_variable(example, role, settings.source(name))] = (size, settings.source(name))
    if settings.ami and example.ami_variable:
        given[example.ami_variable] = (settings.ami, settings.source("ami"))
    for name, text in settings.var.items():
        source = settings.source(f"var {name}")
        value = example.declarations[name].read(text) if name in example.declarations else text
        if name in given and given[name][0] != value:
            other, where = given[name]
            raise SettingsError(
                f"{name} is given twice: {other} by {where}, and {text} by {source}; leave one of them out"
            )
        given[name] = (value, source)
    for name, (value, source) in given.items():
        try:
            # One by one, so that the error is of this one; together below, because one may need the other.
            if name in example.declarations:
                example.declarations[name].checked(example.file, value)
            else:
                example.replace(**{name: value})
        except ExampleError as error:
            raise SettingsError(f"{source}: {error}") from error
    try:
        return example.replace(**{name: value for name, (value, _) in given.items()}) if given else example
    except ExampleError as error:
        sources = ", ".join(dict.fromkeys(source for _, source in given.values()))
        raise SettingsError(f"{sources}: {error}") from error


def _size_variable(example: Example, role: str, source: str) -> str:
    names = example.size_variables(role)
    if len(names) == 1 and None not in names:
        return str(names[0])
    groups = ", ".join(getattr(example.roles, role))
    if None in names:
        found = f"the groups of the role {role} ({groups}) have a size that is no variable"
        right = example.sizing
    else:
        found = f"the groups of the role {role} ({groups}) have sizes of their own"
        right = "each of them by --nomad-var: " + ", ".join(f"{name}=N" for name in names)
    raise SettingsError(f"{source}: {example.file}: {found}; expected {right}")
