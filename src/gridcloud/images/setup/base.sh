#!/bin/sh
# Write the root file system of a Debian release as a tar archive to standard output: what stands below all images.
#
#   base.sh RELEASE [MIRROR]
#
# Without a mirror, packages come from where this computer's apt gets its own of that release; apt checks the
# archive's signatures either way. The same versions give the same archive.
set -eu

release=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
if [ -n "${2:-}" ]; then
    echo "deb $2 $release main" >"$work/sources.list"
else
    apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
        awk '$2 ~ "^" release && $3 == "main" && $4 == "Debian" { print "deb", $1, $2, $3 }' release="$release" |
        sort -u >"$work/sources.list"
fi
[ -s "$work/sources.list" ] || {
    echo "apt here knows no source of Debian $release: name a mirror, or run apt-get update" >&2
    exit 1
}
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-1735689600}"
mmdebstrap --quiet --variant=minbase --include=ca-certificates --format=tar \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    "$release" - "$work/sources.list"
