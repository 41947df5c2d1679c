# Make the control groups of an instance.
id=ab-12
directory='/var/lib/it'"'"'s here/$(ab-12)'
groups=/sys/fs/cgroup
user=ada
gpus=0,GPU-5a
memory=4294967296
period=100000
quota=250000
cores=3
processes=1000

put() { echo "$2" 2>/dev/null > "$1"; } 2>/dev/null

make_v2() {
  [ -d "$groups/gridcloud/$id" ] && [ ! -w "$groups/gridcloud/$id/pids.max" ] && return
  for above in "$groups" "$groups/gridcloud"; do
    mkdir -p "$above" 2>/dev/null || return
    for controller in cpu memory pids; do put "$above/cgroup.subtree_control" "+$controller"; done
  done
  mkdir -p "$groups/gridcloud/$id" 2>/dev/null || return
  cd "$groups/gridcloud/$id" || return
  put cpu.max "$quota $period"
  put memory.max "$memory"
  put memory.swap.max 0
  put memory.oom.group 0
  put pids.max "$processes"
  [ -z "$user" ] || chown "$user" cgroup.procs 2>/dev/null
}

make_v1() {
  for controller in cpu memory pids; do
    [ -d "$groups/$controller" ] || continue
    mkdir -p "$groups/$controller/gridcloud/$id" 2>/dev/null || continue
    cd "$groups/$controller/gridcloud/$id" || continue
    case $controller in
      cpu) put cpu.cfs_period_us "$period"; put cpu.cfs_quota_us "$quota" ;;
      memory) put memory.limit_in_bytes "$memory"; put memory.memsw.limit_in_bytes "$memory" ;;
      pids) put pids.max "$processes" ;;
    esac
    [ -z "$user" ] || chown "$user" cgroup.procs tasks 2>/dev/null
  done
}

make() {
  if [ -f "$groups/cgroup.controllers" ]; then (make_v2); else (make_v1); fi
} 2>/dev/null
make
exit 0
