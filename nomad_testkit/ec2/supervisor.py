"""The process that is the cloud: API, metadata, resolver and machines, inside namespaces of its own.

It is started by `warden` through unshare(1) as pid 1 of a pid namespace. Pid 1 only reaps; its child does the work.
When either ends, the kernel ends all hosts, unmounts their disks and drops the network.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nomad_testkit.ec2.control import CloudConfig
from nomad_testkit.ec2.cpu import cpu_by_owner
from nomad_testkit.ec2.machines.cgroups import CgroupTree
from nomad_testkit.ec2.machines.layers import ImageStore, LocalImage
from nomad_testkit.ec2.vpc.network import (
    API_ADDRESS,
    METADATA_ADDRESS,
    RESOLVER_ADDRESSES,
    CloudAddresses,
    open_cloud,
)
from nomad_testkit.errors import TestkitError

log = logging.getLogger(__name__)

_RUN = Path("/run")
_FOLDER = _RUN / "cloud"


def main() -> None:
    """Become the cloud that standard input describes.

    The arguments are descriptors: of the control socket, and of a pipe that ends when the cloud's maker does.
    """
    if os.getpid() == 1:
        child = os.fork()
        if child:
            _reap_until(child)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    config = CloudConfig.from_json(sys.stdin.read())
    control = socket.socket(fileno=int(sys.argv[1]))
    Supervisor(config).run(control, maker=int(sys.argv[2]))


def _reap_until(child: int) -> None:
    """Reap every process that loses its parent, and end with `child`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os._exit(0))
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


class Supervisor:
    """Owns the parts of a cloud, and its life."""

    def __init__(self, config: CloudConfig) -> None:
        self._config = config
        self._addresses = CloudAddresses(config.index)
        self._cgroups = CgroupTree.of_parents(config.cgroups)
        self._images: ImageStore | None = None
        self._leases = 0
        self._leased = False
        self._kept = False
        self._changed = threading.Condition()
        self._over = False
        self._operations: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
            "lease": self._lease,
            "keep": self._keep,
            "shutdown": self._shutdown,
            "save_image": self._save_image,
            "stats": self._stats,
        }

    def run(self, control: socket.socket, *, maker: int) -> None:
        """Open the cloud, serve until the last lease is gone, or until the maker ends before it has one, then end."""
        threading.Thread(target=self._outlive, args=(maker,), daemon=True).start()
        self._mount()
        open_cloud(self._addresses)
        self._serve()
        log.info("the cloud is open")
        threading.Thread(target=self._accept, args=(control,), daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: self._leased or self._over)
            self._changed.wait_for(lambda: self._over or (self._leases == 0 and not self._kept))
        log.info("the cloud ends: %s", "asked to" if self._over else "nobody holds a lease")
        # Threads of hosts and servers are of no more interest: the kernel ends what they look after.
        os._exit(0)

    def _outlive(self, maker: int) -> None:
        """End the cloud, even while it opens, when its maker ends without a lease; who has one closes the pipe."""
        os.read(maker, 1)
        with self._changed:
            if not self._leased:
                log.info("the cloud ends: its maker has")
                os._exit(0)

    def _mount(self) -> None:
        # A /run of its own: systemd-nspawn leaves files there, which must go with the cloud.
        _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(_RUN))
        _FOLDER.mkdir()

    def _serve(self) -> None:
        # Slow imports, so they come when the namespaces stand and connections already queue at the control socket.
        from nomad_testkit.ec2.api.service import CloudApi
        from nomad_testkit.ec2.imds.server import MetadataService
        from nomad_testkit.ec2.machines.isolation import IdPool, Isolation
        from nomad_testkit.ec2.machines.machine import Cloud
        from nomad_testkit.ec2.machines.registry import NspawnMachines
        from nomad_testkit.ec2.machines.spec import ImageRecord
        from nomad_testkit.ec2.vpc.resolver import Resolver
        from nomad_testkit.ec2.vpc.tls import CloudCa

        config = self._config
        images = [
            LocalImage(
                image.image_id,
                image.name,
                tuple(Path(layer) for layer in image.layers),
                image.description,
                image.architecture,
                image.owner_id,
            )
            for image in config.images
        ]
        self._images = ImageStore(_FOLDER / "images", images)
        machines = NspawnMachines(self._images)
        records = [
            ImageRecord(image.image_id, image.name, image.description, image.architecture, "/dev/xvda", image.owner_id)
            for image in images
        ]
        api = CloudApi(
            region=config.region,
            public_block=self._addresses.public_block,
            machines=machines,
            images=records,
            credentials=config.credentials,
        )
        ca = CloudCa()
        domain = "ec2.internal" if config.region == "us-east-1" else f"{config.region}.compute.internal"
        isolation = Isolation(config.isolation)
        machines.join(Cloud(_FOLDER, self._cgroups, api, ca.cert_pem, domain, IdPool(config.index), isolation))
        api.serve(API_ADDRESS, ca=ca)
        MetadataService(api.instance).serve(METADATA_ADDRESS)
        Resolver(config.region, API_ADDRESS, api.instance).serve(RESOLVER_ADDRESSES)

    def _accept(self, control: socket.socket) -> None:
        while True:
            connection, _ = control.accept()
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        leased = False
        try:
            with connection, connection.makefile("rw", encoding="utf-8") as lines:
                for line in lines:
                    request = json.loads(line)
                    leased = leased or request["op"] == "lease"
                    lines.write(json.dumps(self._answer(request)) + "\n")
                    lines.flush()
        except (OSError, ValueError):
            pass  # the other side is gone; what could not be written fails once more when the file is closed
        finally:
            if leased:
                with self._changed:
                    self._leases -= 1
                    self._changed.notify_all()

    def _answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return self._operations[request["op"]](request)
        except (TestkitError, OSError) as error:
            return {"error": str(error)}

    def _lease(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._changed:
            self._leases += 1
            self._leased = True
            self._changed.notify_all()
        return {"endpoint_url": self._addresses.endpoint_url}

    def _keep(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        self._kept = True
        return {}

    def _shutdown(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        return {}

    def _save_image(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        assert self._images is not None
        self._images.save(request["image_id"], Path(request["folder"]))
        return {}

    def _stats(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            "memory_bytes": self._cgroups.memory_bytes(),
            "cpu_seconds": self._cgroups.cpu_seconds(),
            "cpu_by_owner": cpu_by_owner(),
        }


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
