"""The soak's summary, and its help; the deployments that it kills are real ones."""

from __future__ import annotations

from click.testing import CliRunner

from nomad_testkit.cli import main
from nomad_testkit.cli.bench.soak import Killed, summary


def test_sums_up_what_was_killed_and_what_had_ended() -> None:
    ended = [Killed(1.0, "creating servers", 0.5), Killed(4.0, "starting", 2.25), Killed(9.0, "", 0.0)]
    assert summary(ended, whole=9.5, seed=7) == (
        "3 deployments of 9.5 s each, seed 7: 2 killed, 1 had ended before; nothing was left of any\n"
        "all of a killed one was gone after 2.2 s at most"
    )


def test_takes_one_run_at_least() -> None:
    result = CliRunner().invoke(main, ["bench", "soak", "--runs", "0"])
    assert result.exit_code == 2
    assert "0 is not in the range x>=1" in result.stderr
