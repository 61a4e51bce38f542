"""The expiry of a run: a tag on everything that it creates, which any machine can read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from nomad_testkit.modules.steps import EXPIRES_TAG


def expiry_tags(seconds: float | None, *, now: datetime | None = None) -> dict[str, str]:
    """Return the tag of a run that expires after some seconds; empty without a limit.

    >>> expiry_tags(3600, now=datetime(2026, 3, 14, 15, 9, tzinfo=UTC))
    {'nomad-testkit-expires': '2026-03-14T16:09:00Z'}
    """
    if seconds is None:
        return {}
    at = (now or datetime.now(UTC)) + timedelta(seconds=seconds)
    return {EXPIRES_TAG: at.strftime("%Y-%m-%dT%H:%M:%SZ")}


def expiry_of(tags: Iterable[Mapping[str, Any]]) -> datetime | None:
    """Read the expiry from a resource's tags; None if the tag is missing or no time.

    >>> expiry_of([{"Key": "nomad-testkit-expires", "Value": "2026-03-14T16:09:00Z"}])
    datetime.datetime(2026, 3, 14, 16, 9, tzinfo=datetime.timezone.utc)
    """
    text = next((str(tag.get("Value", "")) for tag in tags if tag.get("Key") == EXPIRES_TAG), "")
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def seconds_left(expires: str | None, *, now: datetime | None = None) -> float | None:
    """Return the seconds until an expiry, never below 0; None if the value is no time."""
    at = expiry_of([{"Key": EXPIRES_TAG, "Value": expires or ""}])
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds()) if at else None
