#!/bin/sh
# Make the disk of a machine from the archive of an image that has a kernel, as root:
#
#   machine.sh ARCHIVE.tar TARGET_FOLDER [SIZE]
#
# TARGET_FOLDER gets disk.qcow2, vmlinuz and initrd; the disk has no boot loader. It grows to the size that it is given.
set -eu

archive=$1
target=$2
size=${3:-8G}
[ "$(id -u)" = 0 ] || { echo "making a disk needs root, for the owners of its files" >&2; exit 1; }
tree=$target/root
mkdir -p "$tree"
trap 'rm -rf "$tree" "$target/disk.raw"' EXIT
trap 'exit 130' INT TERM
tar --numeric-owner --xattrs -C "$tree" -xf "$archive"

echo LABEL=root / ext4 noatime,x-systemd.growfs 0 1 >"$tree/etc/fstab"
echo machine >"$tree/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 machine\n' >"$tree/etc/hosts"
# The only source of configuration there is, and only the modules that gridcloud makes use of.
cat >"$tree/etc/cloud/cloud.cfg.d/90_gridcloud.cfg" <<'END'
datasource_list: [NoCloud]
cloud_init_modules: [write-files, set_hostname, users-groups, ssh]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-user]
END
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer getty@tty1.service systemd-networkd-wait-online.service systemd-pstore.service ssh.socket; do
    ln -sf /dev/null "$tree/etc/systemd/system/$unit"
done
chroot "$tree" systemctl --quiet enable systemd-networkd systemd-resolved ssh
session=/opt/gridcloud-session
for name in jupyter jupyter-lab jupyter-server jupyterhub-singleuser; do
    ln -sf "$session/bin/$name" "$tree/usr/local/bin/$name"
done
path=$session/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
echo "PATH=$path" >"$tree/etc/environment"
echo "Defaults secure_path=$path" >"$tree/etc/sudoers.d/gridcloud-session"
chmod 0440 "$tree/etc/sudoers.d/gridcloud-session"
chroot "$tree" usermod --password '*' root
rm -f "$tree"/etc/ssh/ssh_host_* "$tree/etc/resolv.conf"
ln -s ../run/systemd/resolve/stub-resolv.conf "$tree/etc/resolv.conf"
: >"$tree/etc/machine-id"

cp -L "$tree/vmlinuz" "$target/vmlinuz"
cp -L "$tree/initrd.img" "$target/initrd"
chmod 644 "$target/vmlinuz" "$target/initrd"
mkfs.ext4 -q -L root -O '^metadata_csum_seed' -m 0 -d "$tree" "$target/disk.raw" "$size"
qemu-img convert -O qcow2 "$target/disk.raw" "$target/disk.qcow2"
