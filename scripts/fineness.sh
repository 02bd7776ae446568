#!/usr/bin/env bash
# How fine the tags of unchanged queries are, over pgbench, the shapes of TPC-H and the demo shop: the share of SELECTs whose result may be cached, and of
# the reads of a relation with an equality on a tracked column the share that got a finer tag than the family. Equalities count whose values the scan
# has: a hash join reads its whole side. Prints each query that is not cacheable and each read that is coarse, with the reason.
# usage: scripts/fineness.sh     after `make install`; CACHETAG_BIN names the daemon
set -euo pipefail
cd "$(dirname "$0")/.."
cachetag=${CACHETAG_BIN:-target/release/cachetag}
work=$(mktemp -d)
dev=
finish() {
    [[ -z $dev ]] || { kill -TERM "$dev" 2>/dev/null || true; wait "$dev" 2>/dev/null || true; }
    rm -rf "$work"
}
trap finish EXIT

: >"$work/dev.out"
"$cachetag" dev --load demo/shop.sql >"$work/dev.out" 2>"$work/dev.log" &
dev=$!
until grep -qx ready "$work/dev.out"; do
    kill -0 "$dev" 2>/dev/null || { tail -n 20 "$work/dev.log" >&2; exit 1; }
    sleep 0.1
done
url=$(sed -n 's/^postgres=//p' "$work/dev.out")

{
    cat <<'SQL'
SET client_min_messages = warning;
CREATE SCHEMA fineness;
CREATE TABLE fineness.query (id int GENERATED ALWAYS AS IDENTITY, part text, text text);
ANALYZE;
SQL
    cat scripts/fineness/shop.sql
    # Their tables have names of the shop's.
    echo "CREATE SCHEMA pgbench; SET search_path = pgbench, public;"
    cat scripts/fineness/pgbench.sql
    echo "CREATE SCHEMA tpch; SET search_path = tpch, public;"
    cat scripts/fineness/tpch.sql
} | psql -Xq -v ON_ERROR_STOP=1 "$url" >/dev/null
psql -Xq "$url" -c "CREATE TABLE fineness.result (query int, cacheable boolean, reasons text[]); CREATE TABLE fineness.read (query int, relation regclass, tags text[], reason text)"
psql -XqAt -F ' ' "$url" -f scripts/fineness/statements.sql | psql -XqAt -v ON_ERROR_STOP=1 "$url" | psql -Xq -v ON_ERROR_STOP=1 "$url"
psql -XqAt -v ON_ERROR_STOP=1 "$url" -f scripts/fineness/report.sql
