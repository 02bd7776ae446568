#!/bin/sh
# Installs the built extension: the library, the control file and the SQL, into the folders that pg_config names.
# usage: scripts/install-extension.sh [pg_config]     before it: PGRX_PG_CONFIG_PATH=<pg_config> cargo build --release -p cachetag
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
pg_config=${1:-pg_config}
library=${CARGO_TARGET_DIR:-$root/target}/release/libcachetag.so
[ -f "$library" ] || { echo "$library is missing: PGRX_PG_CONFIG_PATH=$pg_config cargo build --release -p cachetag" >&2; exit 1; }
libdir=${DESTDIR:-}$("$pg_config" --pkglibdir)
extdir=${DESTDIR:-}$("$pg_config" --sharedir)/extension
version=$(sed -n "s/^default_version = '\(.*\)'/\1/p" "$root/extension/cachetag.control")

mkdir -p "$libdir" "$extdir"
# A new file under the old name: servers that have the old library mapped keep it.
install -m 755 "$library" "$libdir/libcachetag.so.new"
mv "$libdir/libcachetag.so.new" "$libdir/libcachetag.so"
install -m 644 "$root/extension/cachetag.control" "$extdir/cachetag.control"
# One script a version is what PostgreSQL wants; chapters of it are what people want to read.
script=$(mktemp)
cat "$root"/sql/[0-9][0-9]-*.sql >"$script"
install -m 644 "$script" "$extdir/cachetag--$version.sql"
rm -f "$script"
echo "cachetag $version: $libdir/libcachetag.so, $extdir/cachetag--$version.sql"
