"""What instances may ask of AWS: the documents of their roles' policies."""

from __future__ import annotations

import json
from collections.abc import Mapping

EC2_TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }
)
"""Who may take the role: EC2, on behalf of an instance."""

CONSUL_AUTO_JOIN = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                # They describe, and AWS lets such actions be limited to no resource.
                "Action": ["ec2:DescribeInstances", "ec2:DescribeTags", "autoscaling:DescribeAutoScalingGroups"],
                "Resource": "*",
            }
        ],
    }
)
"""What Consul needs to find the agents to join, and run-consul to learn how many servers there will be."""

POLICIES: Mapping[str, str] = {"consul-iam-policies": CONSUL_AUTO_JOIN}
"""What a group of an example can add to its module, under the names of upstream's modules."""
