#!/bin/sh
# Run by mmdebstrap with the new root as its argument: makes an image of what debootstrap leaves.
set -eu
umask 022
root=$1
here=$(dirname "$0")
units="$root/etc/systemd/system"

# Modes do not survive every way that this package is installed.
cp -r --no-preserve=mode,ownership "$here/tree/." "$root/"
chmod 755 "$root"/usr/lib/embedded-ec2/*

in_root() { chroot "$root" "$@"; }

in_root useradd --create-home --shell /bin/bash --groups adm,sudo admin
in_root systemctl --quiet enable ssh.service ssh-host-keys.service cgroup-v1-writable.service

# The generator would run ds-identify, in every boot, to find out that this is EC2.
mkdir -p "$root/etc/systemd/system-generators" "$units/multi-user.target.wants"
ln -s /lib/systemd/system/cloud-init.target "$units/multi-user.target.wants/"

# What a host in a container has no use for.
for generator in cloud-init-generator systemd-cryptsetup-generator systemd-debug-generator systemd-getty-generator \
    systemd-gpt-auto-generator systemd-hibernate-resume-generator systemd-integritysetup-generator \
    systemd-run-generator systemd-system-update-generator systemd-veritysetup-generator; do
    ln -s /dev/null "$root/etc/systemd/system-generators/$generator"
done
in_root systemctl --quiet mask \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer getty@tty1.service getty-static.service console-getty.service systemd-pstore.service \
    cloud-init-hotplugd.socket systemd-update-utmp.service systemd-update-utmp-runlevel.service \
    modprobe@.service systemd-modules-load.service kmod-static-nodes.service systemd-tmpfiles-setup-dev.service \
    systemd-remount-fs.service dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-kernel-config.mount sys-fs-fuse-connections.mount systemd-ask-password-console.path \
    systemd-ask-password-wall.path systemd-firstboot.service
# Users are made when packages are installed, and nothing in /etc or /var waits to be updated at the first boot.
in_root systemctl --quiet mask systemd-sysusers.service
# There for who wants Consul's names resolved; as in Debian's own images, nothing stands between a host and its VPC's DNS.
in_root systemctl --quiet disable dnsmasq.service systemd-resolved.service
rm -f "$root/etc/resolv.conf"
# Started by the first program that talks to them, not by each boot.
for service in dbus.service systemd-logind.service; do
    ln -s /dev/null "$units/multi-user.target.wants/$service"
done

# Identities belong to a host, not to an image.
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname"
: > "$root/etc/machine-id"
rm -rf "$root"/var/lib/dbus/machine-id "$root"/var/lib/cloud "$root"/var/log/* "$root"/var/lib/apt/lists/* \
    "$root"/var/cache/apt/* "$root"/tmp/* "$root"/run/*
