#!/bin/sh
# The first process of a Slurm's namespaces (processes, mounts): munge, the controller, and a daemon for each node named
# as argument after the folder of its files, so that all of them and every job end with it.
set -eu

folder=$1
shift
munged --foreground --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" &
while [ ! -S "$folder/munge/socket" ]; do sleep 0.02; done
slurmctld -D -i -f "$folder/slurm.conf" &
for node in "$@"; do
    slurmd -D -N "$node" -f "$folder/slurm.conf" &
done
# As the first process it reaps what loses its parent.
while kill -0 $! 2>/dev/null; do wait; done
