"""Until when a run may live: told by a tag of everything that it creates, so that any machine can tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from nomad_testkit.modules.steps import EXPIRES_TAG


def expiry_tags(seconds: float | None, *, now: datetime | None = None) -> dict[str, str]:
    """Give the tag that says when so many seconds are over; none where there is no limit.

    >>> expiry_tags(3600, now=datetime(2026, 3, 14, 15, 9, tzinfo=UTC))
    {'nomad-testkit-expires': '2026-03-14T16:09:00Z'}
    """
    if seconds is None:
        return {}
    at = (now or datetime.now(UTC)) + timedelta(seconds=seconds)
    return {EXPIRES_TAG: at.strftime("%Y-%m-%dT%H:%M:%SZ")}


def expiry_of(tags: Iterable[Mapping[str, Any]]) -> datetime | None:
    """Read that tag among a resource's; None if it is missing or no time.

    >>> expiry_of([{"Key": "nomad-testkit-expires", "Value": "2026-03-14T16:09:00Z"}])
    datetime.datetime(2026, 3, 14, 16, 9, tzinfo=datetime.timezone.utc)
    """
    text = next((str(tag.get("Value", "")) for tag in tags if tag.get("Key") == EXPIRES_TAG), "")
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def seconds_left(expires: str | None, *, now: datetime | None = None) -> float | None:
    """Tell how long it is until the time that such a tag's value tells, never below 0; None if there is no such tag."""
    at = expiry_of([{"Key": EXPIRES_TAG, "Value": expires or ""}])
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds()) if at else None
