"""An EC2 on one Linux machine: moto speaks the API, every instance is a host booted by systemd-nspawn.

It knows nothing of Nomad, Consul or pytest. `handle.EmbeddedEc2` is the way in; the process behind it lives in pid,
mount and network namespaces of its own ("the cloud"), so that the kernel removes everything when it ends.
"""
