"""What a cluster is made of: the scripts that run on its hosts, and the cloud resources as plan steps."""
