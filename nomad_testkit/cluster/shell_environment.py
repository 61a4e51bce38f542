"""What a shell exports to reach a run's cluster and cloud by the agents' own command lines and by AWS's."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomad_testkit.cluster.clients.access import ApiAccess
from nomad_testkit.cluster.secrets import RunSecrets
from nomad_testkit.ec2.credentials import SECRET_KEY

_REDIRECTING = (
    *("NOMAD_ADDR", "NOMAD_TOKEN", "NOMAD_REGION", "NOMAD_NAMESPACE", "NOMAD_CACERT", "NOMAD_CAPATH"),
    *("NOMAD_CLIENT_CERT", "NOMAD_CLIENT_KEY", "NOMAD_TLS_SERVER_NAME", "NOMAD_SKIP_VERIFY"),
    *("CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE", "CONSUL_HTTP_SSL", "CONSUL_HTTP_SSL_VERIFY"),
    *("CONSUL_CACERT", "CONSUL_CAPATH", "CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY", "CONSUL_TLS_SERVER_NAME"),
    *("CONSUL_NAMESPACE", "CONSUL_PARTITION", "CONSUL_HTTP_AUTH"),
)
_REDIRECTING_AWS = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
"""What a user's shell may have of another cluster or account, and that would lead there, or take a token there.

https://developer.hashicorp.com/nomad/docs/commands#environment-variables
https://developer.hashicorp.com/consul/commands#environment-variables
https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-envvars.html
"""


@dataclass(frozen=True)
class ShellEnvironment:
    """Variables by their values, and those whose value stands in a file, so that it is shown nowhere.

    >>> print(ShellEnvironment({"NOMAD_ADDR": "http://127.31.0.4:4646"}, {"NOMAD_TOKEN": Path("/r/a token")}))
    export NOMAD_ADDR=http://127.31.0.4:4646
    export NOMAD_TOKEN="$(cat '/r/a token')"
    """

    values: Mapping[str, str]
    files: Mapping[str, Path]
    unset: tuple[str, ...] = ()
    """What would lead elsewhere."""

    def lines(self) -> list[str]:
        """Give the lines that sh, bash and zsh evaluate."""
        return [
            *([f"unset {' '.join(self.unset)}"] if self.unset else []),
            *(f"export {name}={shlex.quote(value)}" for name, value in self.values.items()),
            *(f'export {name}="$(cat {shlex.quote(str(path))})"' for name, path in self.files.items()),
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def describe(self) -> dict[str, Any]:
        """Tell it in JSON's types."""
        return {
            "variables": dict(self.values),
            "files": {name: str(path) for name, path in self.files.items()},
            "unset": list(self.unset),
        }


def shell_environment(
    description: Mapping[str, Any],
    *,
    region: str,
    servers: Mapping[str, str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ShellEnvironment:
    """Make it from what `Run.description` tells of a cluster.

    `servers` has the URLs of the servers to talk to by the agents' names, instead of the first of each; `environ` is
    the environment of the shell that is to evaluate it.
    """
    folder = description.get("secrets_path")
    secrets = RunSecrets.load(Path(folder)) if folder else None
    access = secrets.access if secrets else ApiAccess()
    values: dict[str, str] = {}
    for agent, variable, url in (
        ("nomad", "NOMAD_ADDR", access.nomad_url),
        ("consul", "CONSUL_HTTP_ADDR", access.consul_url),
    ):
        groups = description.get("roles", {}).get(f"{agent}_servers", ())
        addresses = [host["address"] for host in description.get("hosts", ()) if host["group"] in groups]
        if chosen := (servers or {}).get(agent) or next(map(url, addresses), None):
            values[variable] = chosen
    values |= secrets.environment() if secrets else {}
    files = secrets.environment_files() if secrets else {}
    moot = [*_REDIRECTING]
    target = description.get("target", {})
    if endpoint := target.get("endpoint_url"):
        values["AWS_ENDPOINT_URL"] = endpoint
    values |= {"AWS_REGION": region, "AWS_DEFAULT_REGION": region}
    if access_key_id := target.get("access_key_id"):
        values["AWS_ACCESS_KEY_ID"] = access_key_id
        files = {**files, "AWS_SECRET_ACCESS_KEY": Path(target["state_dir"], SECRET_KEY)}
        moot += _REDIRECTING_AWS
    unset = tuple(name for name in moot if name in environ and name not in values and name not in files)
    return ShellEnvironment(values, files, unset)
