"""Folders of file servers in a session: mounted by SSHFS where it runs, by what starts its program.

Its program is started by two small POSIX shell programs. The first gives the key to an SSH agent of its own and forgets
it; the second mounts, runs the program, and unmounts when that has ended, however it ended. The key is in no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gridcloud.errors import InvalidSettings
from gridcloud.hooks.model import Mount
from gridcloud.sessions.model import Plan

__all__ = ["mounted", "mounting_keys", "with_mounts"]

# The key reaches the agent by standard input; what is started here does not have it in its environment any more.
# $1: the variable with the key, $2: the second program, then its arguments.
_KEY = r"""
variable=$1; second=$2; shift 2
eval "key=\${$variable}"
said=$(printf '%s\n' "$key" | ssh-add -q - 2>&1) || {
    echo "The remote folder is not mounted: its key is not taken ($said)." >&2
    kill "$SSH_AGENT_PID"; exit 69; }
unset key said "$variable"
exec /bin/sh -c "$second" gridcloud "$@"
"""

# $1: where, below the working directory, $2: ACCOUNT@HOST:FOLDER, $3: port, $4: lines of known hosts,
# $5: certificate or nothing, $6: further options of sshfs, then the program. What watches holds the pipe's other end:
# it learns of our end even when we are killed, and is no child of ours, so that it is not ended with us.
_MOUNT = r"""
trap 'kill "$SSH_AGENT_PID"' EXIT
at=$PWD/$1; from=$2; port=$3; known=$4; certificate=$5; more=$6; shift 6
fail() { echo "The remote folder is not mounted: $*" >&2; exit 69; }
for one in sshfs fusermount3 mkfifo setsid; do
    command -v $one >/dev/null || fail "this machine has no $one."
done
[ -c /dev/fuse ] || fail "this machine has no /dev/fuse."
[ -d "$at" ] || fusermount3 -uzq -- "$at" 2>/dev/null
mkdir -p -- "$at" || fail "$at cannot be made."
[ "$(stat -c %d -- "$at")" = "$(stat -c %d -- "$at/..")" ] || fail "something is mounted at $at already."
umask 077
private=$(mktemp -d /tmp/gridcloud-mount.XXXXXX) || fail "nothing can be written in /tmp."
trap 'rm -rf -- "$private"; kill "$SSH_AGENT_PID"' EXIT
printf '%s\n' "$known" >"$private/known"
if [ -n "$certificate" ]; then
    printf '%s\n' "$certificate" >"$private/certificate"
    more="$more,CertificateFile=$private/certificate"
fi
mkfifo -- "$private/life" || fail "no pipe can be made in /tmp."
( setsid /bin/sh -c '
    read -r end <"$1/life"
    fusermount3 -uq -- "$2" || fusermount3 -uzq -- "$2"
    rm -rf -- "$1"
    kill "$3"' gridcloud "$private" "$at" "$SSH_AGENT_PID" </dev/null >/dev/null 2>&1 & )
exec 8>"$private/life"
sshfs -F /dev/null -p "$port" -o "reconnect,ServerAliveInterval=5,ServerAliveCountMax=3,ConnectTimeout=15" \
    -o "BatchMode=yes,PreferredAuthentications=publickey,StrictHostKeyChecking=yes,CheckHostIP=no" \
    -o "HostKeyAlias=gridcloud,UserKnownHostsFile=$private/known,GlobalKnownHostsFile=/dev/null" \
    -o "IdentityAgent=$SSH_AUTH_SOCK$more" -- "$from" "$at" 8>&- >"$private/said" 2>&1 ||
    fail "$(tail -c 1000 "$private/said")"
umask 022
env -u SSH_AUTH_SOCK -u SSH_AGENT_PID "$@" 8>&- &
child=$!
trap 'kill -s TERM $child 2>/dev/null' TERM INT HUP
code=0
wait $child || code=$?
while kill -0 $child 2>/dev/null; do
    code=0; wait $child || code=$?
done
fusermount3 -uq -- "$at" || fusermount3 -uzq -- "$at"
exit $code
"""


def mounted(words: Sequence[str], mounts: Sequence[Mount]) -> tuple[str, ...]:
    """Return the words that start a program with these folders below its working directory, and take them away.

    Raises InvalidSettings where two would lie in one place.
    """
    places = [mount.at for mount in mounts]
    if len(set(places)) < len(places):
        raise InvalidSettings(f"Two folders would be mounted at {max(places, key=places.count)!r}.")
    found = tuple(words)
    for number, mount in enumerate(mounts):
        found = (*_start(number, mount), *found)
    return found


def with_mounts(plan: Plan, mounts: Sequence[Mount]) -> Plan:
    """Return the plan of a session with these folders in its home. Raises InvalidSettings as `mounted` does."""
    return plan.model_copy(update={"words": mounted(plan.words, mounts)}) if mounts else plan


def mounting_keys(mounts: Sequence[Mount]) -> Mapping[str, str]:
    """Return the variables that hold the keys: secret, to be given beside the words."""
    return {_variable(number): mount.key.reveal() for number, mount in enumerate(mounts)}


def _start(number: int, mount: Mount) -> tuple[str, ...]:
    host = f"[{mount.host}]" if ":" in mount.host else mount.host
    return (
        *("ssh-agent", "-t", str(mount.life), "/bin/sh", "-c", _KEY, "gridcloud"),
        *(_variable(number), _MOUNT),
        *(mount.at, f"{mount.account}@{host}:{mount.folder}", str(mount.port)),
        "\n".join(f"gridcloud {key}" for key in mount.host_keys),
        mount.certificate,
        ",ro" if mount.read_only else "",
    )


def _variable(number: int) -> str:
    return f"GRIDCLOUD_MOUNT_{number}"
