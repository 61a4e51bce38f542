"""A Python shell with a cluster in it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from nomad_testkit.cli.group import FAILED, main
from nomad_testkit.cli.lookup import chosen_run, complete_runs, name_option, opened_cluster

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster


@main.command(short_help="Open Python with the cluster in it.")
@click.argument("run_name", metavar="[NAME]", required=False, shell_complete=complete_runs)
@name_option
@click.option("-c", "--command", metavar="CODE", help="Run CODE, and end.")
@click.pass_context
def shell(ctx: click.Context, run_name: str | None, name: str | None, command: str | None) -> None:
    """Open a Python shell on the cluster NAME, with `nomad_cluster`, as tests have it, and every check in it.

    \b
    nomad-testkit shell -c 'print(nomad_cluster.nomad.leader())'
    >>> nomad_cluster.require(NodesReady(2))
    >>> nomad_cluster.servers[0].run("uptime").stdout

    What comes from a pipe is run as it is. The exit code is 1 where CODE, or what was piped in, raises an error.
    """
    run = chosen_run(run_name or name)
    with opened_cluster(run) as cluster:
        cluster.refresh()
        names = variables(cluster)
        if command is None and sys.stdin.isatty():
            _interact(cluster, names)
            return
        code = command if command is not None else sys.stdin.read()
        if not run_code(code, names, "<command>" if command is not None else "<stdin>"):
            ctx.exit(FAILED)


def variables(cluster: Cluster) -> dict[str, Any]:
    """Give what a shell has: the cluster, its hosts by their groups, its APIs, and the checks."""
    from nomad_testkit import checks

    every = {name: getattr(checks, name) for name in checks.__all__}
    return {**every, "nomad_cluster": cluster, "__name__": "__console__"}


def run_code(code: str, names: dict[str, Any], file: str) -> bool:
    """Run code, and show the error that it raises; returns whether there was none."""
    import code as interpreter

    shown = interpreter.InteractiveInterpreter(names)
    try:
        exec(compile(code, file, "exec"), names)  # noqa: S102 (the point of it)
    except SystemExit as end:
        return not end.code
    except (SyntaxError, OverflowError, ValueError) as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is None:
            shown.showsyntaxerror(file)
        else:
            shown.showtraceback()
        return False
    except Exception:
        shown.showtraceback()
        return False
    return True


def _interact(cluster: Cluster, names: dict[str, Any]) -> None:
    import code as interpreter

    try:
        import readline
        import rlcompleter
    except ImportError:  # a Python without it has a shell all the same
        pass
    else:
        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab: complete")
    hosts = ", ".join(str(host) for host in cluster.hosts)
    banner = f"nomad_cluster is {cluster!r}\nhosts: {hosts}\nthe checks are there, such as NodesReady; Ctrl-D ends it"
    interpreter.interact(banner, local=names, exitmsg="")
