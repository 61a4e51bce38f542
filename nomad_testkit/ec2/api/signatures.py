"""Signature Version 4: whose a request is, found with botocore's own signer.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from wsgiref.types import WSGIEnvironment

from botocore.auth import SIGV4_TIMESTAMP, UNSIGNED_PAYLOAD, S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.core.request import PRESERVED_HEADER_NAMES_ENVIRON_KEY

from nomad_testkit.ec2.api.refusals import Refusal, Unauthenticated, unauthenticated

SKEW = timedelta(minutes=15)
"""How far a request's date may be from now."""
_ALGORITHM = "AWS4-HMAC-SHA256"
_LONGEST = 7 * 24 * 3600
"""The most seconds that a presigned URL is good for."""
_MUST_BE_SIGNED = "x-amz-"


class AccessKey(Protocol):
    """What a key in a request is compared with."""

    @property
    def secret_access_key(self) -> str: ...

    @property
    def session_token(self) -> str | None:
        """The token that has to come with it; None for the key of a user."""
        ...

    @property
    def expiration(self) -> datetime | None: ...


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request says about its signer, unverified."""

    access_key_id: str
    day: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str = field(repr=False)
    timestamp: str
    """As YYYYMMDD'T'HHMMSS'Z'; empty where it has none."""
    session_token: str | None = field(repr=False)
    expires: int | None
    """The seconds that a presigned URL is good for; None for a header."""

    @classmethod
    def of(cls, environ: WSGIEnvironment) -> Presented | None:
        """Read the header, or the query of a presigned URL; None where there is neither, or one that lacks a part."""
        query = {unquote(name): unquote(value) for name, value in _encoded_query(environ)}
        if "X-Amz-Signature" in query:
            given, presigned = query, True
            scope = query.get("X-Amz-Credential", "")
            signed, signature = query.get("X-Amz-SignedHeaders", ""), query["X-Amz-Signature"]
            algorithm = query.get("X-Amz-Algorithm", "")
        else:
            presigned = False
            algorithm, _, rest = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
            parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
            scope, signed, signature = (parts.get(name, "") for name in ("Credential", "SignedHeaders", "Signature"))
            given = {
                "X-Amz-Date": str(environ.get("HTTP_X_AMZ_DATE", "")),
                **({"X-Amz-Security-Token": token} if (token := environ.get("HTTP_X_AMZ_SECURITY_TOKEN")) else {}),
            }
        key_id, *rest_of_scope = scope.rsplit("/", 4)
        if algorithm != _ALGORITHM or len(rest_of_scope) != 4 or not signed or not signature:
            return None
        day, region, service, _ = rest_of_scope
        expires = given.get("X-Amz-Expires", "") if presigned else None
        return cls(
            access_key_id=key_id,
            day=day,
            region=region,
            service=service.lower(),
            signed_headers=tuple(signed.lower().split(";")),
            signature=signature,
            timestamp=given.get("X-Amz-Date", ""),
            session_token=given.get("X-Amz-Security-Token"),
            expires=None if expires is None else int(expires) if expires.isdecimal() else 0,
        )

    @property
    def authorization(self) -> str:
        """A header that names the signer: moto looks nowhere else."""
        scope = f"{self.access_key_id}/{self.day}/{self.region}/{self.service}/aws4_request"
        return f"{_ALGORITHM} Credential={scope}, SignedHeaders={';'.join(self.signed_headers)}, Signature=verified"

    @property
    def presigned(self) -> bool:
        """Whether it came in the query."""
        return self.expires is not None

    def verify(self, environ: WSGIEnvironment, body: bytes, key: AccessKey | None, now: datetime) -> None:
        """Raise the service's own Refusal unless the request is of the holder of `key`, as it is and lately."""
        if key is None:
            raise self._refusal(Unauthenticated.UNKNOWN_KEY)
        if key.session_token is None:
            tokens_agree = self.session_token is None
        else:
            tokens_agree = hmac.compare_digest((self.session_token or "").encode(), key.session_token.encode())
        if not tokens_agree:
            raise self._refusal(Unauthenticated.WRONG_TOKEN)
        if key.expiration is not None and key.expiration <= now:
            raise self._refusal(Unauthenticated.EXPIRED_TOKEN)
        self._verify_time(now)
        headers = _headers(environ)
        unsigned = [name for name in headers if name.startswith(_MUST_BE_SIGNED) and name not in self.signed_headers]
        if unsigned or "host" not in self.signed_headers:
            raise self._refusal(Unauthenticated.UNSIGNED_HEADERS)
        signed = {name: headers.get(name, "") for name in self.signed_headers}
        self._verify_body(signed, body)
        wanted = _signature(self, environ, signed, body, key.secret_access_key)
        if not hmac.compare_digest(wanted.encode(), self.signature.encode()):
            raise self._refusal(Unauthenticated.MISMATCH)

    def _verify_time(self, now: datetime) -> None:
        try:
            date = datetime.strptime(self.timestamp, SIGV4_TIMESTAMP).replace(tzinfo=UTC)
        except ValueError:
            raise self._refusal(Unauthenticated.INCOMPLETE) from None
        if self.timestamp[:8] != self.day:
            raise self._refusal(Unauthenticated.MISMATCH)
        lasts = SKEW if self.expires is None else timedelta(seconds=min(self.expires, _LONGEST))
        times = {
            name: f"{time:{SIGV4_TIMESTAMP}}"
            for name, time in (("now", now), ("date", date), ("earliest", now - lasts), ("latest", now + SKEW))
        }
        if date < now - lasts:
            late = Unauthenticated.EXPIRED if not self.presigned else Unauthenticated.LAPSED
            raise unauthenticated(self.service, late, **times)
        if date > now + SKEW:
            raise unauthenticated(self.service, Unauthenticated.EARLY, **times)

    def _verify_body(self, signed: dict[str, str], body: bytes) -> None:
        """Compare the body with its signed hash, which stands for it in the signature."""
        claimed = signed.get("x-amz-content-sha256")
        # S3 alone takes bodies that are not signed. Of one in signed chunks only the head's signature is verified.
        if claimed is None or (self.service == "s3" and claimed.startswith(("STREAMING-", UNSIGNED_PAYLOAD))):
            return
        if not hmac.compare_digest(claimed.encode(), sha256(body).hexdigest().encode()):
            raise self._refusal(Unauthenticated.ANOTHER_BODY)

    def _refusal(self, why: Unauthenticated) -> Refusal:
        return unauthenticated(self.service, why)


class _Signer(SigV4Auth):
    """botocore's, which signs the headers and the hash of the body that a request came with."""

    def headers_to_sign(self, request: Any) -> Any:
        return request.headers  # only those, and all of them: botocore itself leaves some out

    def payload(self, request: Any) -> str:
        return str(request.context["payload"])


class _S3Signer(S3SigV4Auth, _Signer):
    """The same for S3, whose paths are signed as they are."""


def _signature(presented: Presented, environ: WSGIEnvironment, signed: dict[str, str], body: bytes, secret: str) -> str:
    """Sign the request anew, as botocore does."""
    query = "&".join(f"{name}={value}" for name, value in _encoded_query(environ) if name != "X-Amz-Signature")
    request: Any = AWSRequest(
        method=environ["REQUEST_METHOD"], url=f"http://host{_target(environ)[0]}?{query}", headers=signed
    )
    request.context["timestamp"] = presented.timestamp
    s3 = presented.service == "s3"
    # What a presigned URL of S3 is used with, whoever presigned it did not know.
    unsigned = s3 and presented.presigned
    request.context["payload"] = UNSIGNED_PAYLOAD if unsigned else sha256(body).hexdigest()
    signer = (_S3Signer if s3 else _Signer)(
        Credentials(presented.access_key_id, secret), presented.service, presented.region
    )
    return str(signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request))


def _target(environ: WSGIEnvironment) -> tuple[str, str]:
    """Give the path and the query as they were sent, which WSGI's own variables do not."""
    uri = str(environ["RAW_URI"])
    if not uri.startswith("/"):
        uri = urlunsplit(("", "", *urlsplit(uri)[2:4], ""))
    path, _, query = uri.partition("?")
    return path, query


def _encoded_query(environ: WSGIEnvironment) -> list[tuple[str, str]]:
    """Give the query's pairs, each encoded as a signature has it, however the client has sent it."""
    pairs = (pair.partition("=")[::2] for pair in _target(environ)[1].split("&") if pair)
    return [(quote(unquote(name), safe="-_.~"), quote(unquote(value), safe="-_.~")) for name, value in pairs]


def _headers(environ: WSGIEnvironment) -> dict[str, str]:
    """Give a request's headers by their names in lower case."""
    original = environ.get(PRESERVED_HEADER_NAMES_ENVIRON_KEY, {})
    found = {
        original.get(key, key[5:].replace("_", "-")).lower(): str(value)
        for key, value in environ.items()
        if key.startswith("HTTP_")
    }
    return found | {
        name: str(environ[key])
        for name, key in (("content-type", "CONTENT_TYPE"), ("content-length", "CONTENT_LENGTH"))
        if key in environ
    }
