"""How an auto scaling group spreads its instances (Amazon EC2 Auto Scaling User Guide, "Distribute instances")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ZoneSubnet:
    """A subnet and the availability zone that it is in."""

    subnet_id: str
    zone: str


def spread(count: int, places: Sequence[ZoneSubnet], members: Sequence[ZoneSubnet]) -> dict[str, int]:
    """Choose how many new instances go to which subnet, so that zones, then subnets, stay even.

    >>> spread(3, [ZoneSubnet("subnet-a", "a"), ZoneSubnet("subnet-b", "b")], [ZoneSubnet("subnet-b", "b")])
    {'subnet-a': 2, 'subnet-b': 1}
    """
    zones = Counter(member.zone for member in members)
    subnets = Counter(member.subnet_id for member in members)
    chosen: Counter[str] = Counter()
    for _ in range(count):
        place = min(places, key=lambda each: (zones[each.zone], subnets[each.subnet_id]))
        zones[place.zone] += 1
        subnets[place.subnet_id] += 1
        chosen[place.subnet_id] += 1
    return dict(chosen)


def surplus(count: int, zones: Sequence[str], protected: Sequence[bool], *, newest: bool = False) -> list[int]:
    """Choose which members, by their position, end when a group shrinks by `count`.

    The zone that has most loses its oldest, or its newest where the termination policy says so; the oldest come first.
    Protected members stay.

    >>> surplus(2, ["a", "b", "b", "b"], [False, True, False, False])
    [2, 3]
    """
    left = Counter(zones)
    candidates = [number for number, kept in enumerate(protected) if not kept]
    if newest:
        candidates.reverse()
    ended = []
    for _ in range(min(count, len(candidates))):
        victim = max(candidates, key=lambda number: left[zones[number]])
        left[zones[victim]] -= 1
        candidates.remove(victim)
        ended.append(victim)
    return ended
