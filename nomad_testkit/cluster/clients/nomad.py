"""Nomad's HTTP API over python-nomad, plus what that library lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import nomad
import requests
from nomad.api.base import Requester
from nomad.api.exceptions import BaseNomadException

from nomad_testkit.cluster.clients.session import AgentClient, AgentSession, describe
from nomad_testkit.errors import AgentApiError

Json = dict[str, Any]


class NomadClient(AgentClient):
    """One Nomad agent; see AgentClient for what it is made with.

    >>> NomadClient("http://127.0.0.1:4646").address
    'http://127.0.0.1:4646'
    """

    product = "nomad"
    snapshot_path = "/v1/operator/snapshot"
    token_header = "X-Nomad-Token"  # noqa: S105

    def _library(self, session: AgentSession) -> Any:
        made = nomad.Nomad(address=self.address, timeout=session.timeout, verify=session.verify, session=session)
        _forget_environment(made)
        return made

    # -- servers

    def leader(self) -> str:
        """Tell the Raft leader's address and port as this server knows it (GET /v1/status/leader?stale).

        Empty during an election. Without ?stale a server would forward the question to the leader, hold it for
        seconds without one, and then answer with an error.
        """
        return str(self._session.get_json("/v1/status/leader", self.stale) or "")

    def peers(self) -> list[str]:
        """List the Raft peers as this server knows them (GET /v1/status/peers?stale)."""
        return [str(peer) for peer in self._session.get_json("/v1/status/peers", self.stale) or []]

    def members(self) -> list[Json]:
        """List the servers in this agent's gossip pool (GET /v1/agent/members)."""
        with self._errors():
            return list(self._raw.agent.get_members()["Members"])

    def agent(self) -> Json:
        """Tell this agent's own configuration, member and statistics (GET /v1/agent/self)."""
        with self._errors():
            return dict(self._raw.agent.get_agent())

    def version(self) -> str:
        """Tell the version that this agent runs, such as "1.6.1"."""
        return str(self.agent()["config"]["Version"]["Version"])

    def regions(self) -> list[str]:
        """List the regions (GET /v1/regions)."""
        with self._errors():
            return [str(region) for region in self._raw.regions.get_regions()]

    def agent_health(self) -> Json:
        """Tell whether this agent can do its work (GET /v1/agent/health, where 500 is an answer)."""
        response = self._session.fetch("GET", "/v1/agent/health", accept=(500,))
        return dict(self._session.decode(response))

    # -- nodes

    def nodes(self, *, stale: bool = False) -> list[Json]:
        """List the client nodes (GET /v1/nodes).

        `stale` asks this very server for what it knows; otherwise any server passes the question to the
        leader.
        """
        return list(self._read("/v1/nodes", stale=stale))

    def node(self, node_id: str) -> Json:
        """Tell one node with its attributes and drivers (GET /v1/node/:id)."""
        with self._errors():
            return dict(self._raw.node.get_node(node_id))

    # -- jobs

    def parse(self, hcl: str, *, variables: str = "") -> Json:
        """Turn an HCL2 job specification into JSON (POST /v1/jobs/parse).

        `variables` is the text of a variables file, as `nomad job run -var-file` takes it.
        """
        # python-nomad's parse() knows no Variables.
        body = {"JobHCL": hcl, "Variables": variables, "Canonicalize": True}
        response = self._session.fetch("POST", "/v1/jobs/parse", json=body)
        return dict(self._session.decode(response))

    def register(self, job: Mapping[str, Any]) -> Json:
        """Submit a job in its JSON form (POST /v1/jobs); the answer has the evaluation's id."""
        with self._errors():
            return dict(self._raw.jobs.register_job({"Job": dict(job)}))

    def plan(self, job: Mapping[str, Any], *, diff: bool = False) -> Json:
        """Ask the scheduler what it would do (POST /v1/job/:id/plan)."""
        with self._errors():
            return dict(self._raw.job.plan_job(str(job["ID"]), {"Job": dict(job)}, diff=diff))

    def deregister(self, job_id: str, *, purge: bool = False) -> Json:
        """Stop a job (DELETE /v1/job/:id); `purge` also removes it from the servers' state at once."""
        with self._errors():
            return dict(self._raw.job.deregister_job(job_id, purge=str(purge).lower()))

    def job(self, job_id: str, *, stale: bool = False) -> Json:
        """Tell a job in its JSON form (GET /v1/job/:id)."""
        return dict(self._read(f"/v1/job/{job_id}", stale=stale))

    def job_evaluations(self, job_id: str, *, stale: bool = False) -> list[Json]:
        """List a job's evaluations (GET /v1/job/:id/evaluations); empty for a job that does not exist."""
        return list(self._read(f"/v1/job/{job_id}/evaluations", stale=stale))

    def job_allocations(self, job_id: str, *, stale: bool = False) -> list[Json]:
        """List a job's allocations (GET /v1/job/:id/allocations); empty for a job that does not exist."""
        return list(self._read(f"/v1/job/{job_id}/allocations", {"all": "true"}, stale=stale))

    def job_deployments(self, job_id: str, *, stale: bool = False) -> list[Json]:
        """List a job's deployments (GET /v1/job/:id/deployments)."""
        return list(self._read(f"/v1/job/{job_id}/deployments", stale=stale))

    # -- variables

    def variable(self, path: str) -> Json | None:
        """Read a variable with its items, from the leader (GET /v1/var/:path); None if it does not exist."""
        response = self._session.fetch("GET", f"/v1/var/{path}", accept=(404,))
        return None if response.status_code == 404 else dict(self._session.decode(response))

    def put_variable(self, path: str, items: Mapping[str, str], *, cas: int | None = None) -> bool:
        """Write a variable (PUT /v1/var/:path); with `cas` only where it was last changed at that index.

        Tell whether it was written. An index of 0 means that there is to be no such variable.
        """
        params = {} if cas is None else {"cas": str(cas)}
        body = {"Path": path, "Items": dict(items)}
        return self._session.fetch("PUT", f"/v1/var/{path}", params=params, json=body, accept=(409,)).status_code < 400

    # -- allocations

    def allocation(self, alloc_id: str) -> Json:
        """Tell one allocation (GET /v1/allocation/:id)."""
        with self._errors():
            return dict(self._raw.allocation.get_allocation(alloc_id))

    def logs(self, alloc_id: str, task: str, *, stream: str = "stdout") -> str:
        """Read back what a task has written so far (GET /v1/client/fs/logs/:id); `stream` stdout or stderr.

        Any agent answers: a server passes the question on to the node that runs the allocation.
        """
        params = {"task": task, "type": stream, "plain": "true", "follow": "false"}
        return self._session.fetch("GET", f"/v1/client/fs/logs/{alloc_id}", params=params).text

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the library's two kinds of error into ours, with the agent's status and message."""
        try:
            yield
        except BaseNomadException as error:
            # It wraps either an answer or, for all that went wrong below HTTP, an error of requests.
            cause = error.nomad_resp
            if isinstance(cause, requests.Response):
                message = cause.text or cause.reason
                raise AgentApiError("nomad", cause.url, cause.status_code, message) from error
            raise AgentApiError("nomad", self.address, None, describe(cause)) from error
        except ValueError as error:  # requests' JSONDecodeError is both this and a RequestException
            raise AgentApiError("nomad", self.address, None, f"expected JSON: {error}") from error
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            message = f"the answer is not of the form that it should be ({error}); is this a Nomad agent?"
            raise AgentApiError("nomad", self.address, None, message) from error
        except requests.RequestException as error:
            raise AgentApiError("nomad", self.address, None, describe(error)) from error


def _forget_environment(client: Any) -> None:
    """Undo what python-nomad took from NOMAD_TOKEN, NOMAD_NAMESPACE, NOMAD_REGION and NOMAD_CLIENT_CERT.

    An argument of None means "look at the environment" to it, so it cannot be told at construction. Our token
    goes out as a header of the session.
    """
    for value in vars(client).values():
        if isinstance(value, Requester):
            value.token = value.namespace = value.region = None
            value.cert = ()
        if type(value).__module__.startswith("nomad.api."):
            _forget_environment(value)
    if isinstance(client, nomad.Nomad):
        client.token = client.region = None
        client.cert = ()
