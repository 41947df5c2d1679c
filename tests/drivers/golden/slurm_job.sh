#!/bin/sh
# An instance of gridcloud: when this job ends, it ends.
umask 077
export A=1
export B='it'"'"'s $HOME'
module load python
exec '/opt/grid cloud/bin/gridcloud' agent bootstrap https://hub.example.org:8443 --token-file /home/ada/.gridcloud/slurm/here/cluster/instances/i-one/token --state /home/ada/.gridcloud/slurm/here/cluster/instances/i-one/state --home /home/ada --ca /home/ada/.gridcloud/slurm/here/cluster/instances/i-one/ca.pem --proxy http://proxy:3128
