#!/usr/bin/env bash
# Makes Valkey 8 available on Debian 12 without touching the system, and prints the path of valkey-server.
#
#   CACHETAG_REDIS_SERVER="$(scripts/valkey.sh)" cargo test -p cachetag-tests --test redis_library
#
# The packages come from bookworm-backports through a private apt root: apt checks them with the system's archive keyring, nothing is
# installed, and the system's own package lists stay as they are. A second run finds the result and downloads nothing.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
home="$root/.cache/valkey"
server="$home/root/usr/bin/valkey-server"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mirror="${DEBIAN_MIRROR:-http://deb.debian.org/debian}"

fail() {
    echo "valkey.sh: $*" >&2
    exit 1
}

works() {
    [[ -x "$server" ]] && "$server" --version 2>/dev/null | grep -Eq 'v=([89]|[1-9][0-9])\.'
}

if works; then
    echo "$server"
    exit 0
fi

for tool in apt-get dpkg dpkg-deb flock; do
    command -v "$tool" >/dev/null || fail "$tool is missing: this script needs Debian's apt; elsewhere set CACHETAG_REDIS_SERVER to a valkey-server of your own"
done
[[ -r "$keyring" ]] || fail "$keyring is missing: install the package debian-archive-keyring"

mkdir -p "$home"
exec 9>"$home/lock"
flock 9 # two test runs may want it at once
if works; then
    echo "$server"
    exit 0
fi

apt="$home/apt"
rm -rf "$apt" "$home/unpacked" "$home/root"
mkdir -p "$apt/etc/apt.conf.d" "$apt/etc/preferences.d" "$apt/etc/trusted.gpg.d" "$apt/state/lists/partial" "$apt/cache/archives/partial" "$home/unpacked"
: >"$apt/status" # an empty dpkg database: nothing counts as installed
echo "deb [signed-by=$keyring] $mirror bookworm-backports main" >"$apt/etc/sources.list"

private=(
    -o "Dir::Etc=$apt/etc" -o "Dir::State=$apt/state" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
    -o "APT::Sandbox::User=$(id -un)" -o "APT::Architecture=$(dpkg --print-architecture)" -o "Acquire::Languages=none" -o "Acquire::Retries=3"
)
apt-get "${private[@]}" -qq update >&2 || fail "cannot read the package lists of $mirror bookworm-backports; DEBIAN_MIRROR names another mirror"
# valkey-server is a link to a binary that the package valkey-tools holds.
(cd "$apt/cache" && apt-get "${private[@]}" -qq download valkey-server valkey-tools >&2) || fail "cannot download valkey-server and valkey-tools from $mirror bookworm-backports"
for package in "$apt"/cache/*.deb; do
    dpkg-deb -x "$package" "$home/unpacked" || fail "cannot unpack $package"
done
mv "$home/unpacked" "$home/root"
rm -rf "$apt"

missing="$(ldd "$server" | awk '/not found/ { print $1 }' | tr '\n' ' ')"
[[ -z "$missing" ]] || fail "$server lacks the libraries $missing: install redis-server or the packages that hold them"
works || fail "$server does not run, or is older than 8: $("$server" --version 2>&1 || true)"
echo "$server"
