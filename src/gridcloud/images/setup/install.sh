#!/bin/sh
# Set up an image from the files beside this script, as root: in a container that is being built, in the root file
# system of a machine's image, or on a machine at its first boot. Each argument is a step.
#
#   debian   Debian's packages: those of debian.lock and no others, checked against its sums; without it, debian.names
#   python   the session's environment: what requirements.txt names, checked against its sums
#   finish   what the definition adds by finish.sh; the session's account; compiled caches; the list of what is in it
#   check    check.py, as the session's account
#
# wheels/: Python packages that were fetched before; pip asks its index where there are none.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
session=/opt/gridcloud-session
share=$session/share/gridcloud
epoch=${SOURCE_DATE_EPOCH:-1735689600}
PATH=$session/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
umask 022

say() { echo "install: $*" >&2; }
fail() { say "$*"; exit 1; }

apt() {
    apt-get -q -y -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 -o APT::Install-Recommends=false \
        -o APT::Keep-Downloaded-Packages=true "$@"
}

install_debian() {
    [ -s "$here/debian.names" ] || return 0
    if [ -n "${APT_MIRROR:-}" ]; then
        . /etc/os-release
        rm -f /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list
        echo "deb $APT_MIRROR $VERSION_CODENAME main" >/etc/apt/sources.list
    fi
    apt update || fail "Debian's lists of packages could not be fetched"
    if [ -e "$here/debian.lock" ]; then
        install_locked
    else
        # shellcheck disable=SC2046
        apt install -- $(cat "$here/debian.names")
    fi
    apt clean
    rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
}

# debian.lock: `NAME=VERSION SHA256`, one a line.
install_locked() {
    [ -s "$here/debian.lock" ] || return 0
    words=$(cut -d ' ' -f 1 "$here/debian.lock")
    # shellcheck disable=SC2086
    apt install --download-only -- $words ||
        fail "the versions of the lock cannot be had: use a mirror that keeps them, or lock anew"
    for package in /var/cache/apt/archives/*.deb; do
        [ -e "$package" ] || continue
        sum=$(sha256sum "$package" | cut -d ' ' -f 1)
        grep -q " $sum\$" "$here/debian.lock" || fail "${package##*/} is not in the lock: lock anew for this base"
    done
    # shellcheck disable=SC2086
    apt install --no-download -- $words
}

install_python() {
    [ -e "$here/requirements.txt" ] || return 0
    [ -x "$session/bin/python" ] || python3 -m venv "$session"
    set -- --require-hashes --only-binary=:all: --no-deps --no-compile --no-cache-dir --no-input --progress-bar off
    if [ -n "$(ls "$here/wheels" 2>/dev/null)" ]; then
        set -- "$@" --no-index --find-links "$here/wheels"
    fi
    "$session/bin/python" -m pip install --quiet "$@" --requirement "$here/requirements.txt"
    "$session/bin/python" -m pip check --quiet
    rm -rf "$session/share/jupyter/lab/staging"
}

finish() {
    if [ -e "$here/finish.sh" ]; then sh -eu "$here/finish.sh"; fi
    if ! getent passwd 1000 >/dev/null; then
        # No password, and yet none that shuts out a key.
        useradd --create-home --uid 1000 --shell /bin/bash --password '*' user
    fi
    mkdir -p /etc/profile.d "$share"
    echo "PATH=$session/bin:\$PATH" >/etc/profile.d/gridcloud-session.sh
    make_caches
    "$session/bin/python" "$here/contents.py" "$share/contents.cdx.json"
    rm -rf /tmp/* /var/tmp/* /root/.cache /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
    rm -rf /var/cache/ldconfig/aux-cache /var/cache/debconf/*-old
}

find_uncompiled() {
    tag=$("$session/bin/python" -c 'import sys; print(sys.implementation.cache_tag)')
    find "$session/lib" -name '*.py' | while read -r file; do
        name=${file##*/}
        [ -e "${file%/*}/__pycache__/${name%.py}.$tag.pyc" ] || echo "$file"
    done
}

# What programs would make at their first start, each user for themselves.
make_caches() {
    # One time for all files: caches that remember the time of their source stay good in any copy of the image. What is
    # from the image below is left alone: a file that is touched is in this image once more.
    find "$session" -newermt "@$epoch" -exec touch --no-dereference --date="@$epoch" {} +
    find_uncompiled >/tmp/uncompiled
    if [ -s /tmp/uncompiled ]; then
        # Some packages bring files for other versions of Python, which do not compile.
        "$session/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash -i /tmp/uncompiled || true
    fi
    if command -v fc-cache >/dev/null; then fc-cache --system-only --force; fi
    if [ -e "$here/caches.py" ]; then
        mkdir -p "$share/cache"
        chown 1000 "$share/cache"
        as_user XDG_CACHE_HOME="$share/cache" "$session/bin/python" - <"$here/caches.py"
        chown -R root:root "$share/cache"
    fi
    mkdir -p "$session/etc/ipython/startup"
    cp "$here/kernel-startup" "$session/etc/ipython/startup/00-gridcloud-caches.py"
}

as_user() {
    home=$(getent passwd 1000 | cut -d : -f 6)
    setpriv --reuid=1000 --regid=1000 --clear-groups env HOME="$home" MPLBACKEND=Agg "$@"
}

check() {
    [ -e "$here/check.py" ] || return 0
    if [ "$(id -u)" = 0 ]; then
        as_user "$session/bin/python" - <"$here/check.py"
    else
        MPLBACKEND=Agg "$session/bin/python" - <"$here/check.py"
    fi
}

for step; do
    say "$step"
    case $step in
        debian) install_debian ;;
        python) install_python ;;
        finish) finish ;;
        check) check ;;
        *) fail "there is no step $step" ;;
    esac
done
