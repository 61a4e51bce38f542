"""Who can call the cloud's API: its maker, the users and the roles that moto's IAM and STS keep."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nomad_testkit.ec2.credentials import Credentials

ADMINISTRATOR = "nomad-testkit"
"""The user whose key the cloud's maker has."""
_EVERYTHING = json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}})


@dataclass(frozen=True, slots=True)
class Principal:
    """The user or the role's session that an access key belongs to, and the policies that say what it may do."""

    arn: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expiration: datetime | None = None
    role_arn: str | None = None
    """The role that a session is of."""
    documents: tuple[str, ...] = ()
    """The identity-based policies, inline and attached."""
    boundary: str | None = None
    session_policy: str | None = None

    @property
    def unrestricted(self) -> bool:
        """Whether nothing has to be asked."""
        return self.documents == (_EVERYTHING,) and not self.boundary and not self.session_policy


class Principals:
    """The access keys of one account."""

    def __init__(self, iam: Any, sts: Any, region: str) -> None:
        self._iam, self._sts, self._region = iam, sts, region

    def add_administrator(self, credentials: Credentials) -> None:
        """Make the user for the cloud's maker, who may do everything until somebody changes the user's policy."""
        self._iam.create_user(self._region, ADMINISTRATOR)
        self._iam.put_user_policy(ADMINISTRATOR, "administrator", _EVERYTHING)
        key = self._iam.create_access_key(ADMINISTRATOR)
        del self._iam.access_keys[key.access_key_id]
        key.access_key_id, key.secret_access_key = credentials.access_key_id, credentials.secret_access_key
        self._iam.access_keys[key.access_key_id] = key

    def find(self, access_key_id: str) -> Principal | None:
        """Give whose key it is; None where it is nobody's, or is inactive, or its user or role has been deleted."""
        key = self._iam.access_keys.get(access_key_id)
        if key is None or key.status != "Active":
            return None
        if key.user_name is not None:
            user = self._iam.users.get(key.user_name)
            if user is None:
                return None
            return Principal(user.arn, key.secret_access_key, documents=_of_user(self._iam, user))
        session = self._sts.get_assumed_role_from_access_key(access_key_id)
        role = session and next((one for one in self._iam.roles.values() if one.arn == session.role_arn), None)
        if role is None:
            return None
        return Principal(
            session.arn,
            session.secret_access_key,
            session.session_token,
            session.expiration.replace(tzinfo=UTC),
            role_arn=role.arn,
            documents=_documents(role),
            boundary=_boundary(self._iam, role),
            session_policy=session.policy or None,
        )


def policies_of(iam: Any, arn: str) -> tuple[tuple[str, ...], str | None] | None:
    """Give the policies and the boundary of the user or the role with an ARN; None where there is neither."""
    user = next((one for one in iam.users.values() if one.arn == arn), None)
    if user is not None:
        return _of_user(iam, user), None
    role = next((one for one in iam.roles.values() if one.arn == arn), None)
    return None if role is None else (_documents(role), _boundary(iam, role))


def _of_user(iam: Any, user: Any) -> tuple[str, ...]:
    return tuple(document for one in (user, *iam.get_groups_for_user(user.name)) for document in _documents(one))


def _boundary(iam: Any, role: Any) -> str | None:
    if not role.permissions_boundary_arn:
        return None
    found = iam.managed_policies.get(role.permissions_boundary_arn)
    return _document(found) if found else "{}"  # one that is not there allows nothing


def _documents(one: Any) -> tuple[str, ...]:
    return (*one.policies.values(), *map(_document, one.managed_policies.values()))


def _document(policy: Any) -> str:
    return next((str(version.document) for version in policy.versions if version.is_default), "{}")
