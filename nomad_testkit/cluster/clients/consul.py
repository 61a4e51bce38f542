"""Consul's HTTP API over python-consul2, plus what that library lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal
from warnings import catch_warnings, simplefilter

import consul.base
import consul.std
import requests

from nomad_testkit.cluster.clients.session import AgentClient, AgentSession, describe
from nomad_testkit.errors import AgentApiError

Json = dict[str, Any]

# These carry their status in their class; the others begin their text with it.
_STATUS = {consul.base.ACLDisabled: 401, consul.base.ACLPermissionDenied: 403, consul.base.NotFound: 404}


class ConsulClient(AgentClient):
    """One Consul agent; see AgentClient for what it is made with.

    >>> ConsulClient("http://127.0.0.1:8500").address
    'http://127.0.0.1:8500'
    """

    product = "consul"
    snapshot_path = "/v1/snapshot"
    stale: ClassVar[Mapping[str, str]] = {"stale": ""}
    token_header = "X-Consul-Token"  # noqa: S105

    def _read(self, path: str, params: Mapping[str, Any] | None = None, *, stale: bool = False) -> Any:
        try:
            return super()._read(path, params, stale=stale)
        except AgentApiError as error:
            if error.status != 404:
                raise
            # Consul has an answer to all of these, so it is another program that has its port.
            message = f"{error.message.strip()}; is this a Consul agent?"
            raise AgentApiError(error.agent, error.url, error.status, message) from error

    def _library(self, session: AgentSession) -> Any:
        return _Consul(session)

    # -- servers

    def leader(self) -> str:
        """Tell the Raft leader's address and port (GET /v1/status/leader); empty during an election."""
        with self._errors():
            return str(self._raw.status.leader())

    def peers(self) -> list[str]:
        """List the Raft peers as this server knows them (GET /v1/status/peers)."""
        with self._errors():
            return [str(peer) for peer in self._raw.status.peers() or []]

    def members(self) -> list[Json]:
        """List the members of this agent's LAN gossip pool (GET /v1/agent/members)."""
        with self._errors():
            return list(self._raw.agent.members())

    def agent(self) -> Json:
        """Tell this agent's own configuration and member (GET /v1/agent/self)."""
        with self._errors():
            return dict(self._raw.agent.self())

    def version(self) -> str:
        """Tell the version that this agent runs, such as "1.14.0"."""
        return str(self.agent()["Config"]["Version"])

    def force_leave(self, node: str) -> None:
        """Let a failed member leave, and its node with its services the catalog (PUT /v1/agent/force-leave/:node)."""
        self._session.fetch("PUT", f"/v1/agent/force-leave/{node}", params={"prune": ""})

    # -- catalog and health

    def services(self, *, stale: bool = False) -> dict[str, list[str]]:
        """List the registered services with their tags (GET /v1/catalog/services).

        `stale` asks this very server for what it knows; otherwise any server passes the question to the
        leader.
        """
        return {str(name): list(tags) for name, tags in self._read("/v1/catalog/services", stale=stale).items()}

    def nodes(self, *, stale: bool = False) -> list[Json]:
        """List the registered nodes (GET /v1/catalog/nodes)."""
        return list(self._read("/v1/catalog/nodes", stale=stale))

    def node(self, name: str, *, stale: bool = False) -> Json | None:
        """Tell a node with its services (GET /v1/catalog/node/:node); None where there is no such node."""
        found = self._read(f"/v1/catalog/node/{name}", stale=stale)
        return None if found is None else dict(found)

    def health(self, service: str, *, passing: bool = False, stale: bool = False) -> list[Json]:
        """List a service's instances with node and checks (GET /v1/health/service/:service).

        `passing` leaves out those with a check that does not pass.
        """
        params = {"passing": "true"} if passing else {}
        return list(self._read(f"/v1/health/service/{service}", params, stale=stale))

    # -- key/value store

    def get_key(self, key: str) -> bytes | None:
        """Read a key's value (GET /v1/kv/:key); None where there is no such key."""
        with self._errors():
            entry = self._raw.kv.get(key)[1]
        return None if entry is None else (entry["Value"] or b"")

    def put_key(self, key: str, value: bytes | str, *, cas: int | None = None) -> bool:
        """Write a key's value (PUT /v1/kv/:key); with `cas` only where the key was last changed at that index.

        Tell whether it was written. An index of 0 means that there is to be no such key.
        """
        with self._errors():
            return bool(self._raw.kv.put(key, value, cas=cas))

    def consistent_key(self, key: str) -> tuple[bytes, int] | None:
        """Read a key's value and the index of its last change from a leader that has made sure that it is one.

        GET /v1/kv/:key?consistent; None where there is no such key.
        """
        return self.read_key(key, "consistent")

    def read_key(
        self, key: str, consistency: Literal["default", "consistent", "stale"] = "default"
    ) -> tuple[bytes, int] | None:
        """Read a key's value and the index of its last change (GET /v1/kv/:key); None where there is no such key."""
        with self._errors():
            entry = self._raw.kv.get(key, consistency=consistency)[1]
        return None if entry is None else (entry["Value"] or b"", int(entry["ModifyIndex"]))

    def delete_key(self, key: str, *, recurse: bool = False) -> None:
        """Delete a key (DELETE /v1/kv/:key); with `recurse` all keys that begin with it."""
        with self._errors():
            self._raw.kv.delete(key, recurse=recurse or None)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the library's errors, and those of requests that it lets through, into ours."""
        try:
            yield
        except consul.base.ConsulException as error:
            status = _STATUS.get(type(error))
            message = str(error)
            if status is None and (found := re.match(r"(\d{3}) (.*)", message, re.DOTALL)):
                status, message = int(found[1]), found[2]
            raise AgentApiError("consul", self.address, status, message) from error
        except requests.RequestException as error:
            raise AgentApiError("consul", self.address, None, describe(error)) from error
        except ValueError as error:
            raise AgentApiError("consul", self.address, None, f"expected JSON: {error}") from error
        except KeyError as error:
            # The library takes the index of every catalog answer, and its keys, for granted.
            message = f"the answer lacks {error}; is this a Consul agent?"
            raise AgentApiError("consul", self.address, None, message) from error
        except (TypeError, IndexError, AttributeError) as error:
            # For a 404 it gives nothing in particular, and a port can be another program's.
            message = f"the answer is not of the form that it should be ({error}); is this a Consul agent?"
            raise AgentApiError("consul", self.address, None, message) from error


class _Http(consul.std.HTTPClient):  # type: ignore[misc]
    """python-consul2's HTTP client over our session."""

    def __init__(self, session: AgentSession) -> None:
        consul.base.HTTPClient.__init__(self, verify=session.verify, cert=session.cert)
        self.base_uri = session.address
        self.session = session

    @staticmethod
    def response(response: requests.Response) -> Any:
        """Refuse what another program says, which has Consul's port.

        For a 404 the library gives an index and None, since Consul says it, with its index, of a key that is not there.
        """
        if response.status_code == 404 and "X-Consul-Index" not in response.headers:
            raise consul.base.NotFound(f"{response.text.strip()[:200]}; is this a Consul agent?")
        return consul.std.HTTPClient.response(response)


class _Consul(consul.std.Consul):  # type: ignore[misc]
    """python-consul2's client, put together without its constructor.

    That one reads CONSUL_HTTP_ADDR, _TOKEN, _SSL and _SSL_VERIFY over what it is told, raises for an address
    that it cannot split, and warns of a deprecated part that nobody asked for.
    """

    _PARTS = (
        *("Agent", "Catalog", "Config", "Connect", "Coordinate", "Event", "Health", "KV"),
        *("Operator", "Query", "Session", "Snapshot", "Status", "Txn"),
    )
    _WARNING_PARTS: ClassVar = {"acl": "ACL", "discovery_chain": "DiscoveryChain"}

    def __init__(self, session: AgentSession) -> None:
        # Our token goes out as a header of the session.
        self.token = self.dc = None
        self.consistency = "default"
        self.scheme = session.address.partition(":")[0]
        self.http = _Http(session)
        for part in self._PARTS:
            setattr(self, part.lower(), getattr(consul.base.Consul, part)(self))

    def __getattr__(self, name: str) -> Any:
        """Make a part that warns when it is made, on demand only."""
        if name not in self._WARNING_PARTS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with catch_warnings():
            simplefilter("ignore", DeprecationWarning)
            part = getattr(consul.base.Consul, self._WARNING_PARTS[name])(self)
        setattr(self, name, part)
        return part
