#!/usr/bin/env bash
# How fine the tags of unchanged queries are, over pgbench, the shapes of TPC-H, the demo shop and the queries of PostgreSQL's regression tests: the share
# of SELECTs whose result may be cached, and of the reads of a relation with an equality on a tracked column the share that got a finer tag than the
# family. A read is a scan: a query may read a relation as a whole in one and by a key in another. Equalities count whose values the scan has: a hash join
# reads its whole side. Prints what is not cacheable and what is coarse, with the reasons.
# usage: scripts/fineness.sh [--without-regression]     after `make install`; CACHETAG_BIN names the daemon
set -euo pipefail
cd "$(dirname "$0")/.."
cachetag=${CACHETAG_BIN:-target/release/cachetag}
work=$(mktemp -d)
chmod 755 "$work"
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
    cat scripts/fineness/tables.sql
    echo "ANALYZE;"
    cat scripts/fineness/shop.sql
    # Their tables have names of the shop's.
    echo "CREATE SCHEMA pgbench; SET search_path = pgbench, public;"
    cat scripts/fineness/pgbench.sql
    echo "CREATE SCHEMA tpch; SET search_path = tpch, public;"
    cat scripts/fineness/tpch.sql
} | psql -Xq -v ON_ERROR_STOP=1 "$url" >/dev/null
psql -XqAt -F ' ' "$url" -f scripts/fineness/statements.sql | psql -XqAt -v ON_ERROR_STOP=1 "$url" | psql -Xq -v ON_ERROR_STOP=1 "$url"
psql -XqAt -v ON_ERROR_STOP=1 "$url" -f scripts/fineness/details.sql -f scripts/fineness/shares.sql
[[ ${1:-} == --without-regression ]] || scripts/fineness/regression.sh "$url" "$work"
