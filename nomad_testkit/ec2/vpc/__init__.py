"""The cloud's network: addresses, security groups, names and certificates."""
