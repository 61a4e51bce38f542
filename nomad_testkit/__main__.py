"""python -m nomad_testkit."""

from __future__ import annotations

from nomad_testkit.cli import main

main(prog_name="python -m nomad_testkit")
