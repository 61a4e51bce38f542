"""Which program applies a configuration: Terraform or OpenTofu, found in PATH or named, in a version that will do.

The ranges: `terraform_data`, and a plugin cache that does not mind the lock file, came with Terraform 1.4
(https://github.com/hashicorp/terraform/blob/v1.4/CHANGELOG.md); OpenTofu began with 1.6. Both promise to keep
configurations and ``-json`` as they are until 2.0.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nomad_testkit.errors import Missing, PreflightError

OPTION = "--nomad-terraform FILE"
LOCK_FILE = ".terraform.lock.hcl"
_VERSION_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Product:
    """One of the two, with the versions that can be used: from `first` to below `end`."""

    name: str
    program: str
    first: tuple[int, int]
    end: tuple[int, int]
    registry: str
    """Where its providers come from, as its lock file names them."""
    remedy: str

    @property
    def range(self) -> str:
        """The range in words."""
        return f"{self.name} {self.first[0]}.{self.first[1]} or newer, below {self.end[0]}.{self.end[1]}"


PRODUCTS: Mapping[str, Product] = {
    product.name: product
    for product in (
        Product(
            "OpenTofu", "tofu", (1, 6), (2, 0), "registry.opentofu.org", "https://opentofu.org/docs/intro/install/"
        ),
        Product(
            "Terraform",
            "terraform",
            (1, 4),
            (2, 0),
            "registry.terraform.io",
            "https://developer.hashicorp.com/terraform/install",
        ),
    )
}
"""The first is taken where both are found and nothing speaks for the other."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that has said what it is."""

    path: Path
    product: str
    version: str
    why: str = ""
    """Why it was chosen, where there was a choice."""

    def __str__(self) -> str:
        return f"{self.product} {self.version} ({self.path})"


def find_tool(named: Path | None, folder: Path) -> Tool:
    """Find the program for a configuration: the one that is named, else OpenTofu or Terraform in PATH.

    Where both are there, the configuration's lock file decides by the registry of its providers, else it is OpenTofu.
    Raises PreflightError, which says what was found, and which versions will do.

    >>> find_tool(None, Path("my-cluster")).product  # doctest: +SKIP
    'OpenTofu'
    """
    if named is not None:
        return checked(named.absolute())
    found = {name: Path(path) for name, one in PRODUCTS.items() if (path := shutil.which(one.program))}
    if not found:
        programs = " or ".join(one.program for one in PRODUCTS.values())
        remedy = " or ".join(f"install {one.range} ({one.remedy})" for one in PRODUCTS.values())
        what = f"{programs} in PATH, to apply {folder}"
        raise PreflightError([Missing(what, f"{remedy}; or name one that is elsewhere by {OPTION}")])
    if len(found) == 1:
        return checked(next(iter(found.values())))
    chosen, why = _choose(folder)
    others = " and ".join(str(path) for name, path in found.items() if name != chosen)
    return checked(found[chosen], why=f"{why}, though there is {others}; {OPTION} chooses another")


def checked(path: Path, *, why: str = "") -> Tool:
    """Ask a program what it is. Raises PreflightError where it is neither, or in a version that will not do."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TF_LOG", "TF_CLI_ARGS"))}
    try:
        done = subprocess.run(
            [str(path), "version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_SECONDS,
            env=environment | {"CHECKPOINT_DISABLE": "1"},
            check=False,
        )
        said = done.stdout.strip() or done.stderr.strip()
    except OSError as error:
        said = error.strerror or str(error)
    except subprocess.TimeoutExpired:
        said = f"nothing for {_VERSION_SECONDS:.0f} s"
    right = " or ".join(one.range for one in PRODUCTS.values())
    match = re.match(r"(\w+) v(\d+)\.(\d+)(\S*)", said)
    if match is None or match[1] not in PRODUCTS:
        what = f"Terraform or OpenTofu (`{path} version` says {said[:200]!r})"
        raise PreflightError([Missing(what, f"name one by {OPTION}: {right}")])
    product = PRODUCTS[match[1]]
    version = f"{match[2]}.{match[3]}{match[4]}"
    if not product.first <= (int(match[2]), int(match[3])) < product.end:
        found = f"{product.range} (found {version}, {path})"
        raise PreflightError([Missing(found, f"{product.remedy}; or name another by {OPTION}: {right}")])
    return Tool(path, product.name, version, why)


def _choose(folder: Path) -> tuple[str, str]:
    try:
        locked = (folder / LOCK_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        locked = ""
    named = [name for name, one in PRODUCTS.items() if f'"{one.registry}/' in locked]
    if len(named) == 1:
        return named[0], f"whose registry {LOCK_FILE} names"
    return next(iter(PRODUCTS)), "the one that is tested here"
