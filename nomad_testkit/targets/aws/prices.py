"""A small table of what EC2 costs, for where the price list itself may not be asked."""

from __future__ import annotations

TAKEN_ON = "2025-01-01"
REGION = "us-east-1"

ELSEWHERE = 2.0
"""No region's prices are more than this many times those of us-east-1 (the dearest is São Paulo)."""

HOURS_A_MONTH = 730
"""As AWS counts, where something is paid by the month."""

PUBLIC_ADDRESS = 0.005
"""US dollars an hour for a public IPv4 address, in every region (https://aws.amazon.com/vpc/pricing/)."""

_SIZES: dict[str, float] = {"nano": 0.25, "micro": 0.5, "small": 1, "medium": 2, "large": 4, "xlarge": 8, "2xlarge": 16}
_SMALL: dict[str, float] = {"t2": 0.0232, "t3": 0.0208, "t3a": 0.0188, "t4g": 0.0168}
"""Of each family the price of the size small: those of the others follow from it."""
_LARGE: dict[str, float] = {
    "m5": 0.096,
    "m5a": 0.086,
    "m6a": 0.0864,
    "m6g": 0.077,
    "m6i": 0.096,
    "m7g": 0.0816,
    "m7i": 0.1008,
    "c5": 0.085,
    "c6a": 0.0765,
    "c6g": 0.068,
    "c6i": 0.085,
    "c7g": 0.0725,
    "r5": 0.126,
    "r6g": 0.1008,
    "r6i": 0.126,
}
"""Of each family the price of the size large."""

INSTANCES: dict[str, float] = {
    **{f"{family}.{size}": price * factor for family, price in _SMALL.items() for size, factor in _SIZES.items()},
    **{
        f"{family}.{size}": price * _SIZES[size] / _SIZES["large"]
        for family, price in _LARGE.items()
        for size in ("large", "xlarge", "2xlarge")
    },
}
"""US dollars an hour of Linux on demand in us-east-1 (https://aws.amazon.com/ec2/pricing/on-demand/)."""

VOLUMES: dict[str, float] = {
    "standard": 0.05,
    "gp2": 0.10,
    "gp3": 0.08,
    "io1": 0.125,
    "io2": 0.125,
    "st1": 0.045,
    "sc1": 0.015,
}
"""US dollars a month for a GiB in us-east-1 (https://aws.amazon.com/ebs/pricing/)."""
