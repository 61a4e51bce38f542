"""What boto3 raises when a call is refused or not answered, in words."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError

REFUSALS = (ClientError, BotoCoreError)

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
        "NoSuchEntity",
    }
)
"""AWS's codes for a resource that is not there
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html)."""


def code_of(error: Exception) -> str:
    """Give AWS's code of an error; empty where AWS did not answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def told(error: Exception) -> str:
    """Put an error in words: AWS's code and message, or what kept it from answering."""
    if isinstance(error, ClientError):
        answer = error.response.get("Error", {})
        return f"{answer.get('Code', 'unknown')}: {answer.get('Message', '(no message)')}"
    return f"{type(error).__name__}: {error}"


def is_not_found(error: Exception) -> bool:
    """Tell whether a call failed because its resource is not there."""
    # Auto Scaling has one code for everything that it refuses.
    gone = code_of(error) == "ValidationError" and "not found" in told(error).lower()
    return gone or code_of(error) in NOT_FOUND
