# What the `ssh` provider does on one of its hosts: sh -c TEXT gridcloud VERB DIRECTORY [WORD…]
#
# Fixed text for any POSIX sh (dash, bash, busybox): all values come as words. Answers are lines `name value` on
# standard output; a refusal is a sentence on standard error and one of these exit codes:
#   70 no space   71 taken   72 given to another owner   73 locked for too long   74 an account cannot be made or ended
#   75 processes will not end   76 the provider's folder cannot be used   77 the reservation is gone
#
# DIRECTORY/lock                                  held while reservations change
# DIRECTORY/INSTALLATION/instances/ID/spec        the reservation, one line (see `reserve`); written first, removed last
# DIRECTORY/INSTALLATION/instances/ID/{enter,leave}  what takes a place in the instance's limits, and what ends it
# DIRECTORY/INSTALLATION/instances/ID/adopt       what sudo lets the owner's account run (see `open_door`)
# DIRECTORY/INSTALLATION/instances/ID/ready       the instance can be used
# DIRECTORY/INSTALLATION/instances/ID/{expires,watcher}  when it ends by itself, and the process that sees to that
# DIRECTORY/INSTALLATION/instances/ID/files/      the instance's own folder
# DIRECTORY/homes/ACCOUNT/                        homes of the owners' accounts
# /tmp/gridcloud-ID/                              sockets that its owner's programs made

set -u
umask 077
export LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

say() { printf '%s\n' "$*"; }
refuse() { code=$1; shift; printf '%s\n' "$*" >&2; exit "$code"; }
has() { command -v "$1" >/dev/null 2>&1; }

groups=/sys/fs/cgroup
adopt='# Move a process of the account that asks into the control group of the instance: adopt PID
case ${1-} in "" | *[!0-9]*) exit 1 ;; esac
[ "$(stat -c %u "/proc/$1")" = "$SUDO_UID" ] && echo "$1" >"$groups/gridcloud/$id/cgroup.procs"
'
ask='if [ -x "${0%/*}/adopt" ] && [ "$(id -u)" != 0 ]; then
  sudo -n "${0%/*}/adopt" $$ </dev/null >/dev/null 2>&1
fi
'

find_directory() {
  case $directory in
    '') if [ "$(id -u)" = 0 ]; then directory=/var/lib/gridcloud; else directory=$HOME/.gridcloud; fi ;;
    '~'/*) directory=$HOME/${directory#'~/'} ;;
  esac
}

# The kernel's start and that of the first process: a container's restart is a restart of the machine too.
find_boot() {
  boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo unknown)
  boot=$boot-$(sed 's/.*) //' /proc/1/stat 2>/dev/null | cut -d' ' -f20)
}

# Bytes free in a folder that may not exist yet, and the size of its file system.
measure_disk() {
  place=$1
  while [ ! -d "$place" ]; do place=$(dirname -- "$place"); done
  df -Pk -- "$place" | awk 'NR == 2 { printf "%.0f %.0f\n", $4 * 1024, $2 * 1024 }'
}

probe() {
  say "uid $(id -u)"
  say "user $(id -un)"
  say "kernel $(uname -srm)"
  say "cpus $(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)"
  awk '/^MemTotal:/ { printf "memory %.0f\n", $2 * 1024 }' /proc/meminfo
  if [ "$(id -u)" != 0 ] && has sudo && sudo -n true </dev/null >/dev/null 2>&1; then say "sudo yes"; fi
  for program in useradd userdel su flock python3 jupyterhub-singleuser; do
    if has "$program"; then say "program $program"; fi
  done
  probe_groups
  if has nvidia-smi; then
    nvidia-smi --query-gpu=uuid,memory.total,name --format=csv,noheader,nounits 2>/dev/null | sed 's/^/gpu /'
  fi
  return 0
}

# Limits on the control group that we are in and on those above it; the smallest counts.
probe_groups() {
  while IFS=: read -r _ controllers path; do
    case ,$controllers, in
      ,,) top=/sys/fs/cgroup ;;
      *,cpu,*) top=/sys/fs/cgroup/cpu ;;
      *,memory,*) top=/sys/fs/cgroup/memory ;;
      *) continue ;;
    esac
    path=${path%/}
    while :; do
      for file in memory.max memory.limit_in_bytes; do
        if [ -r "$top$path/$file" ]; then say "memory_limit $(cat "$top$path/$file")"; fi
      done
      if [ -r "$top$path/cpu.max" ]; then say "cpu_limit $(cat "$top$path/cpu.max")"; fi
      if [ -r "$top$path/cpu.cfs_quota_us" ]; then
        say "cpu_limit $(cat "$top$path/cpu.cfs_quota_us") $(cat "$top$path/cpu.cfs_period_us")"
      fi
      case $path in */*) path=${path%/*} ;; *) break ;; esac
    done
  done 2>/dev/null </proc/self/cgroup
}

survey() {
  say "directory $directory"
  say "boot $boot"
  say "disk $(measure_disk "$directory")"
  each_reservation
}

# One line per instance of every installation: installation, id, ready or half, and the words of its spec.
each_reservation() {
  for place in "$directory"/*/instances/*/; do
    [ -d "$place" ] || continue
    place=${place%/}
    words=
    if [ -f "$place/spec" ]; then read -r words <"$place/spec"; fi
    state=half
    if [ -f "$place/ready" ]; then state=ready; fi
    installation=${place%/instances/*}
    say "reservation ${installation##*/} ${place##*/} $state $words"
  done
}

use_directory() {
  mkdir -p -- "$directory" && [ -O "$directory" ] && [ ! -L "$directory" ] && chmod 711 "$directory" ||
    refuse 76 "the folder $directory cannot be used: it must belong to $(id -un) and be writable"
}

# Only one at a time changes what is reserved, whichever process or installation it serves.
lock() {
  if has flock; then
    { exec 9>"$directory/lock"; } 2>/dev/null || refuse 76 "$directory/lock cannot be written"
    flock -w 20 9 || refuse 73 "another program holds $directory/lock"
    return
  fi
  tries=0
  until mkdir "$directory/lock.d" 2>/dev/null; do
    [ -d "$directory/lock.d" ] || refuse 76 "$directory/lock.d cannot be made"
    holder=$(cat "$directory/lock.d/pid" 2>/dev/null)
    if [ -n "$holder" ] && [ ! -d "/proc/$holder" ]; then
      # Whoever renames it may remove it.
      mv "$directory/lock.d" "$directory/lock.$$" 2>/dev/null && rm -rf "$directory/lock.$$"
      continue
    fi
    tries=$((tries + 1))
    [ $tries -lt 80 ] || refuse 73 "another program holds $directory/lock.d"
    sleep 0.25 2>/dev/null || sleep 1
  done
  echo $$ >"$directory/lock.d/pid"
  trap 'rm -rf "$directory/lock.d"' EXIT
}

# INSTALLATION ID OWNER MODE MILLICPUS MEMORY GPUS DISK, then what the host has: MILLICPUS MEMORY GPU,GPU,…
reserve() {
  tag=$1 id=$2 owner=$3 mode=$4 cpus=$5 memory=$6 gpus=$7 disk=$8
  shift 8
  use_directory
  lock
  place=$directory/$tag/instances/$id
  if [ -f "$place/spec" ]; then
    read -r words <"$place/spec"
    case $words in *" $boot "*) say "reserved $tag $id half $words"; say "place $place"; return ;; esac
    # Made before the machine last started: nothing of it runs.
    rm -rf -- "$place"
  fi
  set -- "$(measure_disk "$directory")" "$@"
  [ "${1%% *}" -ge $((disk + 16777216)) ] || refuse 70 "$((${1%% *} / 1048576)) MiB are free in $directory"
  chosen=$(each_reservation | awk -v owner="$owner" -v mode="$mode" -v cpus="$cpus" -v memory="$memory" \
    -v gpus="$gpus" -v boot="$boot" -v all_cpus="$2" -v all_memory="$3" -v all_gpus="$4" '
    $11 == boot {
      if ((mode == "login" || $7 == "login") && $6 != owner) { other = 1 }
      cpus_taken += $8; memory_taken += $9
      count = split($10, ids, ","); for (i = 1; i <= count; i++) taken[ids[i]] = 1
    }
    END {
      if (other) { print "another owner has this host"; exit 72 }
      if (cpus_taken + cpus > all_cpus) {
        printf "%.3g of %.3g CPUs are free\n", (all_cpus - cpus_taken) / 1000, all_cpus / 1000; exit 71
      }
      if (memory_taken + memory > all_memory) {
        printf "%.0f of %.0f MiB of memory are free\n", (all_memory - memory_taken) / 1048576, all_memory / 1048576
        exit 71
      }
      chosen = ""; left = gpus; count = split(all_gpus, ids, ",")
      for (i = 1; i <= count && left > 0; i++) if (!(ids[i] in taken)) {
        chosen = chosen (chosen == "" ? "" : ",") ids[i]; left--
      }
      if (left > 0) { printf "%d of %d GPUs are free\n", gpus - left, count; exit 71 }
      print (chosen == "" ? "-" : chosen)
    }') || refuse $? "$chosen"
  words="1 $owner $mode $cpus $memory $chosen $boot $(date +%s)"
  mkdir -p -- "$place" && chmod 711 "$directory/$tag" "$directory/$tag/instances" "$place" &&
    printf '%s\n' "$words" >"$place/spec.new" && mv -f -- "$place/spec.new" "$place/spec" ||
    refuse 70 "the reservation cannot be written in $directory"
  say "reserved $tag $id half $words"
  say "place $place"
}

# INSTALLATION ID OWNER MODE AUTHORITY, then the texts PREPARE ENTER LEAVE
install() {
  tag=$1 id=$2 owner=$3 mode=$4 authority=$5 prepare=$6 enter=$7 leave=$8
  use_directory
  lock
  place=$directory/$tag/instances/$id
  [ -f "$place/spec" ] || refuse 77 "the reservation of $id is gone"
  printf '#!/bin/sh\n%s\n%s' "$ask" "$enter" >"$place/enter" && chmod 755 "$place/enter" &&
    printf '#!/bin/sh\n%s' "$leave" >"$place/leave" && mkdir -p -- "$place/files" ||
    refuse 70 "the instance cannot be written in $directory"
  if [ "$mode" = account ]; then
    make_account "$owner" "$authority"
    chown -- "$owner:" "$place/files"
  fi
  sh -c "$prepare" prepare </dev/null >/dev/null 2>&1
  if [ "$mode" = account ]; then open_door; fi
  : >"$place/ready" || refuse 70 "the instance cannot be written in $directory"
  say "ready $place"
}

# INSTALLATION ID OWNER AUTHORITY: what was made for nobody becomes an owner's, whose account is the new one of its files
hand() {
  tag=$1 id=$2 owner=$3 authority=$4
  use_directory
  lock
  place=$directory/$tag/instances/$id
  [ -f "$place/spec" ] || refuse 77 "the reservation of $id is gone"
  read -r first before mode rest <"$place/spec"
  if [ "$before" != "$owner" ]; then
    each_reservation | awk -v id="$id" -v owner="$owner" -v mode="$mode" -v boot="$boot" '
      $11 == boot && $3 != id && (mode == "login" || $7 == "login") && $6 != owner { other = 1 }
      END { exit other }' || refuse 76 "another owner has this host, where all are one account"
    if [ "$mode" = account ]; then
      make_account "$owner" "$authority"
      sh -- "$place/leave" </dev/null >/dev/null || refuse 75 "processes of $id will not end"
      chown -hR -- "$owner:" "$place/files" || refuse 75 "the files of $id cannot be given to $owner"
    fi
    words="$first $owner $mode $rest"
    printf '%s\n' "$words" >"$place/spec.new" && mv -f -- "$place/spec.new" "$place/spec" ||
      refuse 70 "the reservation cannot be written in $directory"
  fi
  # That of nobody goes with the last that is made ahead.
  if [ "$mode" = account ] && [ "$before" != "$owner" ] &&
    [ "$(each_reservation | awk -v owner="$before" '$6 == owner' | wc -l)" = 0 ]; then
    keep=no
    end_account "$before"
  fi
  say "reserved $tag $id half $first $owner $mode $rest"
  say "place $place"
}

# On control groups v2 only root may move a login into a group: sudo lets the account run the one program that moves
# the account's own processes into the instance's own group. Where there is no sudo, limits of processes serve.
open_door() {
  [ -f "$groups/cgroup.controllers" ] && [ -d /etc/sudoers.d ] && has sudo && has visudo || return 0
  case $place in *[!A-Za-z0-9/._-]*) return 0 ;; esac
  printf '#!/bin/sh\nid=%s groups=%s\n%s' "$id" "$groups" "$adopt" >"$place/adopt" && chmod 755 "$place/adopt" &&
    printf '%s ALL=(root) NOPASSWD: %s\n' "$owner" "$place/adopt" >"$place/sudoers" && chmod 440 "$place/sudoers" &&
    visudo -cqf "$place/sudoers" >/dev/null 2>&1 && mv -f -- "$place/sudoers" "/etc/sudoers.d/gridcloud-$id"
}

make_account() {
  account=$1 home=$directory/homes/$1
  mkdir -p -- "$directory/homes" && chmod 711 "$directory/homes"
  if id -u "$account" >/dev/null 2>&1; then
    usermod --expiredate '' "$account" >/dev/null 2>&1
  else
    shell=/bin/sh
    if [ -x /bin/bash ]; then shell=/bin/bash; fi
    # '*' is no password's hash; without it sshd takes the account as locked.
    said=$(useradd --create-home --home-dir "$home" --shell "$shell" --user-group --password '*' \
      --comment gridcloud "$account" 2>&1 </dev/null) || refuse 74 "useradd: $said"
  fi
  if [ ! -d "$home" ]; then mkdir -- "$home" && chown -- "$account:" "$home"; fi
  chmod 700 "$home"
  close_account || refuse 74 "the folder .ssh of the account $account cannot be changed"
  printf '%s\n' "$2" | while IFS= read -r key; do
    printf 'cert-authority,principals="%s" %s\n' "$account" "$key"
  done | HOME=$home su -s /bin/sh -c \
    'umask 077 && mkdir -p "$HOME/.ssh" && chmod 700 "$HOME/.ssh" && cat >"$HOME/.ssh/authorized_keys"' "$account" \
    >/dev/null 2>&1 || refuse 74 "the key of our authority cannot be written for the account $account"
}

# Take away all that lets anybody in, or runs when somebody comes in; the owner's own keys for elsewhere stay.
# As the account, for the home is the owner's: root would follow what links it finds there.
close_account() {
  HOME=$home su -s /bin/sh -c \
    'cd "$HOME" || exit 1; if [ -L .ssh ] || [ ! -d .ssh ]; then rm -f .ssh; exit; fi
    cd .ssh && rm -rf authorized_keys authorized_keys2 rc environment' "$account" \
    >/dev/null 2>&1 </dev/null
}

# INSTALLATION ID KEEP_HOMES SECONDS, then this text
arm() {
  tag=$1 id=$2 keep=$3 seconds=$4 text=$5
  place=$directory/$tag/instances/$id
  [ -f "$place/ready" ] || refuse 77 "$id is gone"
  echo $(($(date +%s) + seconds)) >"$place/expires.new" && mv -f -- "$place/expires.new" "$place/expires" ||
    refuse 70 "the end of $id cannot be written in $directory"
  if is_watched; then return; fi
  # In a session of its own, or it would end with the connection: that it has one it says itself.
  rm -f -- "$place/watcher"
  setsid sh -c "$text" gridcloud watch "$directory" "$tag" "$id" "$keep" </dev/null >/dev/null 2>&1 &
  tries=0
  while ! is_watched && [ $((tries += 1)) -le 200 ]; do sleep 0.02 2>/dev/null || sleep 1; done
  is_watched || refuse 70 "nothing watches over the end of $id"
}

# INSTALLATION ID KEEP_HOMES: wait for the end, which may be moved meanwhile
watch() {
  place=$directory/$1/instances/$2
  echo $$ >"$place/watcher.new" && mv -f -- "$place/watcher.new" "$place/watcher"
  while expires=$(cat "$place/expires" 2>/dev/null) && left=$((expires - $(date +%s))) && [ "$left" -gt 0 ]; do
    [ "$left" -lt 30 ] || left=30
    sleep "$left"
  done
  if [ -n "$expires" ]; then remove "$@"; fi
}

is_watched() {
  watcher=
  if [ -f "$place/watcher" ]; then read -r watcher <"$place/watcher"; fi
  [ -n "$watcher" ] && tr '\0' '\n' <"/proc/$watcher/cmdline" 2>/dev/null | grep -qxF -- "$id"
}

# INSTALLATION ID KEEP_HOMES
remove() {
  tag=$1 id=$2 keep=$3
  place=$directory/$tag/instances/$id
  if [ ! -d "$place" ]; then return; fi
  use_directory
  if is_watched && [ "$watcher" != $$ ]; then kill -s TERM -- "-$watcher" 2>/dev/null; fi
  if [ -f "$place/leave" ]; then
    sh -- "$place/leave" </dev/null >/dev/null || refuse 75 "processes of $id will not end"
  fi
  lock
  mode= owner=
  if [ -f "$place/spec" ]; then read -r _ owner mode _ <"$place/spec"; fi
  # What is left to lie here if this ends half-way still has its spec, and so is found again.
  rm -rf -- "$place/enter" "$place/files" "$place/ready" "/tmp/gridcloud-$id" || refuse 75 "the files of $id cannot be removed"
  if [ "$mode" = account ]; then rm -f -- "/etc/sudoers.d/gridcloud-$id"; fi
  if [ "$mode" = account ] && [ "$(each_reservation | awk -v owner="$owner" '$6 == owner' | wc -l)" -le 1 ]; then
    end_account "$owner"
  fi
  rm -rf -- "$place"
}

end_account() {
  account=$1 home=$directory/homes/$1
  case $account in gc-guest-?*) keep=no ;; gc-?*) ;; *) refuse 74 "$account is no account of ours" ;; esac
  if id -u "$account" >/dev/null 2>&1; then
    if has crontab; then crontab -r -u "$account" 2>/dev/null; fi
    end_processes "$account"
    if [ "$keep" = yes ]; then
      close_account || refuse 74 "the folder .ssh of the account $account cannot be changed"
      usermod --expiredate 1 "$account" >/dev/null 2>&1 || refuse 74 "the account $account cannot be expired"
    else
      # By force, for the dead that nobody has buried yet count as in use.
      said=$(userdel --force "$account" 2>&1 </dev/null) || refuse 74 "userdel: $said"
    fi
  fi
  if [ "$keep" != yes ]; then rm -rf -- "$home"; fi
}

end_processes() {
  tries=0
  while left=$(living "$1") && [ -n "$left" ]; do
    [ $tries -lt 50 ] || refuse 75 "processes of the account $1 will not end"
    # All at once, so that none can fork away; the list is for those that this cannot reach.
    su -s /bin/sh -c '[ "$(id -u)" = 0 ] || kill -s KILL -- -1' "$1" >/dev/null 2>&1
    # Unquoted on purpose: one word per process.
    kill -KILL $left 2>/dev/null
    tries=$((tries + 1))
    sleep 0.05 2>/dev/null || sleep 1
  done
}

living() {
  find /proc -maxdepth 1 -user "$1" -name '[1-9]*' 2>/dev/null | while read -r process; do
    case $(sed -n 's/^State:[[:space:]]*//p' "$process/status" 2>/dev/null) in '' | Z* | X*) continue ;; esac
    say "${process#/proc/}"
  done
}

verb=$1 directory=$2
shift 2
find_directory
find_boot
case $verb in
  probe) probe ;;
  survey) survey ;;
  reserve) reserve "$@" ;;
  install) install "$@" ;;
  hand) hand "$@" ;;
  arm) arm "$@" ;;
  watch) watch "$@" ;;
  remove) remove "$@" ;;
  *) refuse 64 "$verb is no verb" ;;
esac
