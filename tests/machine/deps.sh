#!/usr/bin/env bash
# Installs the Debian packages that building and testing Vitrine needs. Quick when nothing is missing.
set -euo pipefail

packages=(
    # to build Vitrine
    gcc make pkg-config libc6-dev libudev-dev libgbm-dev libxkbcommon-dev libwayland-dev libinput-dev libseat-dev
    libpixman-1-dev libegl-dev
    # to run it: software GL, seat, devices, keymaps
    libegl1 libegl-mesa0 libgles2 libgl1-mesa-dri seatd udev xkb-data
    # to build the test kernel
    flex bison bc libelf-dev libssl-dev patch xz-utils debian-archive-keyring
    # what the tests and the demo run
    weston foot wayland-utils fonts-dejavu-core grim wf-recorder ffmpeg
)

missing() {
    # It fails, and says nothing of them, when some are unknown to it: that is the question.
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null || true)
    printf '%s\n' "${packages[@]}" | sort -u |
        comm -23 - <(sed -n 's/^installed //p' <<<"$installed" | sort -u)
}

command -v dpkg-query >/dev/null || {
    echo "deps: this is not Debian; install the equivalents of: ${packages[*]}" >&2
    exit 1
}
mapfile -t wanted < <(missing)
((${#wanted[@]})) || exit 0

echo "deps: installing ${wanted[*]}"
root=()
if ((EUID != 0)); then
    command -v sudo >/dev/null || {
        echo "deps: run this as root: apt-get install ${wanted[*]}" >&2
        exit 1
    }
    root=(sudo)
fi
"${root[@]}" apt-get -q update
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${wanted[@]}"
