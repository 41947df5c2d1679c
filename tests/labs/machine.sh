#!/bin/sh
# The first process of a test machine: makes its disk, network and devices, then becomes sshd.
# Runs in namespaces of its own. Environment: ROOT_FILESYSTEM, SEED (a tar of files to add), SCRATCH (an empty folder),
# DISK (size of the writable layer), NAME, ADDRESS (with prefix length).
# Waits for a line on standard input, which comes when the network card is in place.
set -eu

read -r _

mount -t tmpfs -o "size=$DISK,mode=0755" disk "$SCRATCH"
mkdir "$SCRATCH/upper" "$SCRATCH/work" "$SCRATCH/root"
root=$SCRATCH/root
mount -t overlay -o "lowerdir=$ROOT_FILESYSTEM,upperdir=$SCRATCH/upper,workdir=$SCRATCH/work" machine "$root"
tar -C "$root" -x --numeric-owner --same-owner --same-permissions -f "$SEED"

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
for controller in memory cpu pids freezer; do  # what a machine's own resource limits are set with
    [ -d "/sys/fs/cgroup/$controller" ] || continue
    mountpoint -q "$root/sys/fs/cgroup" || mount -t tmpfs -o mode=0755,size=64k cgroup "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/$controller"
    mount -t cgroup -o "$controller" cgroup "$root/sys/fs/cgroup/$controller"
done
[ ! -e /sys/fs/cgroup/cgroup.controllers ] || mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"

mount -t tmpfs -o mode=0755,size=64k dev "$root/dev"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,size=256m shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
mount -t tmpfs -o mode=0755,size=64m run "$root/run"
mkdir "$root/run/sshd" "$root/run/lock"

hostname "$NAME"
ip link set lo up
ip address add "$ADDRESS" dev eth0
ip link set eth0 up

cd "$root"
pivot_root . .
umount -l .
[ ! -f /etc/first-boot ] || sh /etc/first-boot
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /usr/sbin/sshd -D -e
