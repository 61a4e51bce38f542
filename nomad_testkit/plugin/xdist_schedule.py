"""How pytest-xdist's controller gives tests to its workers: each group to one of them, the rest as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from xdist.scheduler import LoadScheduling


class GroupScheduling(LoadScheduling):  # type: ignore[misc]
    """The scheduler of `--dist loadgroup`.

    In the place of pytest-xdist's own, which hangs when a worker has died, and with pytest 9.2 knows no groups
    (https://github.com/pytest-dev/pytest-xdist/issues/1327 and /1386). A dead worker's tests go to any other.
    """

    collection: list[str] | None
    maxschedchunk: int | None

    def __init__(self, config: Any, log: Any, groups: Callable[[], Mapping[str, str]]) -> None:
        """`groups` is asked for the tests' groups, by their names, when every worker has collected."""
        super().__init__(config, log)
        self._groups = groups

    def schedule(self) -> None:
        """Give each group to the worker that has the fewest tests yet; then go on as ever."""
        groups = self._indices() if self.collection is None else {}
        if not groups or not self._check_nodes_have_same_collection():
            super().schedule()
            return
        self.collection = next(iter(self.node2collection.values()))
        self.maxschedchunk = self.maxschedchunk or len(self.collection)
        grouped = {index for indices in groups.values() for index in indices}
        self.pending[:] = [index for index in range(len(self.collection)) if index not in grouped]
        for indices in sorted(groups.values(), key=len, reverse=True):
            self.pending[:0] = indices
            self._send_tests(min(self.nodes, key=lambda node: len(self.node2pending[node])), len(indices))
        for node in self.nodes:
            self.check_schedule(node)

    def _indices(self) -> dict[str, list[int]]:
        known, found = self._groups(), dict[str, list[int]]()
        for index, name in enumerate(next(iter(self.node2collection.values()))):
            # pytest-xdist's workers write a group that they know behind an @.
            suffix = name.rpartition("@")[2] if name.rfind("@") > name.rfind("]") else ""
            if group := known.get(name, suffix):
                found.setdefault(group, []).append(index)
        return found
