"""Whether a caller may do what a request asks: what each call needs, and IAM's answer in each service's words.

What a call needs is told by AWS's Service Authorization Reference: the resources that it names or makes, and the
actions that it depends on, such as iam:PassRole.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from nomad_testkit.ec2.api import needs_of_ec2, needs_of_iam
from nomad_testkit.ec2.api.policies import ANY, Answer, Question, answer
from nomad_testkit.ec2.api.principals import Principal
from nomad_testkit.ec2.api.refusals import Refusal

AUTHORIZE = "nomad_testkit.authorize"
"""The key in a request's environment of what decides about it."""
_WHO_AM_I = "sts:GetCallerIdentity"
"""What needs no permission."""
_UNKEPT = frozenset(f"sts:{call}" for call in ("GetSessionToken", "GetFederationToken"))
"""Calls for which moto gives credentials that it does not keep, so that nobody could use them."""
_UNPROVEN = frozenset(f"sts:{call}" for call in ("AssumeRoleWithSAML", "AssumeRoleWithWebIdentity"))
"""Calls for which moto asks nobody for a proof of identity, and takes any."""
_S3_ACTIONS = {"HeadBucket": "ListBucket", "ListBuckets": "ListAllMyBuckets", "DeleteObjects": "DeleteObject"}
"""S3's calls whose permission has another name."""


def authorize_action(response: Any, _: str = ANY) -> None:
    """Let a request to EC2, Auto Scaling, IAM or STS go on, or raise its Refusal; stands in the place of moto's own."""
    if (decide := response.normalized_request.environ.get(AUTHORIZE)) is not None:
        decide(response, f"{response.service_name}:{response._get_action()}")


def authorize_s3(response: Any, bucket_name: str | None = None, key_name: str | None = None) -> None:
    """Let a request to S3 go on, or raise its Refusal."""
    if (decide := response.normalized_request.environ.get(AUTHORIZE)) is not None:
        called = str(response.data.get("Action"))
        path = f"{bucket_name}/{key_name}" if key_name else bucket_name
        resource = f"arn:{response.partition}:s3:::{path}" if path else ANY
        decide(response, f"s3:{_S3_ACTIONS.get(called, called)}", resource)


class Authorizer:
    """Decides for one account and region."""

    def __init__(self, account: str, region: str, ec2: Any, autoscaling: Any, iam: Any) -> None:
        self._region = region
        self._iam = iam
        self._iam_needs = needs_of_iam.IamNeeds(account, iam)
        self._ec2_needs = needs_of_ec2.Ec2Needs(account, region, ec2, autoscaling, self._iam_needs)

    def decide(self, principal: Principal, response: Any, action: str, resource: str = ANY) -> None:
        """Raise a Refusal unless the policies of a caller allow all that a call needs."""
        if action in _UNKEPT | _UNPROVEN:
            raise NotImplementedError(f"{action.partition(':')[2]}; use AssumeRole")
        if action == _WHO_AM_I:
            return
        service = action.partition(":")[0]
        context = self._context(principal, response.normalized_request.environ)
        if action == "sts:AssumeRole":
            self._assume(principal, response.params, context)
        elif not principal.unrestricted:
            for question in self._questions(action, resource, response, context):
                refuse_unless_allowed(service, principal, question)

    def _questions(
        self, action: str, resource: str, response: Any, context: Mapping[str, tuple[str, ...]]
    ) -> Iterator[Question]:
        service, _, call = action.partition(":")
        if service == "s3":
            yield Question(action, resource, context)
        elif service == "ec2":
            yield from self._ec2_needs.of_ec2(call, response.params, context)
        elif service == "autoscaling":
            yield from self._ec2_needs.of_autoscaling(call, response.params, context)
        elif service == "iam":
            yield from self._iam_needs.of(call, response.params, context)
        else:
            yield Question(action, ANY, context)

    def _context(self, principal: Principal, environ: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """Give the values of the condition keys that every request has.

        https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
        """
        context = {
            "aws:PrincipalArn": principal.role_arn or principal.arn,
            "aws:PrincipalAccount": principal.arn.split(":")[4],
            "aws:PrincipalType": "AssumedRole" if principal.role_arn else "User",
            "aws:RequestedRegion": self._region,
            "aws:SecureTransport": "true" if environ.get("wsgi.url_scheme") == "https" else "false",
            "aws:SourceIp": str(environ.get("REMOTE_ADDR", "")),
            "aws:CurrentTime": datetime.now(UTC).isoformat(),
            "aws:EpochTime": str(int(time.time())),
            "ec2:Region": self._region,
        }
        if principal.role_arn is None:
            context["aws:username"] = principal.arn.rpartition("/")[2]
        return {key: (value,) for key, value in context.items()}

    def _assume(self, principal: Principal, params: Mapping[str, Any], context: Mapping[str, tuple[str, ...]]) -> None:
        """Ask both sides: the role has to trust the caller, who needs a permission unless it is named there itself."""
        arn = str(params.get("RoleArn"))
        keys = {"sts:ExternalId": params.get("ExternalId"), "sts:RoleSessionName": params.get("RoleSessionName")}
        context = {**context, **{key: (str(value),) for key, value in keys.items() if value is not None}}
        question = Question("sts:AssumeRole", arn, context)
        callers = [principal.arn, *([principal.role_arn] if principal.role_arn else [])]
        role = next((one for one in self._iam.roles.values() if one.arn == arn), None)
        trust = str(role.assume_role_policy_document) if role is not None else "{}"
        trusted = [answer([trust], question, caller) for caller in callers]
        if Answer.ALLOWED not in trusted or Answer.DENIED in trusted:
            why = "with an explicit deny" if Answer.DENIED in trusted else "because the role does not trust it"
            raise _refusal("sts", principal, question, why)
        if not any(caller in trust for caller in callers):
            refuse_unless_allowed("sts", principal, question)


def refuse_unless_allowed(service: str, principal: Principal, question: Question) -> None:
    """Raise the Refusal that AWS words unless all kinds of policies that a caller has allow what is asked."""
    limits = [("permissions boundary", principal.boundary), ("session policy", principal.session_policy)]
    kinds = [("identity-based policy", principal.documents), *((kind, (one,)) for kind, one in limits if one)]
    answers = [(kind, answer(documents, question)) for kind, documents in kinds]
    for kind, said in answers:
        if said is Answer.DENIED:
            an = "an" if kind.startswith("identity") else "a"
            raise _refusal(service, principal, question, f"with an explicit deny in {an} {kind}")
    for kind, said in answers:
        if said is Answer.UNSAID:
            raise _refusal(service, principal, question, f"because no {kind} allows the {question.action} action")


def _refusal(service: str, principal: Principal, question: Question, why: str) -> Refusal:
    resource = "" if question.resource == ANY else f" on resource: {question.resource}"
    said = f"User: {principal.arn} is not authorized to perform: {question.action}{resource} {why}"
    if service == "ec2":
        said = f"You are not authorized to perform this operation. {said}"
        return Refusal(service, HTTPStatus.FORBIDDEN, "UnauthorizedOperation", said)
    return Refusal(service, HTTPStatus.FORBIDDEN, "AccessDenied", said)
