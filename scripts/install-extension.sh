#!/usr/bin/env bash
# Installs the extension that was built last into the folders of one PostgreSQL: scripts/install-extension.sh [pg_config]
set -euo pipefail
cd "$(dirname "$0")/.."
pg_config=${1:-${PG_CONFIG:-pg_config}}
library=${CARGO_TARGET_DIR:-target}/release/libcachetag.so
version=$(sed -n "s/^default_version = '\(.*\)'/\1/p" extension/cachetag.control)
[ -f "$library" ] || { echo "$library is missing: run make build first" >&2; exit 1; }
libdir=$("$pg_config" --pkglibdir)
sharedir=$("$pg_config" --sharedir)/extension
# A new file, not new bytes in the old one: running servers have the old one mapped.
install -d "$libdir" "$sharedir"
install -m 755 "$library" "$libdir/libcachetag.so.new"
mv -f "$libdir/libcachetag.so.new" "$libdir/libcachetag.so"
install -m 644 extension/cachetag.control "$sharedir/cachetag.control"
cat sql/[0-9][0-9]-*.sql > "$sharedir/cachetag--$version.sql.new"
chmod 644 "$sharedir/cachetag--$version.sql.new"
mv -f "$sharedir/cachetag--$version.sql.new" "$sharedir/cachetag--$version.sql"
echo "installed cachetag $version into $libdir and $sharedir"
