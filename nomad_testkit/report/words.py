"""Times as a person reads them."""

from __future__ import annotations

from datetime import datetime


def lasting(seconds: float | None) -> str:
    """Say how long something took.

    >>> [lasting(one) for one in (0.04, 3.14, 75, 3725)]
    ['0.04 s', '3.1 s', '1 min 15 s', '1 h 02 min']
    """
    if seconds is None:
        return "unknown"
    if seconds < 0.1:
        return f"{max(seconds, 0):.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def moment(at: float, pattern: str = "%H:%M:%S") -> str:
    """Tell a time, of seconds since the epoch, in this machine's own zone."""
    return datetime.fromtimestamp(at).astimezone().strftime(pattern)
