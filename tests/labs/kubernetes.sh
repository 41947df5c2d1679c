#!/bin/sh
# The first process of a cluster's namespaces (network, mounts, processes, control groups): control plane, containerd
# and kubelet run below it, so that all its pods, mounts and routes end with it.
# Environment: FOLDER (the lab's own, with what `kubernetes.py` wrote), PROGRAMS (of build-kubernetes), ADDRESS (of this
# cluster, on the card "eth0"), POD_NETWORK. Waits for a line on standard input, which comes when the card is in place.
set -eu

read -r _
ip link set lo up
ip address add "$ADDRESS/30" dev eth0
ip link set eth0 up

# Programs with places of their own in the system keep them out of this computer's: the lab's folder alone stays.
mkdir -p "$FOLDER/all"
mount --bind "$FOLDER" /mnt
for place in /run /var/lib /var/log; do mount -t tmpfs -o mode=0755 lab "$place"; done
mkdir -p "$FOLDER"
mount --move /mnt "$FOLDER"

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    umount /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir /sys/fs/cgroup/cluster
    echo $$ >/sys/fs/cgroup/cluster/cgroup.procs
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

run() {  # NAME COMMAND…: in the background, with a log of its own
    name=$1
    shift
    "$@" </dev/null >"$FOLDER/$name.log" 2>&1 &
}

keys=$FOLDER/keys
run etcd etcd --data-dir "$FOLDER/etcd" --unsafe-no-fsync=true
run apiserver "$PROGRAMS/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 \
    --advertise-address="$ADDRESS" --secure-port=6443 --endpoint-reconciler-type=none \
    --tls-cert-file="$keys/server.crt" --tls-private-key-file="$keys/server.key" --client-ca-file="$keys/authority.crt" \
    --kubelet-client-certificate="$keys/client.crt" --kubelet-client-key="$keys/client.key" \
    --token-auth-file="$keys/tokens.csv" --authorization-mode=Node,RBAC --anonymous-auth=false \
    --kubelet-preferred-address-types=InternalIP \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$keys/accounts.pub" \
    --service-account-signing-key-file="$keys/accounts.key" --service-cluster-ip-range=10.43.0.0/24
run containerd containerd --config "$FOLDER/containerd.toml"
run controllers "$PROGRAMS/kube-controller-manager" --kubeconfig="$FOLDER/admin.kubeconfig" --leader-elect=false \
    --service-account-private-key-file="$keys/accounts.key" --use-service-account-credentials=true \
    --root-ca-file="$keys/authority.crt" --bind-address=127.0.0.1 --port=0 --cert-dir="$FOLDER/controllers"
run scheduler "$PROGRAMS/kube-scheduler" --kubeconfig="$FOLDER/admin.kubeconfig" --leader-elect=false \
    --bind-address=127.0.0.1 --port=0 --cert-dir="$FOLDER/scheduler"
run kubelet "$PROGRAMS/kubelet" --config="$FOLDER/kubelet.yaml" --kubeconfig="$FOLDER/admin.kubeconfig" \
    --container-runtime=remote --container-runtime-endpoint="unix://$FOLDER/containerd.sock" \
    --image-service-endpoint="unix://$FOLDER/containerd.sock" --hostname-override=node --node-ip="$ADDRESS" \
    --root-dir="$FOLDER/kubelet" --cert-dir="$FOLDER/kubelet-keys" --node-labels=gridcloud.io/lab=real

# As the first process it reaps what loses its parent.
while :; do wait || :; sleep 1; done
