# What is done with the folders of jobs where they run: sh -c TEXT gridcloud VERB BASE [WORD…]
#
# Fixed text for any POSIX sh. BASE: the folder in which they lie; handles come by standard input, one a line.
#   lay NAME           unpack folders of jobs (a tar by standard input), each whole or not at all; NAME: the batch's
#   note               write down by what a job is known there: lines `handle word`
#   look               tell of each: whether it is there, has begun, its frame runs here; its token, word, last words
#   start              run the frames of lines `handle cores devices`; one that has begun already does nothing
#   end                have the frames end what they run; where a frame is gone, kill what is left of its job
#   claim              have none of these begin any more; names those that had not
#   remove, list       remove folders; name those that are there
#   part FILE OFFSET MOST   a part of a file, after a line `offset size`; 3: there is none
#   where              the folder in which this runs: that of the machine's own
#   gather             a tar of what jobs said, and of their ends, to standard output
umask 077
verb=$1 base=$2
shift 2
# Whether the frame that began in a folder runs on this machine: its number is believed with its birth and this boot.
runs() {
  pid= born= boot= here=
  { read -r pid born boot <"$1/begun/pid"; } 2>/dev/null || return 1
  read -r here </proc/sys/kernel/random/boot_id
  [ "$boot" = "$here" ] && { IFS= read -r line <"/proc/$pid/stat"; } 2>/dev/null || return 1
  set -- ${line##*") "}
  [ "$1" != Z ] && [ "${20}" = "$born" ]
}
case $verb in
lay)
  arriving=$base/.arriving-$1
  mkdir -p "$arriving" && cd "$arriving" && tar -xf - || { rm -rf "$arriving"; exit 1; }
  for one in *; do [ -d "$base/$one" ] || mv "$one" "$base/$one" || exit 1; done
  cd / && rm -rf "$arriving"
  ;;
note) while read -r one word; do echo "$word" >"$base/$one/job" || exit 1; done ;;
look)
  while read -r one; do
    token= job= begun= end=
    [ ! -d "$base/$one" ] || begun=there
    if [ -d "$base/$one/begun" ]; then
      begun=begun
      if runs "$base/$one"; then begun=runs; fi
    fi
    {
      read -r token <"$base/$one/token"
      read -r job <"$base/$one/job"
      read -r end <"$base/$one/end.json"
    } 2>/dev/null
    printf '%s\037%s\037%s\037%s\037%s\n' "$one" "$begun" "$token" "$job" "$end"
  done
  ;;
start)
  session=
  if command -v setsid >/dev/null 2>&1; then session=setsid; fi
  while read -r one cores devices; do
    [ -d "$base/$one" ] || exit 1
    (
      cd / || exit
      export GRIDCLOUD_JOB="$one" OMP_NUM_THREADS="$cores"
      if [ "$devices" ]; then export CUDA_VISIBLE_DEVICES="${devices#-}"; fi
      exec $session sh "$base/$one/frame" "$base/$one" </dev/null >/dev/null 2>&1
    ) &
  done
  ;;
end)
  while read -r one; do
    if runs "$base/$one"; then
      kill -s TERM "$pid"
    else
      for file in /proc/[0-9]*/environ; do
        if { tr '\000' '\n' <"$file" | grep -qxF "GRIDCLOUD_JOB=$one"; } 2>/dev/null; then
          file=${file#/proc/}
          kill -s KILL "${file%/environ}" 2>/dev/null
        fi
      done
    fi
  done
  exit 0
  ;;
claim) while read -r one; do if mkdir "$base/$one/begun" 2>/dev/null; then echo "$one"; fi; done ;;
remove) while read -r one; do rm -rf -- "${base:?}/$one" || exit 1; done ;;
list) [ ! -d "$base" ] || ls "$base" ;;
part)
  file=$base/$1 offset=$2
  [ -f "$file" ] && [ ! -L "$file" ] || exit 3
  size=$(($(wc -c <"$file")))
  [ "$offset" -ge 0 ] || offset=$((size + offset))
  [ "$offset" -ge 0 ] || offset=0
  [ "$offset" -le "$size" ] || offset=$((size / 2))
  echo "$offset $size"
  tail -c "+$((offset + 1))" "$file" | head -c "$3"
  ;;
where) pwd ;;
gather)
  cd "$base" || exit 0
  while read -r one; do
    for file in "$one/out.log" "$one/err.log" "$one/end.json" "$one/work/result.json"; do
      if [ -f "$file" ] && [ ! -L "$file" ]; then echo "$file"; fi
    done
  done | tar -cf - -T -
  ;;
*) exit 64 ;;
esac
