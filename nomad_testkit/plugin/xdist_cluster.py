"""One target and one cluster for all pytest-xdist workers of a run: the first makes it, the last out destroys it.

Who lives and who uses what is told by locks of files (flock), which the kernel gives back when a worker dies. In a
folder of the run's own, which only its owner can read:

- ``members.lock``, shared by every worker until it leaves: the last one removes the folder;
- ``groups.json``, which says what tests are to run in the same worker; all workers write the same;
- ``run.lock``, shared by every worker that may still come to use something;
- for each thing ``owner.lock``, held by the worker that made it, ``users.lock``, shared by all that use it, and
  ``result.json``, which says how to use it or why it could not be made.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nomad_testkit.deployment.interrupts import termination_raises, time_limit
from nomad_testkit.errors import Ec2Error, FailedBefore, TestkitError, headline, said
from nomad_testkit.runs.expiry import seconds_left
from nomad_testkit.runs.locks import PATIENCE, FileLock
from nomad_testkit.runs.run import ENVIRONMENT_VARIABLE
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.events import Progress
    from nomad_testkit.examples.example import Example
    from nomad_testkit.settings import Settings
    from nomad_testkit.targets import Target

logger = logging.getLogger(__name__)

T = TypeVar("T")

RUN_VARIABLE = "PYTEST_XDIST_TESTRUNUID"
WORKER_VARIABLE = "PYTEST_XDIST_WORKER"
_GROUPS = "groups.json"


def _write(path: Path, value: Mapping[str, Any]) -> None:
    part = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(dict(value), file)
    part.replace(path)


@dataclass
class _Place:
    """What workers tell each other of one thing."""

    folder: Path
    owner: FileLock = field(init=False)
    users: FileLock = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.owner, self.users = FileLock(self.folder / "owner.lock"), FileLock(self.folder / "users.lock")

    @property
    def _file(self) -> Path:
        return self.folder / "result.json"

    def tell(self, result: Mapping[str, Any]) -> None:
        _write(self._file, result)

    def result(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self._file.read_text()))
        except FileNotFoundError:
            return None

    def unused(self) -> bool:
        probe = FileLock(self.users.path)
        free = probe.try_acquire()
        probe.release()
        return free

    def forget(self) -> None:
        self._file.unlink(missing_ok=True)


@dataclass
class Sharing:
    """A worker's part in what the workers of one run share; `folder` is None where there is but one process."""

    folder: Path | None = None
    worker: str = "this process"
    _members: FileLock | None = None
    _run: FileLock | None = None
    _failed: dict[str, FailedBefore] = field(default_factory=dict)
    """What could not be made here, and why: where there is but one process, it is not tried again."""
    _tellers: dict[str, str] = field(default_factory=dict)
    """Where there is but one process: which test tells of each reason."""

    @classmethod
    def of(cls, environ: Mapping[str, str], state: Path) -> Sharing:
        """Tell from the environment whether this process is a worker of pytest-xdist."""
        if WORKER_VARIABLE not in environ or RUN_VARIABLE not in environ:
            return cls()
        return cls(_folder(state, environ[RUN_VARIABLE]), environ[WORKER_VARIABLE])

    def join(self) -> None:
        """Say that this worker may come to use something: nothing is destroyed before it says otherwise."""
        if self.folder is None:
            return
        try:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._members = self._members or FileLock(self.folder / "members.lock")
            self._members.acquire("a worker to leave", shared=True)
            self._run = self._run or FileLock(self.folder / "run.lock")
            self._run.acquire("a worker to leave", shared=True)
        except OSError as error:
            remedy = f"set {ENVIRONMENT_VARIABLE} to a folder that can be written"
            raise TestkitError(f"the folder that the workers share cannot be made: {error}; {remedy}") from error

    def tell_groups(self, groups: Mapping[str, str]) -> None:
        """Tell the controller which tests are to run in the same worker."""
        if self.folder is not None:
            _write(self.folder / _GROUPS, groups)

    def teller(self, reason: str, test: str) -> str:
        """Name the test that tells why something could not be made: the first of all workers that asks here."""
        key = hashlib.sha256(reason.encode(errors="replace")).hexdigest()[:16]
        if self.folder is None:
            return self._tellers.setdefault(key, test)
        claim, own = self.folder / f"told-{key}", self.folder / f"told-{key}.{os.getpid()}"
        try:
            own.write_text(test)
            try:
                claim.hardlink_to(own)
            except FileExistsError:
                return claim.read_text()
            finally:
                own.unlink()
        except OSError:  # this worker has left the others
            return self._tellers.setdefault(key, test)
        return test

    def leave(self) -> None:
        """Say that this worker will not use anything any more; the last one removes the folder."""
        if self.folder is None or self._run is None or self._members is None:
            return
        self._run.release()
        self._members.release()
        if self._members.try_acquire():
            shutil.rmtree(self.folder, ignore_errors=True)
            self._members.release()
        self._run = self._members = None

    @contextmanager
    def shared(
        self,
        name: str,
        make: Callable[[], AbstractContextManager[T]],
        *,
        describe: Callable[[T], Mapping[str, Any]],
        attach: Callable[[Mapping[str, Any]], AbstractContextManager[T]],
        inherit: Callable[[Mapping[str, Any]], None],
    ) -> Iterator[T]:
        """Use the thing `name`, which one worker makes for all.

        That worker leaves its context, which destroys the thing, when no other uses it any more or can come to. Where
        it has died, one of the others calls `inherit` instead. What could not be made is not tried again: the others,
        and this worker itself, as when pytest reruns a test, raise FailedBefore with the words of the failure.
        """
        if self.folder is None:
            with self._alone(name, make) as value:
                yield value
            return
        self.join()
        place = _Place(self.folder / name)

        def probe() -> Ok[dict[str, Any] | None] | Pending:
            return self._find(place, inherit)

        description = wait_until(f"another worker to make {name}", probe, deadline=Deadline.after(PATIENCE))
        users = self._own(place, make, describe) if description is None else self._use(place, attach, description)
        with users as value:
            try:
                yield value
            finally:
                place.users.release()
                if not place.owner.held and place.owner.try_acquire():
                    logger.warning("the worker that made %s has died; %s destroys it", name, self.worker)
                if place.owner.held:
                    self._await_the_last(place)
        if place.owner.held:
            if description is not None:
                inherit(description)
            place.forget()
            place.owner.release()

    @contextmanager
    def _alone(self, name: str, make: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
        """Use what no other process does."""
        if name in self._failed:
            raise self._failed[name]
        made = False
        try:
            with make() as value:
                made = True
                yield value
        except Exception as error:
            if not made:
                self._failed[name] = failed_before(said(error), headline(error))
            raise

    def _find(self, place: _Place, inherit: Callable[[Mapping[str, Any]], None]) -> Ok[dict[str, Any] | None] | Pending:
        """Find the thing's description, or None where this worker, now its owner, is to make it."""
        result = place.result()
        if result is not None and "error" in result:
            raise failed_before(result["error"], result["cause"])
        if place.owner.try_acquire():
            result = place.result()
            if result is None:
                return Ok(None)
            left = result.get("leaving") or (result.get("description") if place.unused() else None)
            if left is not None:
                logger.warning("the worker that made %s has died; %s makes another", place.folder.name, self.worker)
                inherit(left)
                place.forget()
                return Ok(None)
            place.owner.release()
        if result is None or "description" not in result:
            return Pending("it is being made" if result is None else "it is being destroyed")
        place.users.acquire(f"the users of {place.folder.name}", shared=True)
        if place.result() != result:  # its last user was just leaving
            place.users.release()
            return Pending("it is being destroyed")
        return Ok(result["description"])

    @contextmanager
    def _own(
        self,
        place: _Place,
        make: Callable[[], AbstractContextManager[T]],
        describe: Callable[[T], Mapping[str, Any]],
    ) -> Iterator[T]:
        told = False
        try:
            with make() as value:
                place.users.acquire("nobody", shared=True)
                place.tell({"description": dict(describe(value))})
                told = True
                yield value
        except BaseException as error:
            if not told:
                place.tell({"worker": self.worker, "error": said(error), "cause": headline(error)})
                place.owner.release()
            raise

    @contextmanager
    def _use(
        self,
        place: _Place,
        attach: Callable[[Mapping[str, Any]], AbstractContextManager[T]],
        description: Mapping[str, Any],
    ) -> Iterator[T]:
        used = False
        try:
            with attach(description) as value:
                used = True
                yield value
        finally:
            if not used:
                place.users.release()  # else whoever made it would wait for this worker

    def _await_the_last(self, place: _Place) -> None:
        assert self._run is not None
        self._run.release()
        last = FileLock(self._run.path)
        last.acquire("the other workers to end")
        last.release()
        place.users.acquire(f"the last user of {place.folder.name}")
        # Under the lock: a worker that starts late must not come to use what is about to go.
        place.tell({"leaving": (place.result() or {}).get("description", {})})
        place.users.release()


def failed_before(text: str, cause: str) -> FailedBefore:
    """Make the error for who asks again for what could not be made."""
    error = FailedBefore(text)
    error.cause = cause
    return error


def expect_worker(state: Path, run: str) -> FileLock | None:
    """Let the workers of a run, if they share anything yet, wait for one that is being started; until it is released.

    For the controller: a worker that replaces a dead one joins only when it has collected its tests.
    """
    lock = FileLock(_folder(state, run) / "run.lock", create=False)
    try:
        return lock if lock.try_acquire(shared=True) else None
    except FileNotFoundError:
        return None


def groups(state: Path, run: str) -> dict[str, str]:
    """Read, for the controller, which tests are to run in the same worker; none where nothing is shared."""
    try:
        return dict(json.loads((_folder(state, run) / _GROUPS).read_text()))
    except FileNotFoundError:
        return {}


def _folder(state: Path, run: str) -> Path:
    return state / "shared" / hashlib.sha256(run.encode()).hexdigest()[:16]


def target(sharing: Sharing, settings: Settings, progress: Progress) -> AbstractContextManager[Target]:
    """Open the run's target, or use the one that another worker has opened; with the setting `attach`, what is up."""
    from nomad_testkit.targets import attach_target, open_target

    if settings.attach:
        from nomad_testkit.plugin.attaching import attached_target

        return attached_target(settings)

    return sharing.shared(
        "target",
        lambda: open_target(settings, progress=progress),
        describe=lambda opened: opened.describe(),
        attach=attach_target,
        inherit=lambda _: None,  # each worker's own hold keeps it up, and the last one to go ends it
    )


def cluster(
    sharing: Sharing, settings: Settings, example: Example, opened: Target, progress: Progress
) -> AbstractContextManager[Cluster]:
    """Deploy an example, or use the cluster that another worker has deployed from just this one.

    With the setting `attach` it is the cluster that is up, whatever the example.
    """
    if settings.attach:
        from nomad_testkit.plugin.attaching import attached_cluster

        return attached_cluster(settings, opened)
    from nomad_testkit.deployment.lifecycle import deployed

    @contextmanager
    def attach(description: Mapping[str, Any]) -> Iterator[Cluster]:
        attached = _as_it_is_now(description, opened, example)
        # Every user of it ends in time: whoever made it would otherwise wait for the others.
        with (
            termination_raises(),
            time_limit(
                seconds_left(attached.expires), f"the time of {attached.run_id} is up: {attached.expires}", progress
            ),
        ):
            try:
                yield attached
            finally:
                attached.close()

    return sharing.shared(
        f"cluster-{identity(example)}",
        lambda: deployed(settings, example, target=opened, progress=progress),
        describe=lambda made: made.describe(),
        attach=attach,
        inherit=partial(_inherit, settings=settings, opened=opened, progress=progress),
    )


def _as_it_is_now(description: Mapping[str, Any], opened: Target, example: Example) -> Cluster:
    """Make a cluster that was described when it was deployed; other workers may have replaced and added hosts since."""
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.runs.run import Run

    run = next((run for run in Run.every() if run.run_id == description["run_id"]), None)
    now = {**description, **run.description()} if run else description
    attached = Cluster.from_description(now, target=opened, example=example)
    if run is not None:
        attached = replace(attached, save=lambda changed: run.amend(changed.describe()))
    attached.refresh()
    return attached


@contextmanager
def ami(
    sharing: Sharing, settings: Settings, template: Path | None, opened: Target, progress: Progress
) -> Iterator[str]:
    """Build an AMI with Packer, or use the one that another worker has built; with the setting `ami` that one."""
    from nomad_testkit.deployment.amis import BuiltAmi, built

    if settings.ami:
        yield settings.ami
        return
    with sharing.shared(
        "ami",
        lambda: built(settings, target=opened, progress=progress, template=template),
        describe=asdict,
        attach=lambda description: nullcontext(BuiltAmi(**description)),
        inherit=partial(_inherit, settings=settings, opened=opened, progress=progress),
    ) as made:
        yield made.ami_id


def _inherit(description: Mapping[str, Any], *, settings: Settings, opened: Target, progress: Progress) -> None:
    """Destroy the run that a worker which has died left behind."""
    from nomad_testkit.deployment.lifecycle import destroy, forget_lost
    from nomad_testkit.runs.run import Run

    run = next((run for run in Run.every() if run.run_id == description["run_id"]), None)
    if run is None or settings.keep:
        return
    try:
        destroy(run, target=opened, progress=progress)
    except Ec2Error:
        forget_lost(run)  # the target itself has gone, and all that was in it


def identity(example: Example) -> str:
    """Give a name that two examples share only if they deploy the same."""
    facts = [str(example.folder), json.dumps(dict(example.variables), sort_keys=True, default=str)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
