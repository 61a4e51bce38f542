"""What boto3 raises when a call is refused or not answered: in words, and whether to make the call again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

T = TypeVar("T")

AWS_ERRORS = (ClientError, BotoCoreError)

NOT_FOUND = frozenset(
    {
        "InvalidAMIID.NotFound",
        "InvalidAMIID.Unavailable",
        "InvalidGroup.NotFound",
        "InvalidInstanceID.NotFound",
        "InvalidKeyPair.NotFound",
        "InvalidLaunchTemplateId.NotFound",
        "InvalidLaunchTemplateId.NotFoundException",
        "InvalidLaunchTemplateName.NotFoundException",
        "InvalidSnapshot.NotFound",
        "InvalidVpcID.NotFound",
        "NoSuchEntity",
    }
)
"""AWS's codes for a resource that is not there
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html)."""

THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
    }
)
"""AWS's codes for a call that was not carried out because there were too many
(https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html)."""

FAILED_INSIDE = frozenset({"InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"})
"""AWS's codes for a failure of its own: nobody knows whether the call was carried out."""

CHANGING = frozenset(
    {"ConcurrentModification", "DeleteConflict", "ResourceContention", "ResourceInUse", "ScalingActivityInProgress"}
)
"""AWS's codes for a deletion that has to wait until an earlier change is known everywhere."""

RETRY_SECONDS = 30.0
"""How long one call is made again. botocore has tried several times within each of these calls, ever more slowly."""

INTERVAL = 1.0


def code_of(error: Exception) -> str:
    """Give AWS's code of an error; empty where AWS did not answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def describe_error(error: Exception) -> str:
    """Put an error in words: AWS's code and message, or what kept it from answering."""
    if isinstance(error, ClientError):
        answer = error.response.get("Error", {})
        return f"{answer.get('Code', 'unknown')}: {answer.get('Message', '(no message)')}"
    return f"{type(error).__name__}: {error}"


def is_not_found(error: Exception) -> bool:
    """Tell whether a call failed because its resource is not there."""
    # Auto Scaling has one code for everything that it refuses.
    gone = code_of(error) == "ValidationError" and "not found" in describe_error(error).lower()
    return gone or code_of(error) in NOT_FOUND


def is_throttled(error: Exception) -> bool:
    """Tell whether a call was not carried out because there were too many, so that it can be made again."""
    return code_of(error) in THROTTLED


def is_unsure(error: Exception) -> bool:
    """Tell whether a call failed in a way that passes, and may have been carried out: no answer, or AWS's own fault."""
    return isinstance(error, HTTPClientError) or code_of(error) in FAILED_INSIDE


def is_transient(error: Exception) -> bool:
    """Tell whether a call that changes nothing may be made again: it was throttled, or lost, or AWS itself failed."""
    return is_throttled(error) or is_unsure(error)


def looked(probe: Callable[[], Ok[T] | Pending | Broken]) -> Ok[T] | Pending | Broken:
    """Make a probe that only reads: an error that passes is Pending, and any other refusal Broken."""
    try:
        return probe()
    except AWS_ERRORS as error:
        said = describe_error(error)
        return Pending(said) if is_transient(error) else Broken(f"AWS refused to answer: {said}")


def retry_transient(what: str, action: Callable[[], T], *, deadline: Deadline) -> T:
    """Retry an idempotent call, such as a deletion, while its error is transient.

    Raises what it raised at last.
    """

    def probe() -> Ok[T] | Pending:
        try:
            return Ok(action())
        except AWS_ERRORS as error:
            passes = is_transient(error) or code_of(error) in CHANGING
            if deadline.passed or not passes:
                raise
            return Pending(describe_error(error))

    return wait_until(what, probe, deadline=deadline, interval=INTERVAL)
