"""One HTTP session for an agent: python-nomad and python-consul2 send through it, and what they lack does.

It knows nothing of the environment: no proxy, no netrc, no CA bundle, no NOMAD_* or CONSUL_* variable changes
where a request goes or what it carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import requests
import urllib3

from nomad_testkit.cluster.clients.snapshots import check_snapshot
from nomad_testkit.errors import AgentApiError

CONNECT_TIMEOUT = 3.0
READ_TIMEOUT = 10.0
SNAPSHOT_TIMEOUT = 60.0
POOL_SIZE = 16


class AgentSession(requests.Session):
    """A requests session with time-outs, and TLS settings that no caller and no environment overrides.

    Transport errors stay those of requests, as python-nomad and python-consul2 expect them; `get_json` and
    its like are for our own calls, and raise AgentApiError.
    """

    def __init__(
        self,
        agent: str,
        address: str,
        *,
        headers: Mapping[str, str] | None = None,
        verify: bool | str = True,
        cert: tuple[str, str] | None = None,
        timeout: float = READ_TIMEOUT,
    ) -> None:
        super().__init__()
        self.agent, self.address, self.timeout = agent, address.rstrip("/"), timeout
        # trust_env is what makes requests look at HTTP_PROXY, REQUESTS_CA_BUNDLE and ~/.netrc.
        self.trust_env = False
        self.verify, self.cert = verify, cert
        self.headers.update(headers or {})
        # Checks ask from several threads at once; the default pool would drop connections, and log about it.
        adapter = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=POOL_SIZE)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request with this session's time-outs, CA and certificate, whatever the caller asks for."""
        kwargs["verify"], kwargs["cert"] = self.verify, self.cert
        kwargs["timeout"] = (CONNECT_TIMEOUT, _seconds(kwargs.get("timeout")) or self.timeout)
        return super().request(method, url, *args, **kwargs)

    def fetch(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        data: bytes | str | None = None,
        accept: tuple[int, ...] = (),
        timeout: float | None = None,
    ) -> requests.Response:
        """Send one request of ours; a status from 400 on is an error unless `accept` lists it.

        Raises AgentApiError with the agent's own message, or with status None when it did not answer.
        """
        url = f"{self.address}{path}"
        try:
            response = self.request(method, url, params=params, json=json, data=data, timeout=timeout)
        except requests.RequestException as error:
            raise AgentApiError(self.agent, url, None, describe(error)) from error
        if response.status_code >= 400 and response.status_code not in accept:
            raise AgentApiError(self.agent, url, response.status_code, response.text or response.reason)
        return response

    def get_json(self, path: str, params: Mapping[str, Any] | None = None, *, accept: tuple[int, ...] = ()) -> Any:
        """Read one JSON answer. Raises AgentApiError, also when the body is not JSON."""
        response = self.fetch("GET", path, params=params, accept=accept)
        return self.decode(response)

    def decode(self, response: requests.Response) -> Any:
        """Decode a JSON body. Raises AgentApiError when it is something else, such as an error page."""
        try:
            return response.json()
        except ValueError as error:
            message = f"expected JSON, got {response.text[:200]!r}"
            raise AgentApiError(self.agent, response.url, response.status_code, message) from error


class AgentClient:
    """What the clients of both agents are: one agent, by its address alone; no environment variable changes anything.

    `token` is an ACL token, `verify` False or the path of a CA bundle, `cert` a (certificate, key) pair of paths,
    `timeout` in seconds for one answer. Every method raises AgentApiError.
    """

    product: ClassVar[str]
    token_header: ClassVar[str]
    snapshot_path: ClassVar[str]
    stale: ClassVar[Mapping[str, str]] = {"stale": "true"}
    """The parameter that asks this very server for what it knows."""

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        verify: bool | str = True,
        cert: tuple[str, str] | None = None,
        timeout: float = READ_TIMEOUT,
    ) -> None:
        self.address = address.rstrip("/")
        headers = {self.token_header: token} if token else {}
        self._session = AgentSession(self.product, address, headers=headers, verify=verify, cert=cert, timeout=timeout)
        self._raw = self._library(self._session)

    def _library(self, session: AgentSession) -> Any:
        """Make the client library's own client, which sends through `session`."""
        raise NotImplementedError

    @property
    def raw(self) -> Any:
        """The library's client underneath, for what has no method here; it raises its own errors."""
        return self._raw

    def get(self, path: str, **params: Any) -> Any:
        """Read any JSON answer that has no method here, such as get("/v1/agent/metrics")."""
        return self._session.get_json(path, params)

    def put(self, path: str, body: Any) -> None:
        """Send any JSON that has no method here, such as put("/v1/operator/autopilot/configuration", {...})."""
        self._session.fetch("PUT", path, json=body)

    def _read(self, path: str, params: Mapping[str, Any] | None = None, *, stale: bool = False) -> Any:
        """Read one answer about what the servers have in common.

        With `stale` this very server tells what it knows. Where it knows no leader that may be long out of date, which
        it says by its header ``X-Nomad-Knownleader`` or ``X-Consul-Knownleader``: then it is no answer but an
        AgentApiError.
        """
        response = self._session.fetch("GET", path, params={**(params or {}), **(self.stale if stale else {})})
        if (index := f"x-{self.product}-index") not in response.headers:
            why = f"the answer lacks {index!r}; is this a {self.product.capitalize()} agent?"
            raise AgentApiError(self.product, response.url, response.status_code, why)
        if stale and response.headers.get(f"X-{self.product}-Knownleader", "true") != "true":
            why = "it knows no leader, so what it says may be out of date"
            raise AgentApiError(self.product, response.url, response.status_code, why)
        return self._session.decode(response)

    def autopilot_health(self) -> dict[str, Any]:
        """Tell autopilot's view of every server (GET /v1/operator/autopilot/health).

        Status 429 means unhealthy; the facts are in the body all the same, so it is no error.
        """
        return dict(self._session.get_json("/v1/operator/autopilot/health", accept=(429,)))

    def save_snapshot(self) -> bytes:
        """Take a snapshot of the servers' whole state, as a gzipped tar (GET /v1/snapshot, Nomad's below operator)."""
        return self._session.fetch("GET", self.snapshot_path, timeout=SNAPSHOT_TIMEOUT).content

    def restore_snapshot(self, snapshot: bytes) -> None:
        """Put a snapshot in the place of the servers' whole state (PUT, same path).

        Raises UsageError for one that is damaged, before it is sent: the servers' state stays as it is.
        """
        check_snapshot(snapshot, self.product)
        self._session.fetch("PUT", self.snapshot_path, data=snapshot, timeout=SNAPSHOT_TIMEOUT)

    def close(self) -> None:
        """Close the connections that are kept open between requests."""
        self._session.close()


def _seconds(timeout: Any) -> float | None:
    """Tell the read time-out from what requests accepts: None, seconds, or (connect, read)."""
    value = timeout[1] if isinstance(timeout, tuple) else timeout
    return None if value is None else float(value)


def describe(error: BaseException) -> str:
    """Say in a few words why a request got no answer; urllib3's own text names objects in memory.

    >>> describe(requests.exceptions.ReadTimeout("x"))
    'no answer in time'
    """
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"no connection within {CONNECT_TIMEOUT:.0f} s"
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return f"TLS failed: {_root(error)}"
    root = _root(error)
    if isinstance(root, ConnectionRefusedError):
        return "connection refused"
    if isinstance(root, OSError) and root.strerror:
        return root.strerror
    return str(root) or type(root).__name__


def never_sent(error: AgentApiError) -> bool:
    """Whether a request certainly did not get to the agent, since there was no connection to send it by."""
    cause = error.__cause__
    if isinstance(cause, requests.exceptions.ConnectTimeout):
        return True
    return isinstance(cause, requests.exceptions.ConnectionError) and any(
        isinstance(getattr(one, "reason", None), urllib3.exceptions.NewConnectionError) for one in cause.args
    )


def _root(error: BaseException) -> BaseException:
    """Walk to the error that everything else wraps, through `reason`, arguments and causes."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((a for a in error.args if isinstance(a, BaseException)), None)
        inner = inner or error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    return error
