"""Lifecycle hooks: what a member of an auto scaling group waits for when it is launched, and before it ends.

As the Amazon EC2 Auto Scaling User Guide tells it ("Amazon EC2 Auto Scaling lifecycle hooks"). Nobody is notified: who
completes an action asks DescribeAutoScalingInstances, or the instance's metadata, for the state.
"""

# moto has no annotations that mypy could follow.
# mypy: disallow-subclassing-any=False

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from moto.autoscaling.models import LifecycleHook

LAUNCHING, TERMINATING = "autoscaling:EC2_INSTANCE_LAUNCHING", "autoscaling:EC2_INSTANCE_TERMINATING"


class CloudLifecycleHook(LifecycleHook):
    """A hook that tells what it was given; moto's has a role and a target of its own."""

    @classmethod
    def of(cls, group: str, given: Mapping[str, Any]) -> CloudLifecycleHook:
        """Make a hook of a request's parameters."""
        hook = cls(
            given["LifecycleHookName"],
            group,
            given.get("LifecycleTransition"),
            int(given.get("HeartbeatTimeout") or 0) or None,
            given.get("DefaultResult"),
        )
        hook.role_arn = given.get("RoleARN")
        hook.notification_target_arn = given.get("NotificationTargetARN")
        hook.notification_metadata = given.get("NotificationMetadata")
        return hook


@dataclass
class _Action:
    """One member's wait for one hook."""

    hook: Any
    expired: Callable[[], None]
    token: str = field(default_factory=lambda: str(uuid.uuid4()))
    timer: threading.Timer | None = None

    def restart(self) -> None:
        self.stop()
        self.timer = threading.Timer(self.hook.heartbeat_timeout, self.expired)
        self.timer.daemon = True
        self.timer.start()

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class LifecycleActions:
    """The waits of a group's members; `proceed` is told a member's id, and CONTINUE or ABANDON, when its waits end."""

    def __init__(self, lock: AbstractContextManager[object], proceed: Callable[[str, str], None]) -> None:
        self._lock, self._proceed = lock, proceed
        self._waiting: dict[tuple[str, str], _Action] = {}

    def begin(self, member: str, hooks: Sequence[Any]) -> None:
        """Let a member wait for each of some hooks."""
        self.forget(member)
        for hook in hooks:
            action = _Action(hook, lambda name=hook.name: self._expired(member, name))  # type: ignore[misc]
            self._waiting[member, hook.name] = action
            action.restart()

    def complete(self, member: str, hook: str, result: str) -> bool:
        """End one wait; False if nobody waits. ABANDON ends all waits of the member."""
        action = self._waiting.pop((member, hook), None)
        if action is None:
            return False
        action.stop()
        if result == "ABANDON":
            self.forget(member)
        if not any(waiting == member for waiting, _ in self._waiting):
            self._proceed(member, result)
        return True

    def heartbeat(self, member: str, hook: str) -> bool:
        """Restart the timer of one wait; False if nobody waits."""
        action = self._waiting.get((member, hook))
        if action is not None:
            action.restart()
        return action is not None

    def of_token(self, token: str) -> str | None:
        """Tell which member's action has a token."""
        return next((member for (member, _), action in self._waiting.items() if action.token == token), None)

    def forget(self, member: str) -> None:
        """End a member's waits without a result."""
        for key in [key for key in self._waiting if key[0] == member]:
            self._waiting.pop(key).stop()

    def close(self) -> None:
        """End every wait without a result."""
        for member in {member for member, _ in self._waiting}:
            self.forget(member)

    def _expired(self, member: str, hook: str) -> None:
        with self._lock:
            action = self._waiting.get((member, hook))
            if action is not None and action.timer is threading.current_thread():
                self.complete(member, hook, action.hook.default_result)
