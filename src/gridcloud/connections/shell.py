"""The fixed shell programs that run on the other side. Nothing is ever put into their text.

They need a POSIX ``sh`` and nothing else, and are single lines without single quotes, so that any login shell
(csh included) hands them on unharmed.
"""

from __future__ import annotations

import shlex
import signal

from gridcloud.errors import InvalidRequest

__all__ = ["KEEPER", "START", "TREE", "command_line", "signal_number"]

# Prints the processes of session $1, whatever group they moved to. Zombies are left out.
_MEMBERS = (
    "members() {"
    " for f in /proc/[0-9]*/stat; do"
    " { IFS= read -r s <$f; } 2>/dev/null || continue;"
    " p=${f#/proc/}; p=${p%/stat};"
    ' set -- "$1" ${s##*") "};'
    ' if [ "$2" != Z ] && [ "$5" = "$1" ]; then echo $p; fi;'
    " done; };"
)

TREE = (
    _MEMBERS + " strike() {"
    " kill -s $1 -- -$2 2>/dev/null || kill -s $1 $2 2>/dev/null;"
    ' for m in $(members $2); do if [ "$m" != $2 ]; then kill -s $1 $m 2>/dev/null; fi; done; };'
)
"""Functions: ``members SESSION`` prints process ids; ``strike SIGNAL SESSION`` signals all of them."""

START = (
    "IFS= read -r gc_token || exit 255;"
    ' gc_directory=""; gc_raw="";'
    " set --;"
    " while IFS= read -r gc_line; do"
    " case $gc_line in"
    ' E*) gc_line=${gc_line#E}; gc_value=$(printf "%b." "${gc_line#*=}"); export "${gc_line%%=*}=${gc_value%.}";;'
    ' D*) gc_value=$(printf "%b." "${gc_line#D}"); gc_directory=${gc_value%.};;'
    ' W*) gc_value=$(printf "%b." "${gc_line#W}"); set -- "$@" "${gc_value%.}";;'
    " R*) gc_raw=yes;;"
    " *) break;;"
    " esac; done;"
    ' if [ -n "$gc_directory" ] && ! cd -- "$gc_directory" 2>/dev/null; then'
    ' printf "%s no-directory\\n" "$gc_token"; exit 255; fi;'
    ' printf "%s %s\\n" "$gc_token" $$;'
    " IFS= read -r gc_line || exit 255;"
    ' if [ "$gc_line" != go ]; then exit 255; fi;'
    ' if [ -t 0 ] && [ -z "$gc_raw" ]; then stty icanon echo; fi;'
    ' exec "$@"'
)
"""Reads a token, then environment, directory and words as `encode_command` writes them; answers with the token and
its process id, which is also that of its session; becomes the command at the word ``go``."""

KEEPER = (
    TREE + ' trap "" HUP TERM INT;'
    ' groups="";'
    " parent=$PPID; born=;"
    # An agent serves all its connections itself, and ends what is left of lost ones.
    ' if [ -n "$GRIDCLOUD_AGENT" ]; then parent=; fi;'
    ' { IFS= read -r s </proc/$parent/stat; } 2>/dev/null && { set -- ${s##*") "}; born=${20}; };'
    " IFS= read -r token || exit 0;"
    ' printf "%s %s %s\\n" "$token" "$parent" "$born";'
    " while IFS= read -r line; do"
    " set -- $line;"
    " case $1 in"
    ' +) groups="$groups $2";;'
    ' -) old=$groups; groups="";'
    " for g in $old; do"
    ' if [ "$g" != $2 ] || kill -s 0 -- -$g 2>/dev/null; then groups="$groups $g"; fi;'
    " done;;"
    " signal) strike $2 $3;;"
    ' ping) printf "%s\\n" pong;;'
    " end)"
    ' if { IFS= read -r s </proc/$2/stat; } 2>/dev/null; then set -- $2 $3 ${s##*") "};'
    ' if [ "${22}" = "$2" ]; then kill -s TERM $1 2>/dev/null; fi; fi;'
    ' printf "%s\\n" ended;;'
    " esac; done;"
    " for g in $groups; do strike TERM $g; done;"
    " for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do"
    ' left="";'
    ' for g in $groups; do if [ -n "$(members $g)" ]; then left="$left $g"; fi; done;'
    " groups=$left;"
    ' if [ -z "$groups" ]; then exit 0; fi;'
    " sleep 0.1 2>/dev/null || sleep 1;"
    " done;"
    " for g in $groups; do strike KILL $g; done"
)
"""Runs beside the commands of one connection. It reads orders, one a line: ``+ SESSION``, ``- SESSION``, ``signal NAME
SESSION``, ``ping``, ``end PID BORN`` (end the server process of an earlier connection); when its input ends, so does
every session it knows: that is how nothing outlives the connection that started it."""


def command_line(program: str) -> str:
    """Return the command line that any login shell turns into ``/bin/sh`` running ``program``."""
    return f"exec /bin/sh -c {shlex.quote(program)} gridcloud"


def signal_number(name: str) -> signal.Signals:
    """Return the signal of a name such as 'TERM'. Raises InvalidRequest."""
    try:
        return signal.Signals[f"SIG{name.removeprefix('SIG')}"]
    except KeyError:
        raise InvalidRequest(f"{name!r} is no signal.", remedy="Use TERM, INT, KILL, HUP, USR1, …") from None
