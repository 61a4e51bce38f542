"""For the project's own tests: `pytester`, which runs pytest in a test."""

from __future__ import annotations

pytest_plugins = ["pytester"]
