"""The files that nomad_testkit brings along: examples, fixtures and the scripts for the hosts."""

from __future__ import annotations

from pathlib import Path

from nomad_testkit.errors import TestkitError

_PACKAGE = Path(__file__).resolve().parents[1]


def examples_dir() -> Path:
    """Find the folder of the bundled examples. Raises TestkitError where the installation lacks it."""
    return _bundled("examples")


def fixtures_dir() -> Path:
    """Find the folder of the bundled job specs and recorded answers. Raises TestkitError as `examples_dir` does."""
    return _bundled("fixtures")


def host_scripts() -> list[Path]:
    """List the scripts that prepare a host and run its agents, with the modules that they share.

    They need nothing but each other, beside them in one folder, and Python 3.8.
    """
    return sorted((_PACKAGE / "modules" / "host_scripts").glob("*.py"))


def _bundled(name: str) -> Path:
    # A wheel holds the folders inside the package; an editable install leaves them in the checkout.
    places = (_PACKAGE / "_bundled" / name, _PACKAGE.parent / name)
    for place in places:
        if place.is_dir():
            return place
    looked = " and ".join(str(place) for place in places)
    raise TestkitError(f"this installation of nomad-testkit has no {name} (looked at {looked}); install it again")
