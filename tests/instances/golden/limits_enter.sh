# Run a command within the limits of an instance: enter COMMAND [ARGUMENT…]
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

gone() {
  echo "gridcloud: instance $id is gone" >&2
  exit 126
}
[ -d "$directory" ] || gone

pid=$$
adopt=
if [ "${1-}" = --adopt ]; then adopt=yes; pid=$2; fi

cpu_held= memory_held=
join() {
  if [ -f "$groups/cgroup.controllers" ]; then
    put "$groups/gridcloud/$id/cgroup.procs" "$pid" || grep -qs "::/gridcloud/$id\$" "/proc/$pid/cgroup" || return 1
    ! [ -e "$groups/gridcloud/$id/cpu.max" ] || cpu_held=yes
    ! [ -e "$groups/gridcloud/$id/memory.max" ] || memory_held=yes
  else
    for controller in pids cpu memory; do
      put "$groups/$controller/gridcloud/$id/cgroup.procs" "$pid" || continue
      case $controller in cpu) cpu_held=yes ;; memory) memory_held=yes ;; esac
    done
  fi
} 2>/dev/null

join
if [ -z "$memory_held" ] && [ "$(id -u)" = 0 ]; then make; join; fi

# It may have ended meanwhile: then nothing of it may come back.
if ! [ -d "$directory" ]; then
  for top in "$groups" "$groups"/cpu "$groups"/memory "$groups"/pids; do
    [ -d "$top/gridcloud/$id" ] || continue
    put "$top/cgroup.procs" "$pid"
    rmdir "$top/gridcloud/$id" 2>/dev/null
  done
  gone
fi

# Which cores: as many as were asked for, of those allowed, starting where the id says, so that instances spread.
pick_cores() {
  allowed=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null)
  list= count=0
  for range in $(echo "$allowed" | tr , ' '); do
    core=${range%-*}
    while [ "$core" -le "${range#*-}" ]; do list="$list $core"; core=$((core + 1)); count=$((count + 1)); done
  done
  [ "$cores" -lt "$count" ] || return 0
  start=$(($(echo "$id" | cksum | cut -d' ' -f1) % count))
  picked= position=0 taken=0
  for core in $list $list; do
    if [ "$position" -ge "$start" ] && [ "$taken" -lt "$cores" ]; then
      picked="$picked,$core"; taken=$((taken + 1))
    fi
    position=$((position + 1))
  done
  echo "${picked#,}"
}

picked=
[ -n "$cpu_held" ] || picked=$(pick_cores)
visible=no
if [ -n "$gpus" ] || [ -e /dev/nvidiactl ]; then visible=yes; fi

if [ -n "$adopt" ]; then
  echo "export GRIDCLOUD_INSTANCE=$id"
  echo "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cores}"
  [ "$visible" = no ] || echo "export CUDA_VISIBLE_DEVICES=$gpus"
  [ -n "$memory_held" ] || echo "data $memory"
  [ -z "$picked" ] || echo "cores $picked"
  [ -n "$cpu_held" ] || echo "nice 5"
  exit 0
fi

export GRIDCLOUD_INSTANCE="$id" OMP_NUM_THREADS="${OMP_NUM_THREADS:-$cores}"
[ "$visible" = no ] || export CUDA_VISIBLE_DEVICES="$gpus"
[ -n "$memory_held" ] || ulimit -d $((memory / 1024)) 2>/dev/null
[ -z "$picked" ] || taskset -cp "$picked" $$ >/dev/null 2>&1
# renice sets a priority, which may be above that of who asks; nice adds to it.
[ -n "$cpu_held" ] || ! command -v nice >/dev/null || set -- nice -n 5 "$@"
# Once more at the last moment: from its exec on it carries the name by which it is found and ended.
[ -d "$directory" ] || gone
exec "$@"
