#!/bin/sh
# The first process of a container engine's namespaces (network, mounts, processes, control groups): gives the engine
# a loopback and control groups of its own, then runs it, so that all its containers, mounts and rules end with it.
# Arguments: the command of the engine. BIND: lines "from to" of folders to bind before.
set -eu

ip link set lo up
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    umount /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir /sys/fs/cgroup/engine
    echo $$ >/sys/fs/cgroup/engine/cgroup.procs
    sed 's/\([a-z]*\) */+\1 /g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
else
    # Mounted anew, the hierarchies begin at this namespace's own groups.
    mounts=$(cat /proc/self/mounts)
    echo "$mounts" | while read -r _ place kind options _; do
        [ "$kind" = cgroup ] || continue
        controllers=$(echo "$options" | tr , '\n' | grep -vE '^(rw|ro|relatime|nosuid|nodev|noexec)$' | paste -sd, -)
        umount "$place"
        mount -t cgroup -o "$controllers" cgroup "$place"
    done
fi
if [ -n "$BIND" ]; then
    echo "$BIND" | while read -r from to; do
        mkdir -p "$to"
        mount --bind "$from" "$to"
    done
fi
unset BIND
"$@" &
# As the first process it reaps what loses its parent.
while kill -0 $! 2>/dev/null; do wait; done
