# What the `qemu` provider does on the host of its machines: sh -c TEXT gridcloud VERB DIRECTORY [NAME=VALUE…] [-- WORD…]
#
# Fixed text for any POSIX sh (dash, bash, busybox): all values come as words. Answers are lines `name value` on
# standard output; a refusal is a sentence on standard error and one of these exit codes:
#   70 no space   71 taken   73 locked for too long   75 it did not work this time   76 it never works so   77 it is gone
#
# DIRECTORY/lock                      held while reservations change
# DIRECTORY/images/SHA256             images that were fetched
# DIRECTORY/INSTALLATION/ID/spec      the reservation, one line (see `make`); written first, removed last
# DIRECTORY/INSTALLATION/ID/files/    what QEMU may see and change: the machine's disk and its seed
# DIRECTORY/INSTALLATION/ID/supervisor   the process that starts the machine and ends it at its expiry: pid, start
# DIRECTORY/INSTALLATION/ID/running   QEMU: pid, start, port
# DIRECTORY/INSTALLATION/ID/{progress,ended,expires,console,console.old,log}   what their names say

set -u
umask 077
export LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
FIRST_UID=1900000001 # in a range that neither accounts nor containers are given numbers from

say() { printf '%s\n' "$*"; }
refuse() { code=$1; shift; printf '%s\n' "$*" >&2; exit "$code"; }
has() { command -v "$1" >/dev/null 2>&1; }

# The start of a process in ticks since boot, which with its number names it for ever; nothing for one that is dead.
started() {
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
  set -- ${stat##*') '}
  case $1 in Z | X) return 0 ;; esac
  shift 19
  say "$1"
}

# FILE: whether the process that it names lives. Sets pid.
lives() {
  pid= start=
  { read -r pid start rest <"$1"; } 2>/dev/null
  [ -n "$start" ] && [ "$(started "$pid")" = "$start" ]
}

find_directory() {
  case $directory in
    '') if [ "$(id -u)" = 0 ]; then directory=/var/lib/gridcloud/machines; else directory=$HOME/.gridcloud/machines; fi ;;
    '~'/*) directory=$HOME/${directory#'~/'} ;;
  esac
}

# The kernel's start and that of the first process: a container's restart is a restart of the host too.
find_boot() {
  boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo unknown)-$(started 1)
}

at_home() { case $1 in '~'/*) say "$HOME/${1#'~/'}" ;; *) say "$1" ;; esac; }

# Bytes free in a folder that may not exist yet, and the size of its file system.
measure_disk() {
  spot=$1
  while [ ! -d "$spot" ]; do spot=$(dirname -- "$spot"); done
  df -Pk -- "$spot" | awk 'NR == 2 { printf "%.0f %.0f\n", $4 * 1024, $2 * 1024 }'
}

last_line() { grep -v '^[[:space:]]*$' "$@" 2>/dev/null | tail -n 1 | tr -cd '[:print:]' | cut -c 1-300; }

# The console's last line; that of a panic is worth more than what follows it.
console_line() {
  cat "$1/console.old" "$1/console" 2>/dev/null | tail -c 20000 | sed 's/\x1b\[[0-9;?]*[A-Za-z]//g' | tr -d '\r' |
    awk '/Kernel panic - not syncing/ { panic = $0 } NF { last = $0 } END { print (panic == "" ? last : panic) }' |
    tr -cd '[:print:]' | cut -c 1-300
}

probe() {
  say "user $(id -un)"
  say "uid $(id -u)"
  say "kernel $(uname -srm)"
  say "cpus $(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)"
  awk '/^MemTotal:/ { printf "memory %.0f\n", $2 * 1024 }' /proc/meminfo
  for file in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
    if [ -r "$file" ]; then say "memory_limit $(cat "$file")"; fi
  done
  for name in "$program" qemu-img flock setsid setpriv curl wget sha256sum; do
    if has "$name"; then say "program $name"; fi
  done
  if has "$program"; then say "version $("$program" --version 2>/dev/null | head -n 1)"; fi
  while [ "$count" -gt 0 ]; do
    file=$(at_home "$1")
    if [ -f "$file" ] && [ -r "$file" ]; then say "file yes $1"; else say "file no $1"; fi
    count=$((count - 1))
    shift
  done
  say "kvm $(try_kvm "$@")"
  for gpu in $(say "$gpus" | tr , ' '); do
    say "gpu $gpu $(basename -- "$(readlink "/sys/bus/pci/devices/$gpu/driver" 2>/dev/null || echo none)")"
  done
}

# Why KVM cannot be used, or yes. That the device opens proves nothing: a guest must run.
try_kvm() {
  if [ ! -e /dev/kvm ]; then say 'there is no /dev/kvm'; return; fi
  if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then say "$(id -un) may not use /dev/kvm"; return; fi
  if ! grep -qwE 'vmx|svm' /proc/cpuinfo; then say 'the processor shows neither vmx nor svm'; return; fi
  said=$(timeout 5 "$@" </dev/null 2>&1) && say yes || say "a trial of it failed: $(say "$said" | last_line)"
}

# One line per machine of every installation: installation, id, live or over, and the words of its spec.
each_reservation() {
  for place in "$directory"/*/*/spec; do
    [ -f "$place" ] || continue
    read -r words <"$place" || words=
    place=${place%/spec}
    state=live
    if [ -f "$place/ended" ]; then state=over; fi
    installation=${place%/*}
    say "${installation##*/} ${place##*/} $state $words"
  done
}

survey() {
  say "directory $directory"
  say "boot $boot"
  say "disk $(measure_disk "$directory")"
  each_reservation | sed 's/^/reservation /'
  for place in "$directory/$tag"/*/; do
    place=${place%/}
    [ -d "$place" ] || continue
    id=${place##*/}
    if [ ! -f "$place/spec" ]; then say "half $id"; continue; fi
    if lives "$place/supervisor"; then say "supervised $id"; fi
    if lives "$place/running"; then
      say "running $id $rest"
      case $(console_line "$place") in *'Kernel panic - not syncing'*) say "panic $id" ;; esac
    elif [ -f "$place/running" ]; then
      say "ran $id"
    fi
    for name in progress ended; do
      if [ -f "$place/$name" ]; then say "$name $id $(last_line "$place/$name")"; fi
    done
    say "console $id $(console_line "$place")"
  done
}

use_directory() {
  # What is above it may be shared with other providers, whose owners have to get through.
  (umask 022 && mkdir -p -- "$(dirname -- "$directory")") 2>/dev/null || :
  mkdir -p -- "$directory" && is_ours && chmod 711 "$directory" || refuse_directory 76
}

# Another user of the host may have been first where everybody may make folders: nothing below it is believed then.
is_ours() { [ -O "$directory" ] && [ ! -L "$directory" ]; }
check_directory() { if [ -e "$directory" ] || [ -L "$directory" ]; then is_ours || refuse_directory 75; fi; }
refuse_directory() { refuse "$1" "the folder $directory cannot be used: it must belong to $(id -un) and be writable"; }

# What becomes the name of a folder, and is removed with all that is below it.
check_name() { case $1 in '' | .* | *[!A-Za-z0-9._-]*) refuse 76 "'$1' is no name of a machine" ;; esac; }

# Only one at a time changes what is reserved, whichever process or installation it serves.
lock() {
  { exec 9>"$directory/lock"; } 2>/dev/null || refuse 76 "$directory/lock cannot be written"
  flock -w 20 9 || refuse 73 "another program holds $directory/lock"
}

# tag id cpus memory gpus (how many) need (bytes of disk) seconds bytes (of the seed, on standard input), what there is
# to give: all_cpus all_memory all_machines all_gpus; how to start it: see `supervise`. After --, the words for QEMU.
make() {
  use_directory
  lock
  place=$directory/$tag/$id
  if [ -f "$place/spec" ]; then
    read -r words <"$place/spec"
    case $words in *" $boot "*) if [ -f "$place/supervisor" ]; then exec 9>&-; tell; return; fi ;; esac
    # Nobody supervises it, and we hold the lock: whoever was making it is dead, or the host has started anew.
    rm -rf -- "$place"
  fi
  set -- "$(measure_disk "$directory")" "$@"
  [ "${1%% *}" -ge $((need + 268435456)) ] || refuse 70 "$((${1%% *} / 1048576)) MiB of disk are free in $directory"
  shift
  chosen=$(each_reservation | awk -v cpus="$cpus" -v memory="$memory" -v gpus="$gpus" -v boot="$boot" \
    -v all_cpus="$all_cpus" -v all_memory="$all_memory" -v all_machines="$all_machines" -v all_gpus="$all_gpus" \
    -v uid="$FIRST_UID" '
    { uids[$10] = 1 }
    $3 == "live" && $8 == boot {
      machines++; cpus_taken += $5; memory_taken += $6
      count = split($7, ids, ","); for (i = 1; i <= count; i++) taken[ids[i]] = 1
    }
    END {
      if (all_machines && machines >= all_machines) { printf "%d of %d machines are there\n", machines, all_machines; exit 71 }
      if (cpus_taken + cpus > all_cpus) { printf "%d of %d CPUs are free\n", all_cpus - cpus_taken, all_cpus; exit 71 }
      if (memory_taken + memory > all_memory) {
        printf "%.0f of %.0f MiB of memory are free\n", (all_memory - memory_taken) / 1048576, all_memory / 1048576
        exit 71
      }
      chosen = ""; left = gpus; count = split(all_gpus, ids, ",")
      for (i = 1; i <= count && left > 0; i++) if (!(ids[i] in taken)) {
        chosen = chosen (chosen == "" ? "" : ",") ids[i]; left--
      }
      if (left > 0) { printf "%d of %d GPUs are free\n", gpus - left, count; exit 71 }
      while (uid in uids) uid++
      print (chosen == "" ? "-" : chosen), uid
    }') || refuse $? "$chosen"
  words="1 $cpus $memory ${chosen% *} $boot $(date +%s) ${chosen#* }"
  mkdir -p -- "$place/files" && chmod 711 "$directory/$tag" "$place" &&
    printf '%s\n' "$words" >"$place/spec.new" && mv -f -- "$place/spec.new" "$place/spec" ||
    refuse 70 "the reservation cannot be written in $directory"
  cat >"$place/files/seed.iso" 2>/dev/null || refuse 70 "the seed cannot be written in $directory"
  [ "$(wc -c <"$place/files/seed.iso")" -eq "$bytes" ] || refuse 75 "the seed did not arrive whole"
  if [ "$seconds" != 0 ]; then echo $(($(date +%s) + seconds)) >"$place/expires"; fi
  # In a session of its own, or it would end with the connection. It inherits the lock, and lets go of it once it is
  # on record: whoever is to remove this machine waits for that.
  setsid sh -c "$text" gridcloud supervise "$directory" "$@" </dev/null >/dev/null 2>&1 &
  exec 9>&-
  tell
}

# Wait a little for the machine to run, and say how it goes.
tell() {
  tries=0
  while [ $((tries += 1)) -le 150 ] && [ ! -f "$place/running" ] && [ ! -f "$place/ended" ]; do
    sleep 0.1 2>/dev/null || sleep 1
  done
  if [ -f "$place/ended" ]; then
    read -r code words <"$place/ended"
    case $code in 7[0-7]) refuse "$code" "$words" ;; esac
  fi
  say "place $place"
}

# tag id program source sha256 format kernel initrd size accelerator confine first last (ports); the words for QEMU
# after --. Runs for as long as the machine.
supervise() {
  place=$directory/$tag/$id
  cd "$place" || exit 1
  trap '' HUP
  say "$$ $(started $$)" >supervisor.new && mv -f supervisor.new supervisor || exit 1
  exec 9>&-
  read -r _ _ _ gpus _ _ uid <spec
  prepare
  machine=
  start "$@"
  rm -f progress
  while [ -n "$(started "$machine")" ]; do
    if expired; then over; fi
    sleep 2
  done
  wait "$machine"
  code=$?
  rm -rf files
  case $code in
    0) fail 0 'it was shut down from within' ;;
    *) if [ $code -gt 128 ]; then fail $code "QEMU was killed by signal $((code - 128))"; fi
      fail $code "QEMU ended with $code: $(last_line log console)" ;;
  esac
}

fail() { say "$*" >ended.new; mv -f ended.new ended; exit 0; }
progress() { say "$*" >progress.new && mv -f progress.new progress; }
expired() { at=; { read -r at <expires; } 2>/dev/null; [ -n "$at" ] && [ "$(date +%s)" -ge "$at" ]; }

# Its time is over: end all of it, and leave nothing.
over() {
  trap '' TERM
  kill -s TERM -- -$$ 2>/dev/null
  for seconds in 1 2 3; do if [ -n "${machine:-}" ] && [ -n "$(started "$machine")" ]; then sleep 1; fi; done
  if [ -n "${machine:-}" ]; then kill -s KILL "$machine" 2>/dev/null; fi
  cd /
  lock
  rm -rf -- "$place"
  exit 0
}

prepare() {
  case $source in
    http://* | https://*) image=$directory/images/$sha256; fetch ;;
    *) image=$(at_home "$source"); verify ;;
  esac
  for file in "$image" "$(at_home "$kernel")" "$(at_home "$initrd")"; do
    if [ -n "$file" ] && ! { [ -f "$file" ] && [ -r "$file" ]; }; then fail 76 "there is no file $file on the host"; fi
  done
  said=$(qemu-img info -U --output=json -f "$format" "$image" 2>&1) || fail 76 "the image $source cannot be used: $(say "$said" | last_line)"
  case $said in
    *'"backing-filename"'* | *'"data-file":'*) fail 76 "the image $source needs further files; make one of them all with qemu-img convert" ;;
    *'"corrupt": true'*) fail 76 "the image $source is corrupt" ;;
  esac
  # Where the file below is described as well, it is indented.
  whole=$(say "$said" | sed -n 's/^    "virtual-size": *\([0-9]*\).*/\1/p')
  [ -n "$whole" ] || fail 76 "the image $source cannot be measured"
  if [ "$size" -lt "$whole" ]; then size=$whole; fi
  said=$(qemu-img create -q -f qcow2 files/disk.qcow2 "$size" 2>&1) || fail 70 "the disk cannot be made: $(say "$said" | last_line)"
  exec 3<"$image"
  if [ -n "$kernel" ]; then exec 4<"$(at_home "$kernel")"; fi
  if [ -n "$initrd" ]; then exec 5<"$(at_home "$initrd")"; fi
}

# A file with a sum is read once; then its size and time vouch for it.
verify() {
  [ -n "$sha256" ] && [ -f "$image" ] || return 0
  mkdir -p "$directory/images"
  seen=$(stat -Lc '%s %Y %Z %i' -- "$image") # the time of its last change is nobody's to set
  if [ "$(cat "$directory/images/$sha256.seen" 2>/dev/null)" = "$seen" ]; then return 0; fi
  progress 'the sum of the image is being checked'
  check_sum "$image"
  say "$seen" >"$directory/images/$sha256.seen"
}

check_sum() {
  sum=$(sha256sum <"$1" | cut -c 1-64)
  if [ "$sum" != "$sha256" ]; then
    rm -f "$directory/images/$sha256.part"
    fail 76 "the image $source has the SHA-256 $sum, not $sha256"
  fi
}

fetch() {
  mkdir -p "$directory/images"
  exec 8>"$image.lock"
  until flock -n 8; do
    progress 'another machine is fetching the image'
    if expired; then over; fi
    sleep 1
  done
  if [ ! -f "$image" ]; then
    rm -f "$image.part"
    if has curl; then
      set -- curl -fsSL --proto =http,https --proto-redir =http,https --connect-timeout 20 --retry 2 -o "$image.part" -- "$source"
    elif has wget; then
      set -- wget -q -T 20 -t 3 -O "$image.part" -- "$source"
    else
      fail 76 "the host has neither curl nor wget to fetch $source with"
    fi
    "$@" >/dev/null 2>log 8>&- &
    download=$!
    while [ -n "$(started $download)" ]; do
      progress "$(($(wc -c <"$image.part" 2>/dev/null || echo 0) / 1048576)) MiB of the image are fetched"
      if expired; then over; fi
      sleep 0.5 2>/dev/null || sleep 1
    done
    wait $download || { rm -f "$image.part"; fail 75 "the image $source could not be fetched: $(last_line log)"; }
    progress 'the sum of the image is being checked'
    check_sum "$image.part"
    mv -f "$image.part" "$image" || fail 70 "the image cannot be kept in $directory/images"
  fi
  exec 8>&-
}

# Start QEMU on a free port: where somebody else was first, on the next one. With the ports 0 to 0 it has none.
start() {
  set_guard
  span=$((last - first + 1))
  offset=$(say "$id" | cksum | cut -d ' ' -f 1)
  tries=0
  while [ $tries -lt $span ] && [ $tries -lt 500 ]; do
    port=$((first + (offset + tries) % span))
    tries=$((tries + 1))
    if [ -n "$(listener $port)" ]; then continue; fi
    launch "$@"
    waits=0
    while [ -n "$(started "$machine")" ] && [ $((waits += 1)) -le 200 ]; do
      if has_begun; then
        say "$machine $(started "$machine") $port" >running.new && mv -f running.new running
        return
      fi
      sleep 0.1 2>/dev/null || sleep 1
    done
    kill -s KILL "$machine" 2>/dev/null
    wait "$machine"
    if ! grep -qi 'host forwarding\|hostfwd' log; then break; fi
    if expired; then over; fi
  done
  if grep -qi 'cannot allocate memory\|cannot set up guest memory' log; then fail 71 "QEMU had not the memory: $(last_line log)"; fi
  if grep -qi 'host forwarding\|hostfwd' log || [ ! -f log ]; then fail 71 "none of the ports $first to $last is free"; fi
  fail 75 "QEMU did not start: $(last_line log)"
}

# Whether QEMU listens on its port, or has opened its own disk where it has none.
has_begun() {
  sign="/$id/files/disk.qcow2"
  if [ "$port" != 0 ]; then
    inode=$(listener $port)
    [ -n "$inode" ] || return 1
    sign="socket:[$inode]"
  fi
  ls -l "/proc/$machine/fd" 2>/dev/null | grep -qF "$sign"
}

# What QEMU is started by: it dies with us, gains no rights, and where we are root is nobody that owns anything else.
set_guard() {
  guard=
  if has setpriv; then
    guard='setpriv --no-new-privs'
    case $(setpriv --help 2>&1) in *--pdeathsig*) guard="$guard --pdeathsig KILL" ;; esac
  fi
  if [ "$(id -u)" = 0 ] && [ "$confine" = yes ] && [ "$gpus" = - ]; then
    [ -n "$guard" ] || fail 76 'the host has no setpriv, so machines cannot be confined: install util-linux, or set confine: false'
    groups=--clear-groups
    if [ "$accelerator" = kvm ]; then groups="--groups $(stat -c %g /dev/kvm)"; fi
    guard="$guard --reuid $uid --regid $uid $groups --inh-caps=-all --bounding-set=-all"
    chown -R "$uid:$uid" files || fail 76 "the user id $uid cannot be used here; set confine: false"
  fi
  # GPUs are pinned with all of the machine's memory.
  if [ "$gpus" != - ]; then ulimit -l unlimited 2>/dev/null; fi
}

launch() {
  count=$#
  while [ $count -gt 0 ]; do
    word=$1
    shift
    count=$((count - 1))
    case $word in
      @GPUS@) if [ "$gpus" != - ]; then for gpu in $(say "$gpus" | tr , ' '); do set -- "$@" -device "vfio-pci,host=$gpu"; done; fi ;;
      *@PORT@*) set -- "$@" "${word%%@PORT@*}$port${word#*@PORT@}" ;;
      *) set -- "$@" "$word" ;;
    esac
  done
  rm -f pipe
  mkfifo pipe
  keep_console <pipe &
  exec 6>pipe
  rm -f pipe
  # Unquoted on purpose: the guard is a list of words.
  (cd files && exec $guard "$@") </dev/null >&6 2>log 6>&- &
  machine=$!
  exec 6>&-
}

# The console within bounds, whatever the machine writes: half a megabyte, as it comes.
keep_console() {
  exec 3<&- 4<&- 5<&- 6>&-
  while dd of=console bs=128 count=2048 2>/dev/null && [ -s console ]; do mv -f console console.old; done
}

# PORT: the inode of the socket that listens there, if one does.
listener() {
  awk -v port="$(printf ':%04X' "$1")" '$4 == "0A" && substr($2, length($2) - 4) == port { print $10; exit }' \
    /proc/net/tcp /proc/net/tcp6 2>/dev/null
}

# tag id seconds: it ends by itself in so many seconds
arm() {
  place=$directory/$tag/$id
  if [ ! -f "$place/spec" ] || [ -f "$place/ended" ] || ! lives "$place/supervisor"; then refuse 77 "$id is gone"; fi
  echo $(($(date +%s) + seconds)) >"$place/expires.new" && mv -f -- "$place/expires.new" "$place/expires" ||
    refuse 70 "the end of $id cannot be written in $directory"
}

# tag id
remove() {
  place=$directory/$tag/$id
  if [ ! -d "$place" ]; then return; fi
  use_directory
  lock
  tries=0
  while lives "$place/supervisor" || lives "$place/running"; do
    [ $((tries += 1)) -le 100 ] || refuse 75 "the process $pid of $id will not end"
    if lives "$place/supervisor"; then kill -s KILL -- "-$pid" 2>/dev/null; fi
    if lives "$place/running"; then kill -s KILL "$pid" 2>/dev/null; fi
    sleep 0.05 2>/dev/null || sleep 1
  done
  # What is left to lie here if this ends half-way still has its spec, and so is found again.
  rm -rf -- "$place/files" && rm -rf -- "$place" || refuse 75 "the files of $id cannot be removed"
  rmdir -- "$directory/$tag" 2>/dev/null
  return 0
}

verb=$1 directory=$2
shift 2
tag= id= text= gpus=
given=$#
# What is given again to the supervisor stays in place: NAME=VALUE words, and all after --.
index=0
while [ $index -lt $given ]; do
  index=$((index + 1))
  eval "word=\${$index}"
  value=${word#*=}
  case $word in
    --) break ;;
    tag=*) tag=$value ;; id=*) id=$value ;; text=*) text=$value ;; program=*) program=$value ;;
    count=*) count=$value ;;
    cpus=*) cpus=$value ;; memory=*) memory=$value ;; gpus=*) gpus=$value ;; need=*) need=$value ;;
    seconds=*) seconds=$value ;; bytes=*) bytes=$value ;; all_cpus=*) all_cpus=$value ;;
    all_memory=*) all_memory=$value ;; all_machines=*) all_machines=$value ;; all_gpus=*) all_gpus=$value ;;
    source=*) source=$value ;; sha256=*) sha256=$value ;; format=*) format=$value ;; kernel=*) kernel=$value ;;
    initrd=*) initrd=$value ;; size=*) size=$value ;; accelerator=*) accelerator=$value ;;
    confine=*) confine=$value ;; first=*) first=$value ;; last=*) last=$value ;;
    *) refuse 64 "$word is not known" ;;
  esac
done
find_directory
find_boot
case $verb in make | supervise | survey | arm | remove) check_name "$tag" ;; esac
case $verb in make | supervise | arm | remove) check_name "$id" ;; esac
case $verb in survey | arm | remove) check_directory ;; esac
case $verb in
  make) make "$@" ;;
  supervise | probe)
    shift $index
    "$verb" "$@" ;;
  survey) survey ;;
  arm) arm ;;
  remove) remove ;;
  *) refuse 64 "$verb is no verb" ;;
esac
