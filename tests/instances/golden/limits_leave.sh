# End every process of an instance and remove its control groups.
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
