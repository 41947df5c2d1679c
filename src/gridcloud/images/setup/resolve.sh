#!/bin/sh
# Write to /out/debian what apt would install here for the packages in debian.names: `NAME=VERSION SHA256`, one a line.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
if [ -n "${APT_MIRROR:-}" ]; then
    . /etc/os-release
    rm -f /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list
    echo "deb $APT_MIRROR $VERSION_CODENAME main" >/etc/apt/sources.list
fi
apt-get -q update
# shellcheck disable=SC2046
apt-get -q --simulate --no-install-recommends install -- $(cat "$here/debian.names") >/tmp/plan
sed -n 's/^Inst \([^ ]*\) \(\[[^]]*\] \)\{0,1\}(\([^ ]*\) .*/\1=\3/p' /tmp/plan | sort >/tmp/packages
while read -r package; do
    total=$(apt-cache show -- "$package" | sed -n 's/^SHA256: //p' | head -n 1)
    [ -n "$total" ] || { echo "apt knows no checksum of $package" >&2; exit 1; }
    echo "$package $total"
done </tmp/packages >/out/debian
