#!/usr/bin/env bash
# Unpacks capture programs that are newer than this Debian's into a tree of their own, outside of the checkout: they bring
# their C library along, and the tests run them there with chroot. Nothing is installed on this machine.
# Quick when they are there already. Where they are not to be had, this says so and is no failure: the tests of these
# programs then say that they were skipped.
#
# VITRINE_CACHE          where to keep them (default: $XDG_CACHE_HOME/vitrine or ~/.cache/vitrine)
# VITRINE_DEBIAN_MIRROR  a Debian mirror, where apt's own configuration does not name one
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=${VITRINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vitrine}
suite=forky # the first with grim 1.5
programs=(grim wayvnc wl-mirror xdg-desktop-portal-wlr)
others=(
    # what the portal's clients and its pictures' way to them need
    dbus-daemon libglib2.0-bin pipewire-bin wireplumber gstreamer1.0-pipewire gstreamer1.0-tools
    # software GL for wl-mirror, and for Vitrine itself
    libegl1 libegl-mesa0 libgles2 libgl1-mesa-dri
    # what Vitrine itself needs besides, to be run with that GL
    libgbm1 libinput10 libpixman-1-0 libseat1 libudev1 libxkbcommon0
)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
hash=$(sha256sum <"$here/programs.sh" | cut -c1-12)
tree=$cache/programs-$hash

say() { printf 'programs: %s\n' "$*"; }
give_up() {
    printf 'programs: %s\n' "$*" >&2
    say "the tests of newer capture programs (${programs[*]}) will say that they were skipped"
    exit 0
}

# The tests of this checkout find the tree through target/programs.
link_and_leave() {
    mkdir -p "$top/target"
    ln -s "$tree" "$top/target/programs.$$"
    mv -T "$top/target/programs.$$" "$top/target/programs"
    say "ready in $tree"
    exit 0
}

# Where this machine gets Debian from, by its own word.
mirror() {
    if [[ -n ${VITRINE_DEBIAN_MIRROR:-} ]]; then
        printf '%s\n' "$VITRINE_DEBIAN_MIRROR"
        return
    fi
    local suites='bookworm|trixie|forky|stable|oldstable' uris
    uris=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
        awk -v suites="^($suites)$" '$2 ~ suites && $1 !~ /security/ { print $1 }')
    # Images are often shipped without the lists; then apt can only say what it would fetch.
    [[ -n $uris ]] || uris=$(apt-get --print-uris update |
        sed -nE "/security/d; s,^'([^']+)/dists/($suites)/InRelease' .*,\1/,p")
    printf '%s\n' "${uris%%$'\n'*}"
}

# apt with a state of its own in which nothing is installed: it resolves the programs down to the C library, checks
# signatures as always, and neither needs root nor touches this machine's packages.
private_apt() {
    local program=$1
    shift
    "$program" -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::Etc::preferences=- -o Dir::Etc::preferencesparts="$work/empty" \
        -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/status" \
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -o APT::Install-Recommends=false "$@"
}

if [[ -x $tree/usr/bin/grim ]]; then link_and_leave; fi
mkdir -p "$cache"
exec 9>"$cache/programs.lock"
flock -n 9 || { say "another download is going on, waiting for it"; flock 9; }
if [[ -x $tree/usr/bin/grim ]]; then link_and_leave; fi

rm -rf "$cache"/unpack.* # left behind by a run that was killed; we hold the lock
work=$(mktemp -d "$cache/unpack.XXXXXX")
trap 'rm -rf "$work"' EXIT
uri=$(mirror) || true
[[ -n $uri ]] || give_up "apt's configuration names no Debian mirror; set VITRINE_DEBIAN_MIRROR to one"
[[ -r $keyring ]] || give_up "$keyring is missing; install debian-archive-keyring"
mkdir -p "$work"/{lists/partial,cache/archives/partial,empty,tree}
: >"$work/status"
printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$uri" "$suite" >"$work/sources.list"

say "reading the index of $suite"
private_apt apt-get update >"$work/log" 2>&1 || give_up "$(tail -n 5 "$work/log")"
say "downloading ${programs[*]} and all that they need (about 200 MB)"
private_apt apt-get install -y --download-only "${programs[@]}" "${others[@]}" >"$work/log" 2>&1 ||
    give_up "$(tail -n 5 "$work/log")"
say "unpacking"
# Merged /usr comes from the package that has the links; tar then follows them.
for dir in bin sbin lib lib64; do
    mkdir -p "$work/tree/usr/$dir"
    ln -s "usr/$dir" "$work/tree/$dir"
done
for package in "$work"/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$work/tree" --keep-directory-symlink --no-same-owner \
        --exclude='./usr/share/doc*' --exclude='./usr/share/man*' --exclude='./usr/share/locale*' ||
        give_up "${package##*/} does not unpack"
done
# Where the tests put the machine's own, which is read-only there.
mkdir -p "$work"/tree/{dev,proc,sys,run,tmp,out}
# What maintainer scripts would have done.
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$work/tree/etc/passwd"
printf 'root:x:0:\n' >"$work/tree/etc/group"
mv -T "$work/tree" "$tree"
link_and_leave
