"""An account on AWS as a target: looked at before anything is created, and by no accident the wrong one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from nomad_testkit.errors import DeployError, PreflightError, UsageError
from nomad_testkit.modules.network import Network
from nomad_testkit.targets.aws import cost, permissions, quotas
from nomad_testkit.targets.aws.account import AwsSession, Identity
from nomad_testkit.targets.aws.errors import AWS_ERRORS, describe_error, is_not_found
from nomad_testkit.targets.aws.network import chosen_network, describe_network, source_blocks
from nomad_testkit.targets.base import console_output

if TYPE_CHECKING:
    from nomad_testkit.events import Progress
    from nomad_testkit.examples.example import Example
    from nomad_testkit.modules.network import Instance
    from nomad_testkit.settings import Settings
    from nomad_testkit.targets.base import LaunchRequest

ACCOUNT_OPTION = "--nomad-aws-account"
TEARDOWN_SECONDS = 600.0
"""AWS ends an instance in a minute or two, and its network interface after that."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What one session has chosen, so that its other processes use the account in the same way; nothing is secret."""

    account: str
    region: str
    endpoint_url: str | None
    vpc: str | None
    inbound_cidrs: tuple[str, ...]
    ami: str | None
    budget: float | None
    max_time: float
    sources: Mapping[str, str]
    """Where the choices came from, for messages."""


class AwsTarget:
    """One region of one account, which the user has named."""

    name: ClassVar[str] = "aws"

    def __init__(self, session: AwsSession, choices: Choices) -> None:
        self._session, self._choices = session, choices

    @classmethod
    @contextmanager
    def open(cls, settings: Settings, *, progress: Progress) -> Iterator[AwsTarget]:
        """Look at the account that the credentials are of, and give it if it is the one that the settings name.

        Raises UsageError for what the user has to change: the credentials, the account, region, VPC or source address;
        PreflightError for what the account does not allow; and DeployError where it does not let itself be asked.
        """
        region = settings.region if settings.source("region") != "default" else None
        session = AwsSession(region, endpoint_url=settings.aws_endpoint_url)
        identity = session.identity()
        refuse_another_account(identity, settings)
        target = cls(session, _choices(settings, session, identity))
        try:
            target._look(identity, progress, settings)
        except AWS_ERRORS as error:
            raise DeployError(
                f"account {identity.account} could not be asked in {session.region}: {describe_error(error)}"
            ) from error
        yield target

    @classmethod
    @contextmanager
    def attach(cls, description: Mapping[str, Any]) -> Iterator[AwsTarget]:
        """Use the account that another process has looked at, by this process's own credentials.

        Raises UsageError where these are of another account.
        """
        facts = {**description, "inbound_cidrs": tuple(description["inbound_cidrs"])}
        del facts["name"]
        choices = Choices(**facts)
        session = AwsSession(choices.region, endpoint_url=choices.endpoint_url)
        identity = session.identity()
        if identity.account != choices.account:
            raise UsageError(
                f"these AWS credentials are of the account {identity.account} ({identity.arn}); what is to be used is "
                f"in {choices.account}: name a profile of that (AWS_PROFILE)"
            )
        yield cls(session, choices)

    def _look(self, identity: Identity, progress: Progress, settings: Settings) -> None:
        """See that everything is there and allowed, and tell what was found. Raises UsageError and PreflightError."""
        network = self.network()

        def remark(line: str) -> None:
            progress(f"AWS preflight: {line}")

        remark(
            f"account {identity.account} in {self.region}, as {identity.arn} (credentials: "
            f"{self._session.credentials_source}){f' at {self.endpoint_url}' if self.endpoint_url else ''}"
        )
        remark(f"{describe_network(network)}; the hosts let in {', '.join(self.inbound_cidrs)}")
        missing = permissions.missing_permissions(
            self.client,
            identity,
            region=self.region,
            vpc_id=network.vpc_id,
            context=settings.aws_context,
            remark=remark,
        )
        if settings.aws_skip_permissions:
            for one in missing:
                remark(f"taken as no obstacle ({settings.source('aws_skip_permissions')}): {one}")
        elif missing:
            raise PreflightError(missing, where=f"{identity.arn} in account {identity.account}")
        if (left := self._session.credentials_seconds()) is not None and left < self.time_limit:
            remark(
                f"these credentials expire in {left:.0f} s, before a cluster's time is up ({self.time_limit:.0f} s, "
                "--nomad-aws-max-time): what is still up then could not be destroyed; log in anew, or give less time"
            )

    @property
    def region(self) -> str:
        """The region of the account."""
        return self._choices.region

    @property
    def endpoint_url(self) -> str | None:
        """What answers in AWS's place; None for AWS itself."""
        return self._choices.endpoint_url

    @property
    def credentials(self) -> None:
        """None: they are the user's."""

    @property
    def inbound_cidrs(self) -> tuple[str, ...]:
        """Who may reach the hosts: this machine, as AWS sees it."""
        return self._choices.inbound_cidrs

    @property
    def time_limit(self) -> float:
        """How long a cluster may live, in seconds."""
        return self._choices.max_time

    @property
    def teardown_seconds(self) -> float:
        """AWS takes its time to end an instance."""
        return TEARDOWN_SECONDS

    def client(self, service: str) -> Any:
        """Give the client of a service in the region."""
        return self._session.client(service)

    def network(self) -> Network:
        """Find the VPC that was named, or the default one, and a subnet in each of three zones. Raises UsageError."""
        return chosen_network(self.client("ec2"), self._choices.vpc, self.region, source=self._source("aws_vpc"))

    def image(self, example: Example) -> str:
        """Choose the AMI: the settings' own, else the example's. Raises UsageError if the region lacks it."""
        chosen = self._choices.ami or example.ami_id
        if not chosen:
            raise UsageError(
                f"{example.file} names no AMI (ami_id is empty), and AWS has none of its own: give one with Consul and "
                "Nomad on it (--nomad-ami AMI), or let a test use the fixture nomad_ami, for which Packer builds one"
            )
        if self._choices.ami and not self._images(chosen):
            raise UsageError(
                f"{self._source('ami')}: there is no AMI {chosen} in {self.region} for account "
                f"{self._choices.account}; expected one of this region (an AMI has another id in each), of the account "
                "itself or shared with it"
            )
        return chosen

    def _images(self, ami: str) -> Sequence[Any]:
        try:
            images: Sequence[Any] = self.client("ec2").describe_images(ImageIds=[ami])["Images"]
        except AWS_ERRORS as error:
            if not (is_not_found(error) or "InvalidAMIID" in describe_error(error)):
                raise
            return ()
        return images

    def check_capacity(self, launches: Sequence[LaunchRequest], *, progress: Progress) -> None:
        """Tell what hosts cost, hold them against the budget, and against what the account has room for.

        Raises UsageError and PreflightError, before anything is created.
        """

        def remark(line: str) -> None:
            progress(f"AWS preflight: {line}")

        prices = cost.Prices(self._session.client, self.region, remark)
        estimate = cost.estimate(launches, prices, region=self.region)
        remark(estimate.summary(self.time_limit))
        cost.refuse_above(
            self._choices.budget,
            estimate,
            self.time_limit,
            source=self._source("aws_budget"),
            time_source=self._source("aws_max_time"),
        )
        missing, lines = quotas.lacking_vcpus(self.client, launches, region=self.region, remark=remark)
        for line in lines:
            remark(line)
        missing += quotas.types_not_in_zones(self.client("ec2"), launches, remark=remark)
        missing += permissions.launch_refusals(self.client("ec2"), launches, remark)
        if missing:
            raise PreflightError(missing, where=f"account {self._choices.account} in {self.region}")

    def address(self, instance: Instance) -> str:
        """Tell where this machine reaches an instance: at its public address, or in a VPC without such at its own."""
        return instance.public_ip or instance.private_ip

    def console(self, instance: Instance) -> str:
        """Read what an instance's console shows."""
        return console_output(self.client("ec2"), instance.instance_id)

    def keep(self) -> None:
        """Do nothing: an account lives on by itself."""

    def end(self) -> None:
        """Do nothing: the account is not this one's to end."""

    def most_hosts(self) -> None:
        """Only the API knows, and `admit` asks it."""

    def lost(self) -> None:
        """Never: an account does not end by itself."""

    def describe(self) -> Mapping[str, Any]:
        """Tell what `attach` needs."""
        facts = asdict(self._choices)
        return {"name": self.name, **facts, "inbound_cidrs": list(self.inbound_cidrs)}

    def _source(self, name: str) -> str:
        return self._choices.sources.get(name, f"--nomad-{name.replace('_', '-')}")


def refuse_another_account(
    identity: Identity, settings: Settings, *, done: str = "created", purpose: str = "clusters may be deployed"
) -> None:
    """Refuse an account that the user has not named, so that nobody deploys into another by accident.

    Raises UsageError, which names the account that was found.
    """
    if settings.aws_account == identity.account:
        return
    found = f"these AWS credentials are of the account {identity.account} ({identity.arn})"
    if settings.aws_account is None:
        raise UsageError(
            f"{found}; nothing was {done}. If {purpose} there, say so: {ACCOUNT_OPTION} {identity.account}"
        )
    raise UsageError(
        f"{settings.source('aws_account')}: {found}, but may be used for {settings.aws_account} only; nothing was "
        f"{done}. Right are credentials of that account (AWS_PROFILE), or {ACCOUNT_OPTION} {identity.account}"
    )


def _choices(settings: Settings, session: AwsSession, identity: Identity) -> Choices:
    named = ("ami", "aws_vpc", "aws_budget", "aws_max_time")
    return Choices(
        account=identity.account,
        region=session.region,
        endpoint_url=session.endpoint_url,
        vpc=settings.aws_vpc,
        inbound_cidrs=source_blocks(
            settings.aws_source_cidr,
            allow_anywhere=settings.aws_allow_anywhere,
            endpoint_url=session.endpoint_url,
            source=settings.source("aws_source_cidr"),
        ),
        ami=settings.ami,
        budget=settings.aws_budget,
        max_time=settings.aws_max_time,
        sources={name: settings.source(name) for name in named if settings.source(name) != "default"},
    )
