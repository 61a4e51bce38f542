#!/bin/sh
# Run by mmdebstrap with the new root as its argument: makes an image of what debootstrap leaves.
set -eu
root=$1
here=$(dirname "$0")

cp -r "$here/tree/." "$root/"
chroot "$root" useradd --create-home --shell /bin/bash --groups adm,sudo admin
chroot "$root" systemctl --quiet enable ssh.service ssh-host-keys.service cgroup-v1-writable.service

# What a host in a container has no use for.
chroot "$root" systemctl --quiet mask \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer getty@tty1.service console-getty.service systemd-pstore.service cloud-init-hotplugd.socket \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service

# Compiled once here, not in each boot of each host.
chroot "$root" python3 -m compileall -q /usr/lib/python3 /usr/lib/python3.11 || true

# Identities belong to a host, not to an image.
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname"
: > "$root/etc/machine-id"
rm -rf "$root"/var/lib/dbus/machine-id "$root"/var/lib/cloud "$root"/var/log/* "$root"/var/lib/apt/lists/* \
    "$root"/var/cache/apt/* "$root"/tmp/* "$root"/run/*
