"""The frame: the few lines of ``sh`` that run a job wherever it runs, so that its end is the same everywhere.

A job's folder has these files; ``work`` is where its words run::

    frame  limits  job.sh      what it is given (`render_job`); ``secrets.sh`` too, until it has been read
    begun/                     made by the one start that runs it; ``pid`` in it says which process does
    out.log  err.log           what it says, each of bounded size: the first half and the newest part are kept
    work/result.json           the values it found, if it writes them (its name is in GRIDCLOUD_RESULT)
    end.json                   how it ended; not there until it has

``sh frame FOLDER`` ends with 75 (EX_TEMPFAIL) where another start of the same job got there first, with 74 (EX_IOERR)
where the folder cannot be used; otherwise with the job's own exit status.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError

from gridcloud.errors import InvalidRequest
from gridcloud.jobs.model import Cause
from gridcloud.settings.request import Record

__all__ = ["FRAME", "MARK", "TAKEN", "UNUSABLE", "End", "read_end", "read_result", "render_job"]

TAKEN, UNUSABLE = 75, 74
"""Exit codes of a frame that did not run its job."""

MARK = "GRIDCLOUD_JOB"
"""The variable by which every process of a job is known; its value is the handle."""
LARGEST_RESULT = 64 * 1024
"""Bytes of ``result.json``."""

_TIMES = re.compile(r"(\d+)m([\d.]+)s")


class End(Record):
    """What ``end.json`` says."""

    exit: int = Field(description="exit code, 128 + n after signal n")
    why: str = Field(
        default="", description="time, memory or stopped, where it was ended from outside its program"
    )
    cpu: float = Field(default=0, description="seconds of CPU")
    memory: int = Field(default=0, description="most memory that was seen, in bytes; 0: it was too quick")
    wall: float = Field(default=0, description="seconds from its begin to its end")

    @property
    def signal(self) -> int:
        """The signal that ended it, as far as its exit code tells; 0: none."""
        return self.exit - 128 if 128 < self.exit < 193 else 0

    @property
    def cause(self) -> Cause:
        """Why it ended; none: well."""
        known = {"time": Cause.TIME, "memory": Cause.MEMORY, "stopped": Cause.MACHINE}
        return known.get(self.why, Cause.EXIT if self.exit else Cause.NONE)

    def describe(self) -> str:
        """Return how it ended, in words."""
        told = {
            "time": "Its time was over.",
            "memory": "It used more memory than it may.",
            "stopped": "It was stopped from outside.",
        }
        if self.why in told:
            return told[self.why]
        if self.signal:
            return f"It was ended by signal {self.signal}."
        return f"It ended with {self.exit}."


def render_job(
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    secrets: Mapping[str, str] = {},
    time: int = 0,
    memory: int = 0,
    log: int,
) -> dict[str, bytes]:
    """Return the files of a job's folder by name: its words and variables reach the program to the letter.

    ``time``: seconds, ``memory``: bytes, for all its processes; 0: no limit. ``log``: bytes of each log. Raises
    InvalidRequest for what no program can be given.
    """
    for text in (*words, *environment.values(), *secrets.values()):
        if "\0" in text:
            raise InvalidRequest(f"{text[:40]!r} holds a NUL character, which no word or variable can have.")
    if not words or not words[0]:
        raise InvalidRequest("The command is empty.", remedy="Give the program to run as its first word.")
    program = words[0] if "/" in words[0] or not words[0].startswith("-") else f"./{words[0]}"
    quoted = " ".join(shlex.quote(word) for word in (program, *words[1:]))
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    files = {
        "frame": FRAME,
        "limits": f"{time} {memory // 1024} {log}\n",
        "job.sh": "\n".join([*lines, f"set -- {quoted}", ""]),
    }
    if secrets:
        lines = [f"export {name}={shlex.quote(value)}" for name, value in secrets.items()]
        files["secrets.sh"] = "\n".join([*lines, ""])
    return {name: text.encode("utf-8", "surrogateescape") for name, text in files.items()}


def read_end(text: bytes) -> End | None:
    """Return how a job ended; None where that was not wholly written: it has not ended then."""
    try:
        found = json.loads(text)
        cpu = sum(
            int(minutes) * 60 + float(seconds) for minutes, seconds in _TIMES.findall(str(found["cpu"]))
        )
        return End(
            exit=found["exit"],
            why=found["why"],
            cpu=cpu,
            memory=int(found["memory"]) * 1024,
            wall=max(0.0, float(found["ended"]) - float(found["begun"])),
        )
    except (ValueError, KeyError, TypeError, ValidationError):
        return None


def read_result(text: bytes) -> dict[str, Any]:
    """Return the values that a job wrote: a JSON object. Raises InvalidRequest, in words for who wrote the program."""
    if len(text) > LARGEST_RESULT:
        raise InvalidRequest(
            f"result.json has more than {LARGEST_RESULT // 1024} KiB: write files beside it."
        )
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"result.json is no JSON: {error}.") from error
    if not isinstance(found, dict):
        raise InvalidRequest("result.json holds no names with values: write one JSON object.")
    return found


FRAME = r"""# gridcloud: runs the job in the folder $1, once, and writes how it ended. See docs/design/jobs.md.
cd -- "$1" || exit 74
if ! mkdir begun 2>/dev/null; then
  if [ -d begun ]; then exit 75; else exit 74; fi
fi
umask 077
gc_why= gc_watcher= gc_child= gc_finisher= gc_over=
IFS= read -r gc_line </proc/self/stat
set -- ${gc_line##*") "}
gc_session=$4 gc_born=${20}
IFS= read -r gc_boot </proc/sys/kernel/random/boot_id
echo "$$ $gc_born $gc_boot" >begun/pid.new && mv begun/pid.new begun/pid
# Room for its last words is taken now: a disk that is full by then has no other.
printf '%-1000s\n' '' >end.new
read -r gc_time gc_memory gc_log <limits
read -r gc_begun gc_rest </proc/uptime
gc_setsid=
command -v setsid >/dev/null 2>&1 && gc_setsid=setsid
exec 8>>out.log 9>>err.log

# The processes of the job, but for this shell's own.
gc_members() {
  for gc_file in /proc/[0-9]*/stat; do
    { IFS= read -r gc_line <"$gc_file"; } 2>/dev/null || continue
    gc_pid=${gc_file#/proc/} gc_pid=${gc_pid%/stat}
    set -- ${gc_line##*") "}
    [ "$4" = "$gc_group" ] && [ "$1" != Z ] || continue
    case $gc_pid in $$ | "$gc_watcher" | "$gc_self" | "$gc_finisher") continue ;; esac
    "$gc_each" "$gc_pid" "${22}"
  done
}
gc_send() { kill -s "$gc_signal" "$1" 2>/dev/null; }
gc_strike() {
  gc_signal=$1 gc_each=gc_send
  [ -z "$gc_setsid" ] || kill -s "$1" -- "-$gc_child" 2>/dev/null
  gc_members
}
gc_finish() {
  gc_strike "$1"
  for gc_n in 1 2 3 4 5 6 7 8 9 10; do
    [ -z "$gc_over" ] || return 0
    sleep 1
  done
  gc_strike KILL
}

gc_add() { gc_sum=$((gc_sum + $2 * gc_page)); }
# How much memory all of it has now, and the most that its first process ever had, in KiB.
gc_weigh() {
  gc_sum=0 gc_each=gc_add
  gc_members
  gc_most=$gc_sum
  while read -r gc_key gc_value gc_rest; do
    [ "$gc_key" = VmHWM: ] && { [ "$gc_value" -le "$gc_most" ] || gc_most=$gc_value; break; }
  done 2>/dev/null <"/proc/$gc_child/status"
  [ "$gc_most" -le "$gc_peak" ] || { gc_peak=$gc_most; echo "$gc_peak" >begun/peak; }
}
# The newest part of a log that is too large goes where its second half began.
gc_trim() {
  gc_pos=0
  while read -r gc_key gc_value gc_rest; do
    [ "$gc_key" = pos: ] && { gc_pos=$gc_value; break; }
  done 2>/dev/null <"/proc/$$/fdinfo/$2"
  [ "$gc_pos" -gt "$((gc_seen + 1048576))" ] && gc_quick=20
  [ "$gc_pos" -gt "$gc_log" ] || return
  tail -c 65536 "$1" >begun/tail
  dd if=/dev/null of="$1" bs=1 seek="$((gc_log / 2))" 2>/dev/null
  { printf '\n[gridcloud: what was said here was more than is kept]\n'; cat begun/tail; } >>"$1"
  rm -f begun/tail
}
gc_watch() {
  # Not amid what it does: a log that was cut is to get its end back.
  trap 'gc_over=y; kill "$gc_nap" 2>/dev/null' TERM
  IFS= read -r gc_line </proc/self/stat
  gc_self=${gc_line%% *} gc_page=$(getconf PAGESIZE 2>/dev/null || echo 4096)
  gc_page=$((gc_page / 1024)) gc_peak=0 gc_turn=0 gc_quick=10 gc_seen=0
  while [ -z "$gc_over" ]; do
    gc_pause=1
    if [ "$gc_quick" -gt 0 ]; then gc_pause=0.1 gc_quick=$((gc_quick - 1)); fi
    sleep "$gc_pause" 2>/dev/null & gc_nap=$!
    wait "$gc_nap" || [ "$gc_over" ] || sleep 1
    [ -z "$gc_over" ] || exit 0
    gc_trim out.log 8
    gc_high=$gc_pos
    gc_trim err.log 9
    [ "$gc_pos" -gt "$gc_high" ] && gc_high=$gc_pos
    gc_seen=$gc_high
    [ -z "$gc_over" ] || exit 0
    gc_turn=$((gc_turn + 1))
    # Looking at all processes takes longer than the rest: often at first, and while the limit is near.
    if [ "$gc_turn" -lt 30 ] || [ "$((gc_turn % 5))" = 0 ] || [ "$((gc_peak * 2))" -gt "$gc_memory" ]; then
      gc_weigh
      if [ "$gc_memory" != 0 ] && [ "$gc_sum" -gt "$gc_memory" ]; then
        echo memory >begun/why
        gc_strike KILL
      fi
    fi
    read -r gc_up gc_rest </proc/uptime
    if [ "$gc_time" != 0 ] && [ "$((${gc_up%.*} - ${gc_begun%.*}))" -ge "$gc_time" ] && [ ! -s begun/why ]; then
      echo time >begun/why
      gc_finish TERM
    fi
  done
}

(
  { echo 500 >/proc/self/oom_score_adj; } 2>/dev/null
  if [ -f secrets.sh ]; then . ./secrets.sh; rm -f secrets.sh; fi
  . ./job.sh
  cd work || exit 74
  exec $gc_setsid "$@" </dev/null >&8 2>&9 8>&- 9>&-
) 2>>err.log &
gc_child=$!
gc_group=$gc_session gc_self=$$
[ -z "$gc_setsid" ] || gc_group=$gc_child
gc_watch </dev/null >/dev/null 2>&1 &
gc_watcher=$!
gc_stop() {
  [ ! -s begun/why ] || return 0
  echo stopped >begun/why
  gc_finish TERM >/dev/null 2>&1 & gc_finisher=$!
}
trap gc_stop TERM INT HUP
while :; do
  wait "$gc_child"
  gc_code=$?
  kill -s 0 "$gc_child" 2>/dev/null || break
done
# Who ends all of it, one process after another, may have come to its program first.
[ "$gc_code" != 143 ] || [ -s begun/why ] || sleep 0.5 2>/dev/null || sleep 1
kill "$gc_watcher" $gc_finisher 2>/dev/null
wait "$gc_watcher" 2>/dev/null
read -r gc_ended gc_rest </proc/uptime
# What it left running ends with it; who had no time to leave the group of its processes is in it.
if [ -n "$gc_setsid" ] && [ "$((${gc_ended%.*} - ${gc_begun%.*}))" -lt 2 ]; then
  kill -s KILL -- "-$gc_child" 2>/dev/null
else
  gc_strike KILL
fi
gc_seen=0
gc_trim out.log 8
gc_trim err.log 9
times >begun/times
{ read -r gc_rest && read -r gc_cpu; } <begun/times
[ ! -s begun/why ] || read -r gc_why <begun/why
gc_peak=0
[ ! -s begun/peak ] || read -r gc_peak <begun/peak
gc_end=$(printf '{"exit": %d, "why": "%s", "cpu": "%s", "memory": %d, "begun": %s, "ended": %s}' \
  "$gc_code" "$gc_why" "$gc_cpu" "$gc_peak" "$gc_begun" "$gc_ended")
for gc_n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  if { printf '%-1000s\n' "$gc_end" 1<>end.new; } 2>/dev/null && mv end.new end.json 2>/dev/null; then
    exit "$gc_code"
  fi
  sleep 3
done
exit 74
"""
