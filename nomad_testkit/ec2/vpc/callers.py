"""Which users of the machine reach a cloud: by the owner of the socket that a packet comes from.

The rules are in a table of the machine's nftables that only the process that made it holds (`flags owner`, Linux 5.12):
the kernel removes it with that process, however it ends, so that no rule outlives a cloud.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence

from nomad_testkit.errors import Ec2Error, TestkitError
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

_SECONDS = 10.0


def callers(users: Sequence[int], environ: Mapping[str, str]) -> tuple[int, ...]:
    """List the users who may call: root, the one behind sudo, whose browser opens the agents' pages, and others.

    >>> callers([1001], {"SUDO_UID": "1000"})
    (0, 1000, 1001)
    """
    behind = environ.get("SUDO_UID", "")
    sudo = [int(behind)] if behind.isascii() and behind.isdecimal() else []
    return tuple(sorted({0, *sudo, *users}))


class CallerFilter:
    """Refuses what leaves through a link from other users than these, until it is closed or its process ends.

    Raises Ec2Error where the kernel has no tables with an owner.
    """

    def __init__(self, link: str, users: Sequence[int]) -> None:
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "nft", "--interactive"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TERM": "dumb", "HOME": "/nonexistent"},  # no history of commands
        )
        try:
            self._hold(link, users)
        except TestkitError as error:
            self.close()
            raise Ec2Error(f"other users cannot be kept away: {error}") from error
        except BaseException:
            self.close()
            raise

    def _hold(self, link: str, users: Sequence[int]) -> None:
        others = f'oifname "{link}" meta skuid != {{ {", ".join(map(str, users))} }}'
        assert self._process.stdin is not None
        for line in (
            f"add table ip {link} {{ flags owner; }}",
            f"add chain ip {link} callers {{ type filter hook output priority 0; policy accept; }}",
            f"add rule ip {link} callers {others} meta l4proto tcp reject with tcp reset",
            f"add rule ip {link} callers {others} reject",
        ):
            self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

        def probe() -> Ok[None] | Pending | Broken:
            if self._process.poll() is not None:
                assert self._process.stdout is not None
                return Broken(f"nft ended with status {self._process.returncode}: {self._process.stdout.read()}")
            listed = subprocess.run(["nft", "list", "table", "ip", link], capture_output=True, text=True, check=False)
            rules = [line for line in listed.stdout.splitlines() if "reject" in line]
            return Ok(None) if len(rules) == 2 else Pending(listed.stdout.strip() or listed.stderr.strip())

        wait_until(f"the rules of {link}", probe, deadline=Deadline.after(_SECONDS), interval=0.01)

    @property
    def pid(self) -> int:
        """The process that the rules end with."""
        return self._process.pid

    def close(self) -> None:
        """Take the rules away."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def missing_filter() -> str:
    """Tell why other users of this machine cannot be kept away from a cloud; empty where they can. Needs root."""
    done = subprocess.run(
        ["unshare", "--net", "nft", "-f", "-"],
        input="table ip nomadtk { flags owner; chain c { meta skuid != { 0, 1 } reject; }; }",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return ""
    reason = (done.stderr.strip().splitlines() or ["nft says nothing"])[0]
    return f"nftables has no tables with an owner (Linux 5.12 has): {reason}"


__all__ = ["CallerFilter", "callers", "missing_filter"]
