"""Errors that moto has no part in, as each of AWS's protocols words them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from uuid import uuid4
from wsgiref.types import StartResponse
from xml.sax.saxutils import escape


@dataclass(frozen=True)
class Refusal(Exception):
    """An answer in place of moto's."""

    service: str
    status: HTTPStatus
    code: str
    message: str

    def answer(self, start_response: StartResponse) -> list[bytes]:
        """Answer with the error in the form that the service's SDK reads."""
        request_id = uuid4()
        error = f"<Code>{escape(self.code)}</Code><Message>{escape(self.message)}</Message>"
        if self.service == "ec2":
            text = f"<Response><Errors><Error>{error}</Error></Errors><RequestID>{request_id}</RequestID></Response>"
        elif self.service == "s3":
            text = f"<Error>{error}<RequestId>{request_id}</RequestId></Error>"
        else:
            side = "Receiver" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "Sender"
            text = (
                f"<ErrorResponse><Error><Type>{side}</Type>{error}</Error><RequestId>{request_id}</RequestId>"
                "</ErrorResponse>"
            )
        kind, body = "text/xml", ('<?xml version="1.0" encoding="UTF-8"?>\n' + text).encode()
        if self.service == "json":
            kind = "application/x-amz-json-1.0"
            body = json.dumps({"__type": self.code, "message": self.message}).encode()
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        start_response(f"{self.status.value} {self.status.phrase}", headers)
        return [body]


class Unauthenticated(Enum):
    """Why a request is nobody's; each service has words of its own for it."""

    UNSIGNED = "it has no signature"
    INCOMPLETE = "its signature lacks a part"
    UNKNOWN_KEY = "nobody has this access key"
    WRONG_TOKEN = "the session token is not the key's"  # noqa: S105
    EXPIRED_TOKEN = "the session has ended"  # noqa: S105
    MISMATCH = "it was signed with another secret, or changed since"
    UNSIGNED_HEADERS = "the signature leaves out headers that it has to cover"
    ANOTHER_BODY = "the body is not the one whose hash was signed"
    EXPIRED = "it was signed too long ago"
    EARLY = "it was signed in the future"
    LAPSED = "it is later than the presigned URL's end"


_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method."
)
_AUTH_FAILURE = "AWS was not able to validate the provided access credentials"
_NO_SIGNATURE = (HTTPStatus.FORBIDDEN, "MissingAuthenticationToken", "Request is missing Authentication Token")
_NOT_VALID = "The security token included in the request is invalid"

_Words = tuple[HTTPStatus, str, str]

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
_EC2: Mapping[Unauthenticated, _Words] = {
    **dict.fromkeys(Unauthenticated, (HTTPStatus.UNAUTHORIZED, "AuthFailure", _AUTH_FAILURE)),
    **dict.fromkeys(
        (
            Unauthenticated.EXPIRED,
            Unauthenticated.EARLY,
            Unauthenticated.LAPSED,
            Unauthenticated.EXPIRED_TOKEN,
        ),
        (HTTPStatus.BAD_REQUEST, "RequestExpired", "Request has expired."),
    ),
    Unauthenticated.UNSIGNED: _NO_SIGNATURE,
}

# https://docs.aws.amazon.com/IAM/latest/APIReference/CommonErrors.html; what is too old or too new is, in practice, a
# SignatureDoesNotMatch that says so.
_QUERY: Mapping[Unauthenticated, _Words] = {
    **dict.fromkeys(Unauthenticated, (HTTPStatus.FORBIDDEN, "SignatureDoesNotMatch", _MISMATCH)),
    Unauthenticated.UNSIGNED: _NO_SIGNATURE,
    Unauthenticated.INCOMPLETE: (
        HTTPStatus.BAD_REQUEST,
        "IncompleteSignature",
        "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature', and the request 'X-Amz-Date'.",
    ),
    Unauthenticated.UNKNOWN_KEY: (HTTPStatus.FORBIDDEN, "InvalidClientTokenId", f"{_NOT_VALID}."),
    Unauthenticated.WRONG_TOKEN: (HTTPStatus.FORBIDDEN, "InvalidClientTokenId", f"{_NOT_VALID}"),
    Unauthenticated.EXPIRED_TOKEN: (
        HTTPStatus.FORBIDDEN,
        "ExpiredToken",
        "The security token included in the request is expired",
    ),
    Unauthenticated.EXPIRED: (
        HTTPStatus.FORBIDDEN,
        "SignatureDoesNotMatch",
        "Signature expired: {date} is now earlier than {earliest} ({now} - 15 min.)",
    ),
    Unauthenticated.LAPSED: (
        HTTPStatus.FORBIDDEN,
        "SignatureDoesNotMatch",
        "Signature expired: {date} is now earlier than {earliest}",
    ),
    Unauthenticated.EARLY: (
        HTTPStatus.FORBIDDEN,
        "SignatureDoesNotMatch",
        "Signature not yet current: {date} is still later than {latest} ({now} + 15 min.)",
    ),
}

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList
_S3: Mapping[Unauthenticated, _Words] = {
    **dict.fromkeys(Unauthenticated, (HTTPStatus.FORBIDDEN, "SignatureDoesNotMatch", _MISMATCH)),
    Unauthenticated.UNSIGNED: (HTTPStatus.FORBIDDEN, "AccessDenied", "Access Denied"),
    Unauthenticated.INCOMPLETE: (
        HTTPStatus.BAD_REQUEST,
        "AuthorizationHeaderMalformed",
        "The authorization header that you provided is not valid.",
    ),
    Unauthenticated.UNKNOWN_KEY: (
        HTTPStatus.FORBIDDEN,
        "InvalidAccessKeyId",
        "The AWS Access Key Id you provided does not exist in our records.",
    ),
    Unauthenticated.WRONG_TOKEN: (
        HTTPStatus.BAD_REQUEST,
        "InvalidToken",
        "The provided token is malformed or otherwise invalid.",
    ),
    Unauthenticated.EXPIRED_TOKEN: (HTTPStatus.BAD_REQUEST, "ExpiredToken", "The provided token has expired."),
    Unauthenticated.UNSIGNED_HEADERS: (
        HTTPStatus.FORBIDDEN,
        "AccessDenied",
        "There were headers present in the request which were not signed",
    ),
    Unauthenticated.ANOTHER_BODY: (
        HTTPStatus.BAD_REQUEST,
        "XAmzContentSHA256Mismatch",
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    ),
    **dict.fromkeys(
        (Unauthenticated.EXPIRED, Unauthenticated.EARLY),
        (
            HTTPStatus.FORBIDDEN,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        ),
    ),
    Unauthenticated.LAPSED: (HTTPStatus.FORBIDDEN, "AccessDenied", "Request has expired"),
}


def unauthenticated(service: str, why: Unauthenticated, **times: str) -> Refusal:
    """Word a refusal as a service does; `times` are date, now, earliest and latest.

    >>> unauthenticated("ec2", Unauthenticated.MISMATCH).code
    'AuthFailure'
    >>> unauthenticated("sts", Unauthenticated.MISMATCH).code
    'SignatureDoesNotMatch'
    """
    status, code, message = {"ec2": _EC2, "s3": _S3}.get(service, _QUERY)[why]
    return Refusal(service, status, code, message.format(**times) if times else message)
