"""Measure what the kit does: `deploy` times whole deployments, `floor` the same agents without hosts around them."""
