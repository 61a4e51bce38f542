"""A host's link to its cloud, in network namespaces without hosts."""

from __future__ import annotations

import subprocess
import sys

# The second boot of a host comes before the kernel has removed the link of the first.
SCRIPT = """
import os, subprocess
from nomad_testkit.ec2.vpc.network import HostLink, route_hosts
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

def boot():
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    holder = subprocess.Popen(["unshare", "--net", "sleep", "60"], **quiet)
    theirs, own = f"/proc/{holder.pid}/ns/net", os.readlink("/proc/self/ns/net")
    made = lambda: Ok(None) if os.readlink(theirs) != own else Pending("it has none")
    wait_until("its network namespace", made, deadline=Deadline.after(60), interval=0.01)
    link.attach(theirs)
    return holder

route_hosts()
link = HostLink("172.31.0.4", "172.31.0.0/20", "0a:ff:ac:1f:00:04")
first = boot()
second = boot()
enter = ["nsenter", f"--net=/proc/{second.pid}/ns/net"]
print(subprocess.check_output([*enter, "ip", "-4", "-brief", "address", "show", "eth0"], text=True))
link.detach()
print(subprocess.check_output(["ip", "-brief", "link"], text=True))
first.kill(), second.kill()
"""


def test_a_host_that_boots_again_gets_the_link_of_its_last_boot_replaced() -> None:
    # As in a cloud, /sys stays the machine's.
    command = ["unshare", "--net", "--mount", sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    address, links = done.stdout.split("\n\n")[:2]
    assert "172.31.0.4/20" in address
    assert "eni-0-4" not in links
