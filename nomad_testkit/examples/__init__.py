"""Examples: folders that say which groups of hosts make a cluster."""
