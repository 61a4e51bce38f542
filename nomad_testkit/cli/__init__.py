"""The command line: each module here is a verb, and registers its command on the group."""

from __future__ import annotations

import importlib
import pkgutil

from nomad_testkit.cli.group import main

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["main"]
