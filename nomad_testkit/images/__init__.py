"""How programs and disks come to be: agents, the base image, Packer, and the cache that keeps them."""
