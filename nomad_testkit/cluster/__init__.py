"""A deployed cluster and what it is made of: hosts, SSH, the agents' APIs, jobs."""
