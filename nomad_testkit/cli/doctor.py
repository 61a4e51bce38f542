"""Tell what a deployment needs of this machine or account, what of it is there, and put right what is not."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nomad_testkit import setup
from nomad_testkit.cli.group import FAILED, json_option, main, say, say_json, with_own_options
from nomad_testkit.cli.up import AGENTS, settings_of, settings_options
from nomad_testkit.errors import PreflightError, TestkitError, UsageError

if TYPE_CHECKING:
    from nomad_testkit.images.agents import AgentName
    from nomad_testkit.images.cache import Cache
    from nomad_testkit.settings import Settings
    from nomad_testkit.targets.base import Room

FOUND, LATER, MISSING = "found", "later", "missing"
_FEW_HOSTS = 9
"""Of the bundled example, which has three servers and six clients by default."""
_OPTIONAL = (
    setup.Need("packer", program="packer"),
    setup.Need("openssh-client", program="ssh"),
)
_PURPOSES = {"packer": "`nomad-testkit ami build`, and tests of AMIs", "ssh": "`nomad-testkit ssh`"}


@dataclass(frozen=True)
class Finding:
    """One thing that is needed, and how it is with it.

    >>> Finding("nft", MISSING, fix="apt-get install nftables", package="nftables").describe()["state"]
    'missing'
    """

    what: str
    state: str
    """``found``; ``later``, what is got or made when it is first used; or ``missing``."""
    where: str = ""
    fix: str = ""
    package: str = ""
    """The Debian package that puts it right."""
    make: Callable[[], object] | None = None
    """What gets or makes it now."""
    optional: bool = False

    def describe(self) -> dict[str, Any]:
        """Tell it in JSON's types."""
        return {
            "what": self.what,
            "state": self.state,
            "where": self.where or None,
            "fix": self.fix or None,
            "optional": self.optional,
        }


@main.command(short_help="Show what is needed and missing; fix it.")
@click.option("--fix", is_flag=True, help="Install and make what is missing, or would be made at first use.")
@click.option("--optional", "with_optional", is_flag=True, help="With --fix: install what is optional, too.")
@settings_options("target", "region", "terraform", *AGENTS)
@json_option
def doctor(fix: bool, with_optional: bool, as_json: bool, **given: Any) -> None:
    """Show everything that a deployment needs, whether it is there, and what puts it right.

    The exit code is 1 when something that is needed is missing.
    """
    settings = settings_of(given)
    found = findings(settings)
    if fix:
        mend(settings, found, optional=with_optional)
        found = findings(settings)
    missing = [one for one in found if one.state == MISSING and not one.optional]
    if as_json:
        say_json({"ready": not missing, "findings": [one.describe() for one in found]})
    else:
        marks = {FOUND: "ok", LATER: "later", MISSING: "MISSING"}
        for one in found:
            mark = "-" if one.optional and one.state == MISSING else marks[one.state]
            click.echo(f"{mark:8} {one.what}" + (f": {one.where}" if one.where else ""))
            if one.fix and one.state != FOUND:
                click.echo(f"{'':9}{one.fix}")
        fixes = "`nomad-testkit doctor --fix` installs what it can"
        click.echo(f"\n{len(missing)} missing; {fixes}" if missing else "\neverything needed is there")
    if missing:
        click.get_current_context().exit(FAILED)


def findings(settings: Settings) -> list[Finding]:
    """Look at all of it. Raises nothing that a finding can tell."""
    if settings.target == "aws":
        return [_state_folder(), *_account(settings), *_optional(settings)]
    lacking = _packages()
    machine = setup.problems(
        system=platform.system(),
        python=(sys.version_info[0], sys.version_info[1]),
        root=os.geteuid() == 0,
        has_apt=setup.find_program("apt-get") is not None,
        lacking=[one.package for one in lacking if one.state == MISSING],
    )
    told = [Finding(problem.what, MISSING, fix=problem.remedy) for problem in machine]
    if not told:
        version = platform.python_version()
        told = [Finding("machine", FOUND, f"{platform.system()} {platform.machine()}, Python {version}, root")]
    return [*told, *lacking, *_tools(), *_limits(), _state_folder(), *_prepared(settings), *_optional(settings)]


def mend(settings: Settings, found: Sequence[Finding], *, optional: bool) -> None:
    """Install and make what is missing. Raises TestkitError with what a program said that could not."""
    chosen = [one for one in found if one.state != FOUND and (optional or not one.optional)]
    packages = list(dict.fromkeys(one.package for one in chosen if one.package))
    if packages:
        try:
            setup.install(packages, setup.run_command, say)
        except setup.SetupError as error:
            raise TestkitError(str(error)) from error
        chosen = [one for one in findings(settings) if one.state != FOUND and (optional or not one.optional)]
    for one in chosen:
        if one.make is not None:
            one.make()


def _packages() -> list[Finding]:
    has_go = setup.find_program("go") is not None or Path("/usr/local/go/bin/go").exists()
    return [_package(need) for need in setup.NEEDS + (setup.GO_NEEDS if has_go else ())]


def _package(need: setup.Need, *, optional: bool = False, purpose: str = "") -> Finding:
    place = setup.find_program(need.program) if need.program else need.file
    what = (need.program or need.package) + (f" ({purpose})" if purpose else "")
    if need.program and place is not None and shutil.which(need.program) is None:
        # `up` starts it by its name, and root's PATH may lack the folders of administration programs.
        folder = Path(str(place)).parent
        return Finding(what, MISSING, f"{place}, which PATH lacks", f"add {folder} to PATH", optional=optional)
    if need.met():
        return Finding(what, FOUND, str(place), optional=optional)
    return Finding(what, MISSING, fix=f"apt-get install {need.package}", package=need.package, optional=optional)


def _optional(settings: Settings) -> list[Finding]:
    packages = [_package(need, optional=True, purpose=_PURPOSES[need.program]) for need in _OPTIONAL]
    return [*packages, _terraform(settings.terraform)]


def _terraform(named: Path | None) -> Finding:
    """Look for what applies an example of `*.tf`; one that a user names has to be there."""
    from nomad_testkit.examples.terraform_tool import find_tool

    what = "tofu or terraform (examples that are Terraform's)"
    try:
        return Finding(what, FOUND, str(find_tool(named, Path())), optional=named is None)
    except PreflightError as error:
        (missing,) = error.missing
        where = "" if named is None else missing.what
        return Finding(what, MISSING, where, fix=missing.remedy, optional=named is None)


def _tools() -> list[Finding]:
    """Tell what else the embedded EC2 lacks; what is Debian's is told above."""
    from nomad_testkit.ec2 import handle

    known = {need.program for need in setup.NEEDS} | {"root", "Linux"}
    return [Finding(one.what, MISSING, fix=one.remedy) for one in handle.preflight() if one.what not in known]


def _limits() -> list[Finding]:
    """Tell what room memory, the kernel and the folders' disks leave for hosts, and whether these have own user ids."""
    from nomad_testkit.images.cache import Cache
    from nomad_testkit.runs.run import state_path
    from nomad_testkit.targets.embedded import room

    limits = {"memory": room.memory(), "fs.inotify.max_user_instances": room.inotify()}
    return [
        *(hosts_that_fit(what, found) for what, found in limits.items()),
        isolation(Cache().root),
        caller_filter(),
        *(free_space(path, room.IMAGES_FREE) for path in (Cache().root, state_path(), Path(tempfile.gettempdir()))),
    ]


def hosts_that_fit(what: str, room: Room | None) -> Finding:
    """Tell how many more hosts a limit of this machine lets boot."""
    if room is None:
        return Finding(what, MISSING, "it cannot be read", fix="mount /proc", optional=True)
    where = f"enough for about {room.hosts} more hosts: {room.limit}"
    if room.hosts >= _FEW_HOSTS:
        return Finding(what, FOUND, where)
    return Finding(what, MISSING, where, fix=room.remedy)


def isolation(folder: Path) -> Finding:
    """Tell whether each host can have user ids of its own, so that its root is nobody on this machine."""
    from nomad_testkit.ec2.machines.isolation import missing_isolation

    what = "user ids of their own for hosts"
    if os.geteuid() != 0:
        return Finding(what, LATER, "only root can find out", fix="run as root", optional=True)
    lacking = missing_isolation(next(one for one in (folder, *folder.parents) if one.exists()))
    if not lacking:
        return Finding(what, FOUND, "root on a host is nobody on this machine")
    where = f"{lacking}; so root on a host is root on this machine, without some of its rights"
    fix = "use Linux 6.3 or newer with user namespaces, and a cache folder (NOMAD_TESTKIT_CACHE) on ext4, XFS or Btrfs"
    return Finding(what, MISSING, where, fix=fix, optional=True)


def caller_filter() -> Finding:
    """Tell whether other users of this machine can be kept away from an embedded EC2."""
    from nomad_testkit.ec2.vpc.callers import missing_filter

    what = "other users kept away from hosts"
    if os.geteuid() != 0:
        return Finding(what, LATER, "only root can find out", fix="run as root", optional=True)
    if not (lacking := missing_filter()):
        return Finding(what, FOUND, "root, the user behind sudo and those of --nomad-users reach them")
    where = f"{lacking}; so any user of this machine reaches them"
    return Finding(what, MISSING, where, fix="use Linux 5.12 and nftables 0.9.9, or newer ones", optional=True)


def free_space(path: Path, least: int) -> Finding:
    """Tell how much is free where a folder is, or is to be."""
    from nomad_testkit.targets.embedded.room import free_bytes

    what = f"free space in {path}"
    try:
        free = free_bytes(path)
    except OSError as error:
        return Finding(what, MISSING, str(error.strerror), fix="name another folder")
    where = f"{free / 2**30:.1f} GiB"
    if free >= least:
        return Finding(what, FOUND, where)
    return Finding(what, MISSING, where, fix=f"free {least / 2**30:.0f} GiB there, or name a folder on another disk")


def _state_folder() -> Finding:
    from nomad_testkit.runs.run import ENVIRONMENT_VARIABLE, state_path

    return _folder("folder for runs", state_path(), ENVIRONMENT_VARIABLE)


def _folder(what: str, path: Path, variable: str) -> Finding:
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if existing.is_dir() and os.access(existing, os.W_OK):
        return Finding(what, FOUND, str(path))
    return Finding(what, MISSING, f"{path} cannot be written", fix=f"set {variable} to another folder")


def _prepared(settings: Settings) -> list[Finding]:
    """Tell of what is slow to get and kept in the cache."""
    from nomad_testkit.images import base_image
    from nomad_testkit.images.cache import Cache
    from nomad_testkit.targets.embedded import image_builder

    cache = Cache()
    folder = _folder("cache folder", cache.root, "NOMAD_TESTKIT_CACHE")
    told = [folder, _agent(settings, "consul", cache), _agent(settings, "nomad", cache)]
    if folder.state == MISSING:
        return told
    base = cache.find("base-image", base_image.image_key())
    if base is None and (lacking := base_image.preflight()):
        remedies = "; ".join(map(str, lacking))
        return [*told, Finding("base image", MISSING, fix=remedies)]

    def make() -> None:
        from nomad_testkit.targets.embedded.target import agents_of

        below = image_builder.base(cache, say)
        found = agents_of(settings, cache=cache, progress=say)
        image_builder.agents_image(cache, below, found, region=settings.region, progress=say)

    fix = "made at first use, or by --fix"
    if base is None:
        return [*told, Finding("base image", LATER, fix=fix, make=make)]
    told.append(Finding("base image", FOUND, str(base)))
    if all(one.state == FOUND for one in told):
        image = _agents_image(settings, cache)
        what = "image with Consul and Nomad"
        told.append(Finding(what, FOUND, image) if image else Finding(what, LATER, fix=fix, make=make))
    return told


def _agent(settings: Settings, name: AgentName, cache: Cache) -> Finding:
    from nomad_testkit.images.agents import get_agent, preflight

    version, binary = getattr(settings, f"{name}_version"), getattr(settings, f"{name}_binary")
    what = f"{name} {version}"
    if missing := preflight(name, version, binary=binary, cache=cache):
        return Finding(what, MISSING, fix="; ".join(one.remedy for one in missing))
    cached = _in_cache(name, version, binary, cache)
    if cached:
        return Finding(what, FOUND, cached)

    def make() -> None:
        get_agent(name, version, binary=binary, cache=cache, progress=say)

    return Finding(what, LATER, fix="downloaded or built at first use, or by --fix", make=make)


def _in_cache(name: AgentName, version: str, binary: Path | None, cache: Cache) -> str:
    from nomad_testkit.images.agents.sources import cached_agent

    if binary is not None:
        return str(binary)
    agent = cached_agent(name, version, cache=cache)
    return "" if agent is None else str(agent.path)


def _agents_image(settings: Settings, cache: Cache) -> str:
    from nomad_testkit.targets.embedded import image_builder
    from nomad_testkit.targets.embedded.target import agents_of

    below = image_builder.base(cache, say)
    key = image_builder.image_key(below, agents_of(settings, cache=cache, progress=say))
    return str(cache.find(image_builder.KIND, key) or "")


def _account(settings: Settings) -> list[Finding]:
    """Look at the account, as a deployment does before it creates anything."""
    from nomad_testkit.targets import open_target

    try:
        with open_target(settings, progress=say) as target:
            return [Finding("AWS account", FOUND, f"{target.describe().get('account')} in {target.region}")]
    except PreflightError as error:
        return [Finding(one.what, MISSING, fix=one.remedy) for one in error.missing]
    except (UsageError, TestkitError) as error:
        return [Finding("AWS account", MISSING, fix=with_own_options(str(error)))]
