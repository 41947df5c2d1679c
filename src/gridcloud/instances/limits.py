"""What keeps an instance on a shared machine within its share: shell text, and nothing but text, is made here.

Three POSIX sh scripts (dash, bash, busybox) per instance:

- *prepare*, once, by root where there is root: make the instance's control groups and let its account join them;
- *enter*, before every command of the instance: join the groups, set the environment, ``exec "$@"``;
- *leave*, at the end: kill every process of the instance and remove its groups.

What is guaranteed depends on the machine:

==================  ======================================  ============================================
limit               with control groups (v1 or v2)          without (not root, or groups not writable)
==================  ======================================  ============================================
memory              the instance as a whole; the kernel     each process: private memory it may map
                    kills what goes over; no swap           (RLIMIT_DATA); allocations over it fail
cpus                the instance as a whole, by quota       whole cores (taskset), lower priority
processes           the instance as a whole                 none
end of processes    all of them                             all that kept ``GRIDCLOUD_INSTANCE`` in their
                                                            environment, of the same account
==================  ======================================  ============================================

RLIMIT_AS is not used: threads, numpy and JavaScript engines reserve far more addresses than memory. GPUs are
given by ``CUDA_VISIBLE_DEVICES``, which programs heed but the kernel does not hold them to.

Groups are made at the top of the hierarchy, as container engines do, so that whoever enters finds them. On v2 only
root may move a process there from elsewhere: a connection that changes the user has root call ``enter --adopt PID``,
with root's own environment, before the process enters itself.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass

__all__ = ["Limits", "render_enter", "render_leave", "render_prepare"]

_PERIOD = 100_000
"""Microseconds over which a share of the processors is counted: the kernel's default."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The share of one instance. Raises ValueError for an id, account or GPU that cannot be a plain word."""

    instance_id: str
    directory: str
    """The instance's own folder, absolute; once it is gone nothing can enter any more."""
    cpus: float
    memory: int
    """Bytes."""
    processes: int = 4096
    """Processes and threads, at most."""
    gpus: tuple[str, ...] = ()
    """Indices or identifiers as nvidia-smi gives them."""
    user: str = ""
    """Account that enters, when that is not the one that prepares."""
    groups: str = "/sys/fs/cgroup"
    """Where control groups are mounted."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{2,40}", self.instance_id):
            raise ValueError(f"{self.instance_id!r} is not an instance id")
        if not self.directory.startswith("/") or "\0" in self.directory:
            raise ValueError(f"{self.directory!r} is not an absolute path")
        if self.user and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\$?", self.user):
            raise ValueError(f"{self.user!r} is not an account name")
        for gpu in self.gpus:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9/.-]{0,99}", gpu):
                raise ValueError(f"{gpu!r} is not a GPU index or identifier")
        if not (0 < self.cpus < math.inf) or self.memory <= 0 or self.processes <= 0:
            raise ValueError("cpus, memory and processes must be above zero")


def render_prepare(limits: Limits) -> str:
    """Return the script that makes the groups; root runs it once. Repeating it sets the same limits again.

    It ends with 0 whether or not groups can be made here: *enter* looks at what there is.
    """
    return f"# Make the control groups of an instance.\n{_variables(limits)}{_MAKE}make\nexit 0\n"


def render_enter(limits: Limits) -> str:
    """Return the script that takes its place within the limits and then becomes the command in its arguments.

    Called as ``enter --adopt PID`` it moves that process instead and prints, one a line, what the process
    must do itself: ``export NAME=VALUE``, ``data BYTES`` (RLIMIT_DATA), ``cores 0,1,…`` (affinity), ``nice N``.
    Ends with 126 and a sentence when the instance is gone.
    """
    return (
        f"# Run a command within the limits of an instance: enter COMMAND [ARGUMENT…]\n"
        f"{_variables(limits)}{_MAKE}{_ENTER}"
    )


def render_leave(limits: Limits) -> str:
    """Return the script that kills every process of the instance and removes its groups.

    Nothing there is success; ends with 1 when processes or groups are left. Must not run inside the instance.
    """
    return f"# End every process of an instance and remove its control groups.\n{_variables(limits)}{_LEAVE}"


def _variables(limits: Limits) -> str:
    values = {
        "id": limits.instance_id,
        "directory": limits.directory,
        "groups": limits.groups,
        "user": limits.user,
        "gpus": ",".join(limits.gpus),
        "memory": str(limits.memory),
        "period": str(_PERIOD),
        "quota": str(max(1000, round(limits.cpus * _PERIOD))),
        "cores": str(math.ceil(limits.cpus)),
        "processes": str(limits.processes),
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


# Each write stands alone: a kernel without swap accounting or without one controller keeps the other limits.
_MAKE = r"""
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
"""

_ENTER = r"""
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
"""

_LEAVE = r"""
put() { echo "$2" 2>/dev/null > "$1"; } 2>/dev/null

each_group() {
  for group in "$groups/gridcloud/$id" "$groups"/cpu/gridcloud/"$id" "$groups"/memory/gridcloud/"$id" \
      "$groups"/pids/gridcloud/"$id"; do
    [ ! -d "$group" ] || echo "$group"
  done
}

# Those in its groups, and those that carry its name; never this script itself.
members() {
  each_group | while read -r group; do
    find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null
  done
  grep -lszxF "GRIDCLOUD_INSTANCE=$id" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
}

living() {
  members | sort -u | while read -r pid; do
    [ "$pid" != $$ ] && [ "$pid" != "$PPID" ] || continue
    case $(sed -n 's/^State:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null) in ''|Z*|X*) continue ;; esac
    echo "$pid"
  done
}

# With no room for another process nothing can fork away from the kill.
each_group | while read -r group; do
  put "$group/pids.max" 0
  put "$group/cgroup.kill" 1
done

# Who was about to enter may be seen late: without groups it carries the name only from its exec on.
[ -n "$(each_group)" ] || sleep 0.1 2>/dev/null || sleep 1

tries=0
while :; do
  left=$(living)
  # Unquoted on purpose: one word per process.
  [ -z "$left" ] || kill -KILL $left 2>/dev/null
  each_group | while read -r group; do find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null; done
  remaining=$left
  [ "$(id -u)" != 0 ] || remaining=$left$(each_group)
  [ -n "$remaining" ] && [ $tries -lt 50 ] || break
  tries=$((tries + 1))
  sleep 0.05 2>/dev/null || sleep 1
done

if [ -n "$left" ]; then
  echo "gridcloud: processes of instance $id are left: $(echo $left)" >&2
  exit 1
fi
if [ -n "$(each_group)" ] && [ "$(id -u)" = 0 ]; then
  echo "gridcloud: control groups of instance $id are left: $(each_group | tr '\n' ' ')" >&2
  exit 1
fi
exit 0
"""
