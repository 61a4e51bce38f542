"""A folder to begin with: an example, a conftest.py, a test and a definition for CI."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from nomad_testkit.cli.group import main
from nomad_testkit.cli.up import complete_examples
from nomad_testkit.errors import TestkitError, UsageError, near_miss

CI = {
    "github": ("github-actions.yml", ".github/workflows/nomad.yml"),
    "gitlab": ("gitlab-ci.yml", ".gitlab-ci.yml"),
}
"""What a definition is called in the bundled examples, and where it goes."""
_CONFTEST = '''"""Which cluster the tests here are for."""

from pathlib import Path

import pytest
from nomad_testkit import Example


@pytest.fixture(scope="session")
def nomad_example():
    """The example beside this file, with fewer hosts than it has by default."""
    return Example.load(Path(__file__).with_name("my-cluster")).replace({sizes})
'''
_TEST = '''"""The cluster forms, and a job runs on it."""

from nomad_testkit.checks import AllocationsRunning, NodesReady, RaftPeers, ServiceHealthy


def test_it_forms(nomad_cluster):
    nomad_cluster.require(RaftPeers({servers}), NodesReady({clients}), within=60)


def test_a_job_runs(nomad_cluster):
    with nomad_cluster.submitted("web.nomad.hcl", count=2) as job:
        nomad_cluster.require(AllocationsRunning(job), ServiceHealthy(job.name, 2), within=60)
'''


@main.command(short_help="Begin a folder of tests of your own.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option(
    "--example",
    metavar="NAME",
    default="nomad-consul-colocated-cluster",
    show_default=True,
    shell_complete=complete_examples,
    help="The bundled example to copy.",
)
@click.option("--ci", type=click.Choice([*CI, "none"]), default="github", show_default=True, help="Whose definition.")
def init(folder: Path, example: str, ci: str) -> None:
    """Write what tests of your own begin with into FOLDER, by default this one.

    It is a copy of a bundled example in my-cluster, which is yours to change, a conftest.py that deploys it with one
    server and two clients, a test, requirements.txt and a definition for CI. Nothing is overwritten: where one of these
    is there already, nothing is written at all.
    """
    written = scaffold(folder, example, ci)
    click.echo(f"wrote into {folder.resolve()}:")
    for path in written:
        click.echo(f"  {path.relative_to(folder)}")
    click.echo(f"next: cd {folder} && pytest" if folder != Path() else "next: pytest")


def scaffold(folder: Path, example: str, ci: str) -> list[Path]:
    """Write the files, all of them or none; lists them. Raises UsageError where one is there already."""
    from nomad_testkit.examples.example import Example
    from nomad_testkit.modules.bundle import examples_dir

    bundled = {path.parent.name: path.parent for path in examples_dir().glob("*/example.toml")}
    if example not in bundled:
        raise UsageError(f"--example: there is no bundled example {example!r}; {near_miss(example, bundled)}")
    roles = Example.load(example).roles
    sizes = "num_servers=1, num_clients=2"
    if roles.topology == "separate":
        sizes = "num_consul_servers=1, num_nomad_servers=1, num_nomad_clients=2"
    files = {
        folder / "conftest.py": _CONFTEST.format(sizes=sizes),
        folder / "test_cluster.py": _TEST.format(servers=1, clients=2),
    }
    if ci != "none":
        name, place = CI[ci]
        files[folder / place] = (examples_dir() / "nightly" / name).read_text()
    cluster = folder / "my-cluster"
    if taken := [path for path in (*files, cluster) if path.exists()]:
        raise UsageError(f"found {', '.join(map(str, taken))}, expected a folder without; nothing was written")
    written: list[Path] = []
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(bundled[example], cluster)
        written.append(cluster)
        if not (folder / "requirements.txt").exists():
            files[folder / "requirements.txt"] = "nomad-testkit\n"
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            written.append(path)
            path.write_text(text)
    except OSError as error:
        for path in written:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise TestkitError(f"{folder} cannot be written: {error}; nothing of it is left") from error
    return sorted(written)
