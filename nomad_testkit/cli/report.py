"""Look back at the runs of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nomad_testkit.cli.group import columns, json_option, main, say_json
from nomad_testkit.cli.numbers import Whole
from nomad_testkit.errors import UsageError

if TYPE_CHECKING:
    from nomad_testkit.report.history.series import Comparable, Series


@main.command()
@click.option("--trend", is_flag=True, help="Show the figures over the last runs, and since when they are different.")
@click.option(
    "--last",
    type=Whole(1, 200),
    default=50,
    show_default=True,
    metavar="N",
    help="Look at no more than this many runs.",
)
@click.option("--example", metavar="NAME", help="Look at the runs of this example alone.")
@json_option
def report(trend: bool, last: int, example: str | None, as_json: bool) -> None:
    """Show how long clusters have taken to boot, to form and to heal over the last runs of pytest on this machine.

    A step is a change for good, such as by an image that got slower: a change of the median by 15 % and half a second
    or more, that is clear of the noise, over four runs or more before and after it. A lone outlier does not count.

    Each phase counts by itself, from the end of the one before; `ready` is all of them.

    The page of a single run is made by pytest, with --nomad-report FILE.html.
    """
    from nomad_testkit.errors import near_miss
    from nomad_testkit.report.history import RunHistory
    from nomad_testkit.report.history.series import as_json as facts_of
    from nomad_testkit.report.history.series import compared
    from nomad_testkit.report.history.store import history_path

    if not trend:
        raise click.UsageError("say --trend; the page of a single run is made by `pytest --nomad-report FILE.html`")
    path = history_path()
    runs = RunHistory(path).last(last, example=example)
    if not runs and example is not None:
        known = sorted({run.example for run in RunHistory(path).last()})
        if known:
            raise UsageError(f"no run of example {example!r} is in {path}; {near_miss(example, known)}")
    groups = compared(runs)
    if as_json:
        say_json(facts_of(groups))
    elif not groups:
        click.echo(f"there is no run in {path} yet: each run of pytest that deploys a cluster adds its figures")
    else:
        click.echo("\n\n".join(map(_text, groups)))


def _text(group: Comparable) -> str:
    from nomad_testkit.report.history.trend import sparkline
    from nomad_testkit.report.words import lasting, moment

    last, count = group.runs[-1], len(group.runs)
    head = f"{group.example} ({group.shape}) on {group.target}: {count} {'run' if count == 1 else 'runs'}"
    rows = [["FIGURE", "LAST", "MEDIAN", "LEAST", "MOST", "FROM THE OLDEST TO THE LATEST"]]
    for one in group.series:
        figures = (one.figures[-1], one.median, min(one.figures), max(one.figures))
        rows.append([one.name, *map(lasting, figures), sparkline(one.figures)])
    lines = [f"{head}, the latest {last.run_id} at {moment(last.began, '%Y-%m-%d %H:%M')}", columns(rows, indent="  ")]
    return "\n".join([*lines, *(f"  STEP  {line}" for one in group.series for line in _steps(one))])


def _steps(series: Series) -> list[str]:
    from nomad_testkit.report.history.series import changes
    from nomad_testkit.report.words import lasting, moment

    lines = []
    for step in series.steps:
        run, before = series.runs[step.index], series.runs[step.index - 1]
        lines.append(
            f"{series.name}: {lasting(step.before)} before, {lasting(step.after)} ({step.share:+.0%}) since "
            f"{run.run_id} at {moment(run.began, '%Y-%m-%d %H:%M')}"
            + "".join(f"; {change}" for change in changes(before, run))
        )
    return lines
