"""What a deployment on AWS is going to cost: hosts, their disks and public addresses, by the hour."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nomad_testkit.errors import UsageError
from nomad_testkit.targets.aws import prices
from nomad_testkit.targets.aws.errors import AWS_ERRORS, describe_error
from nomad_testkit.targets.base import LaunchRequest

PRICE_LIST_REGION = "us-east-1"
"""The price list of all regions is asked here (https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html)."""
LEFT_OUT = "without traffic, I/O, CPU credits and taxes"


@dataclass(frozen=True, slots=True)
class Price:
    """What an hour of one instance costs, in US dollars."""

    dollars: float
    source: str
    at_most: bool = False
    """Whether it is only known that it is not dearer."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What all hosts of a deployment cost together."""

    hourly: float
    """In US dollars."""
    lines: tuple[str, ...]
    """Instances x type x price, a line for each group."""
    sources: tuple[str, ...]
    at_most: bool
    unknown: tuple[str, ...]
    """Of which instance types no price is known; they are not in the sum."""

    def during(self, seconds: float) -> float:
        """Tell what they cost in so many seconds."""
        return self.hourly * seconds / 3600

    def summary(self, seconds: float) -> str:
        """Tell it in one line, by the hour and for a time limit.

        >>> Estimate(0.05, ("2 x t3.micro",), ("a table",), False, ()).summary(7200).partition(" (")[0]
        'estimated cost: 2 x t3.micro: 0.05 USD an hour, 0.10 USD in 2 h'
        """
        most = "at most " if self.at_most else ""
        sums = f"{most}{self.hourly:.2f} USD an hour, {most}{self.during(seconds):.2f} USD in {_span(seconds)}"
        unknown = f"; of {', '.join(self.unknown)} no price is known" if self.unknown else ""
        return f"estimated cost: {', '.join(self.lines)}: {sums}{unknown} ({'; '.join(self.sources)}; {LEFT_OUT})"


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h" if seconds >= 1800 else f"{seconds / 60:.3g} min"


def estimate(launches: Sequence[LaunchRequest], price: Callable[[str, str], Price | None], *, region: str) -> Estimate:
    """Add up what hosts, their disks and public addresses cost; `price` tells an hour of a type and a tenancy.

    Of spot instances it is the most that they may cost.
    """
    hourly, lines, sources, unknown, at_most = 0.0, [], [], [], False
    factor = 1.0 if region == prices.REGION else prices.ELSEWHERE
    for launch in (one for one in launches if one.count):
        if launch.spot_price:
            found: Price | None = Price(launch.spot_price, "the spot price that the example bids", at_most=True)
        else:
            found = price(launch.instance_type, launch.tenancy)
        what = f"{launch.count} x {launch.instance_type} ({launch.group})"
        if found is None:
            unknown.append(launch.instance_type)
            lines.append(what)
        else:
            hourly += launch.count * found.dollars
            lines.append(f"{what} x {found.dollars:.4f}")
            sources.append(found.source)
            at_most = at_most or found.at_most
        month = sum(size * prices.VOLUMES.get(kind, max(prices.VOLUMES.values())) for kind, size in launch.volumes)
        hourly += launch.count * (factor * month / prices.HOURS_A_MONTH + prices.PUBLIC_ADDRESS * launch.public_address)
        at_most = at_most or (factor > 1 and bool(launch.volumes))
    return Estimate(
        hourly,
        tuple(lines),
        tuple(dict.fromkeys(sources)) or ("no price",),
        at_most,
        tuple(dict.fromkeys(unknown)),
    )


def refuse_above(budget: float | None, found: Estimate, seconds: float, *, source: str, time_source: str) -> None:
    """Refuse a deployment that is dearer than a budget, or of which nobody knows. Raises UsageError."""
    if budget is None:
        return
    if found.unknown:
        raise UsageError(
            f"{source}: no price of {', '.join(found.unknown)} is known, so the budget of {budget:.2f} USD cannot be "
            "held; expected an instance type that the price list has (allow pricing:GetProducts), or no budget"
        )
    cost = found.during(seconds)
    if cost > budget:
        raise UsageError(
            f"{source}: found a budget of {budget:.2f} USD, but the estimate is {cost:.2f} USD for {seconds:g} s "
            f"({time_source}); expected {_up(cost):.2f} or more, fewer or smaller hosts, or at most "
            f"{seconds * budget / cost:.0f} s (--nomad-aws-max-time). {found.summary(seconds)}"
        )


def _up(dollars: float) -> float:
    return (int(dollars * 100) + 1) / 100


class Prices:
    """What an hour of an instance type costs in a region: by the price list, else by the table of the package."""

    def __init__(self, client: Callable[[str, str], Any], region: str, remark: Callable[[str], None]) -> None:
        self._client, self._region, self._remark = client, region, remark
        self._refused = False
        self._known: dict[tuple[str, str], Price | None] = {}

    def __call__(self, instance_type: str, tenancy: str) -> Price | None:
        """Tell the price; None where nobody knows."""
        key = (instance_type, tenancy)
        if key not in self._known:
            self._known[key] = self._listed(*key) or from_table(instance_type, tenancy, self._region)
        return self._known[key]

    def _listed(self, instance_type: str, tenancy: str) -> Price | None:
        if self._refused:
            return None
        try:
            answer = self._client("pricing", PRICE_LIST_REGION).get_products(
                ServiceCode="AmazonEC2", Filters=_filters(instance_type, tenancy, self._region)
            )
            found = [_dollars(json.loads(product)) for product in answer["PriceList"]]
        except AWS_ERRORS as error:
            self._refused = True
            self._remark(f"the price list could not be asked, so a table stands in for it ({describe_error(error)})")
            return None
        prices = [one for one in found if one]
        return Price(max(prices), f"AWS's price list of {self._region}") if prices else None


def _filters(instance_type: str, tenancy: str, region: str) -> list[dict[str, str]]:
    wanted = {
        "instanceType": instance_type,
        "regionCode": region,
        "operatingSystem": "Linux",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
        "tenancy": {"dedicated": "Dedicated", "host": "Host"}.get(tenancy, "Shared"),
    }
    return [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]


def _dollars(product: dict[str, Any]) -> float:
    """Read the price of an hour out of one product of the price list; 0 where it has none."""
    terms = product.get("terms", {}).get("OnDemand", {}).values()
    dimensions = [one for term in terms for one in term.get("priceDimensions", {}).values()]
    hours = [float(one["pricePerUnit"].get("USD", 0)) for one in dimensions if one.get("unit") == "Hrs"]
    return max(hours, default=0.0)


def from_table(instance_type: str, tenancy: str, region: str) -> Price | None:
    """Look an instance type up in the package's table.

    >>> from_table("t3.micro", "default", "us-east-1").dollars
    0.0104
    """
    dollars = prices.INSTANCES.get(instance_type)
    if dollars is None or tenancy not in ("", "default"):
        return None
    source = f"nomad_testkit's table of {prices.REGION}, {prices.TAKEN_ON}"
    if region == prices.REGION:
        return Price(dollars, source)
    return Price(dollars * prices.ELSEWHERE, f"{prices.ELSEWHERE:g} times {source}", at_most=True)
