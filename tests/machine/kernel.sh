#!/usr/bin/env bash
# Builds the test kernel, twice, and keeps the two programs outside the checkout:
#   counted  with vkms-counted.patch: vkms as sound hardware, what tests use unless they say otherwise
#   stock    vkms as Debian ships it: it loses writeback jobs, for the tests of faulty hardware
# Both with um-clock.patch: a process' CPU time is what it used, not a guess from timer ticks.
# Quick when they are there already. Safe to run several times at once.
#
# VITRINE_CACHE          where to keep them (default: $XDG_CACHE_HOME/vitrine or ~/.cache/vitrine)
# VITRINE_DEBIAN_MIRROR  a Debian mirror, where apt's own configuration does not name one
set -euo pipefail
unset MAKEFLAGS MAKELEVEL MFLAGS # called by make, but not a part of its run

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=${VITRINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vitrine}
suite=trixie-backports
oldest=6.19 # the first with vkms in configfs and with a writeback connector that can be cloned
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
hash=$(cat "$here/kernel.config" "$here/um-clock.patch" "$here/vkms-counted.patch" "$here/kernel.sh" | sha256sum | cut -c1-12)

say() { printf 'kernel: %s\n' "$*"; }
die() { printf 'kernel: %s\n' "$*" >&2; exit 1; }

# The newest finished kernel of this recipe, if any.
cached() {
    local dir
    for dir in $(printf '%s\n' "$cache"/kernel-*-"$hash" | sort -rV); do
        if [[ -x $dir/counted/linux && -x $dir/stock/linux ]]; then
            printf '%s\n' "$dir"
            return
        fi
    done
    return 1
}

# The tests of this checkout find the kernel through target/kernel, so that two checkouts with
# different recipes do not disturb each other.
link_and_leave() {
    mkdir -p "$top/target"
    ln -s "$1" "$top/target/kernel.$$"
    mv -T "$top/target/kernel.$$" "$top/target/kernel"
    say "ready in $1"
    exit 0
}

# Where this machine gets Debian from, by its own word.
mirror() {
    if [[ -n ${VITRINE_DEBIAN_MIRROR:-} ]]; then
        printf '%s\n' "$VITRINE_DEBIAN_MIRROR"
        return
    fi
    local suites='bookworm|trixie|stable|oldstable' uris
    uris=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
        awk -v suites="^($suites)$" '$2 ~ suites && $1 !~ /security/ { print $1 }')
    # Images are often shipped without the lists; then apt can only say what it would fetch.
    [[ -n $uris ]] || uris=$(apt-get --print-uris update |
        sed -nE "/security/d; s,^'([^']+)/dists/($suites)/InRelease' .*,\1/,p")
    # No pipe into head: apt-get would die of the closed pipe and take the script with it.
    printf '%s\n' "${uris%%$'\n'*}"
}

# apt with a state of its own: the machine's sources and lists stay as they are, signatures are
# checked as always, and root is not needed.
private_apt() {
    local program=$1
    shift
    "$program" -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::Etc::preferences=- -o Dir::Etc::preferencesparts="$work/empty" \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" \
        -o APT::Sandbox::User=root "$@"
}

# Leaves the unpacked source in $work/source and its version in $version.
get_source() {
    local uri package
    uri=$(mirror)
    [[ -n $uri ]] || die "apt's configuration names no Debian mirror; set VITRINE_DEBIAN_MIRROR to one"
    [[ -r $keyring ]] || die "$keyring is missing; install debian-archive-keyring"
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/source" "$work/empty"
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$uri" "$suite" >"$work/sources.list"

    say "reading the index of $suite"
    private_apt apt-get update >"$work/log" 2>&1 || die "$(cat "$work/log")"
    package=$(private_apt apt-cache search --names-only '^linux-source-[0-9.]+$' |
        cut -d' ' -f1 | sort -V | tail -n1)
    [[ -n $package ]] || die "$suite on $uri has no linux-source package"
    version=$(private_apt apt-cache show --no-all-versions "$package" | sed -n 's/^Version: //p')
    version=${version%%-*}
    [[ $(printf '%s\n' "$oldest" "$version" | sort -V | head -n1) == "$oldest" ]] ||
        die "the newest kernel source in $suite is $version; at least $oldest is needed"

    say "downloading the source of Linux $version (about 170 MB)"
    (cd "$work" && private_apt apt-get download "$package") >"$work/log" 2>&1 || die "$(cat "$work/log")"
    say "unpacking"
    # The headers of one GPU family are a third of the tree, and nothing here needs them.
    dpkg-deb --fsys-tarfile "$work/$package"_*.deb |
        tar -xO "./usr/src/$package.tar.xz" | xz -dc -T0 |
        tar -x -C "$work/source" --strip-components=1 --exclude='*/drivers/gpu/drm/amd/include/asic_reg'
    rm -f "$work"/*.deb
}

# Builds what is in $work/source now and puts it in $work/done/NAME/linux.
build() {
    local name=$1
    say "building the $name kernel (some minutes for the first; log: $work/$name.log)"
    make -C "$work/source" ARCH=um O="$work/build" -j"$(nproc)" linux >"$work/$name.log" 2>&1 || {
        grep -m5 -B2 -A5 -E 'error:|Error [0-9]' "$work/$name.log" >&2 || tail -n 30 "$work/$name.log" >&2
        die "the $name kernel does not build"
    }
    mkdir -p "$work/done/$name"
    install -m 755 "$work/build/linux" "$work/done/$name/linux"
    strip --strip-debug "$work/done/$name/linux"
}

configure() {
    local wanted
    make -C "$work/source" ARCH=um O="$work/build" allnoconfig \
        KCONFIG_ALLCONFIG="$here/kernel.config" >"$work/log" 2>&1 || die "$(tail -n 20 "$work/log")"
    # Kconfig drops what it cannot give without a word.
    grep -E '^CONFIG_[A-Z0-9_]+=' "$here/kernel.config" | while read -r wanted; do
        grep -qxF "$wanted" "$work/build/.config" || die "Linux $version does not take $wanted"
    done
}

if dir=$(cached); then link_and_leave "$dir"; fi
mkdir -p "$cache"
exec 9>"$cache/lock"
flock -n 9 || { say "another build is going on, waiting for it"; flock 9; }
if dir=$(cached); then link_and_leave "$dir"; fi

rm -rf "$cache"/build.* # left behind by a build that was killed; we hold the lock
work=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
started=$SECONDS
get_source
configure
patch -d "$work/source" -p1 --quiet <"$here/um-clock.patch"
patch -d "$work/source" -p1 --quiet <"$here/vkms-counted.patch"
build counted
patch -d "$work/source" -p1 --quiet --reverse <"$here/vkms-counted.patch"
build stock
dir=$cache/kernel-$version-$hash
rm -rf "$dir"
mv -T "$work/done" "$dir"
say "built in $((SECONDS - started)) s"
link_and_leave "$dir"
