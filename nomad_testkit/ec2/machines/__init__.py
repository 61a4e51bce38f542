"""The machines behind the instances: disks, boot, cgroups, end."""
