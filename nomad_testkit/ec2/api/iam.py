"""IAM's simulator, which moto lacks: what the policies of a user or role say to calls that nobody makes."""

# moto has no annotations that mypy could follow.
# mypy: disallow-subclassing-any=False

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from moto.core.responses import ActionResult
from moto.iam.exceptions import NotFoundException
from moto.iam.models import IAMBackend
from moto.iam.responses import IamResponse

from nomad_testkit.ec2.api.policies import ANY, Answer, Question, answer, missing_keys
from nomad_testkit.ec2.api.principals import policies_of


class CloudIamResponse(IamResponse):
    """The requests to IAM that moto does not know."""

    def simulate_principal_policy(self) -> ActionResult:
        """Answer SimulatePrincipalPolicy; a call is allowed where the boundary allows it as well."""
        source = str(self._get_param("PolicySourceArn"))
        found = policies_of(self.backend, source)
        if found is None:
            raise NotFoundException(f"Cannot find entity with ARN {source}")
        documents, boundary = found
        documents = (*documents, *(self._get_param("PolicyInputList") or ()))
        context = {
            entry["ContextKeyName"]: tuple(map(str, entry.get("ContextKeyValues") or ()))
            for entry in self._get_param("ContextEntries") or ()
        }
        results = []
        for action in self._get_param("ActionNames") or ():
            for resource in self._get_param("ResourceArns") or (ANY,):
                question = Question(str(action), str(resource), context)
                answers = [answer(documents, question), *([answer([boundary], question)] if boundary else [])]
                decision = next((one for one in (Answer.DENIED, Answer.UNSAID) if one in answers), Answer.ALLOWED)
                results.append(
                    {
                        "EvalActionName": action,
                        "EvalResourceName": resource,
                        "EvalDecision": decision.value,
                        "MatchedStatements": [],
                        "MissingContextValues": missing_keys([*documents, boundary or "{}"], question),
                    }
                )
        return ActionResult({"EvaluationResults": results, "IsTruncated": False})


class CloudIamBackend(IAMBackend):
    """moto's IAM, whose requests come here."""

    @property
    def _url_module(self) -> Any:
        from moto.iam import urls

        return SimpleNamespace(url_bases=urls.url_bases, url_paths={"{0}/": CloudIamResponse.dispatch})
