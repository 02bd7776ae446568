#!/usr/bin/env bash
# The SELECTs of PostgreSQL's own regression tests, those about queries: the tests run once, every table that they leave is tracked, and each SELECT
# that can still be asked is captured. Prints the shares and the most frequent reasons.
# usage: scripts/fineness/regression.sh <url of a server> <folder to work in>
set -euo pipefail
cd "$(dirname "$0")/../.."
here=scripts/fineness url=$1 work=$2
suite=$(scripts/regression/sources.sh)
tests=(
    test_setup copy create_misc create_operator create_table create_type create_index create_view create_aggregate select inherit
    select_distinct select_distinct_on select_implicit select_having subselect union case join aggregates arrays btree_index hash_index
    rowsecurity groupingsets window limit with rangefuncs partition_join partition_prune partition_aggregate incremental_sort bitmapops memoize equivclass
)

psql -Xq -v ON_ERROR_STOP=1 "$url" -c "CREATE DATABASE fineness_regression TEMPLATE template0"
database="${url%/*}/fineness_regression"
mkdir -p "$work/lib"
if command -v cc >/dev/null; then
    cc -O1 -fPIC -shared -I"$("${PG_CONFIG:-pg_config}" --includedir-server)" "$suite/regress.c" -o "$work/lib/regress.so" 2>/dev/null || true
fi
chmod -R a+rX "$work"
for test in "${tests[@]}"; do
    # The log has each statement as psql has sent it, its variables put in.
    (cd "$work" && PG_ABS_SRCDIR="$suite" PG_LIBDIR="$work/lib" PG_DLSUFFIX=.so PGDATESTYLE='Postgres, MDY' timeout 120 \
        psql -Xq -L "$work/$test.log" "$database" -f "$suite/sql/$test.sql") >/dev/null 2>&1 || true
done
psql -Xq -v ON_ERROR_STOP=1 "$database" -c "CREATE EXTENSION cachetag" -f "$here/tables.sql" -f "$here/track_indexed.sql"

for test in "${tests[@]}"; do
    awk '
        /^\*+ QUERY \*+$/ { text = ""; inside = 1; next }
        inside && /^\*+$/ {
            inside = 0
            if (tolower(text) ~ /^\(*(select|with|values|table)[^a-z_]/ && !seen[text]++)
                printf "INSERT INTO fineness.query (part, text) VALUES (\047regression\047, $fineness$%s$fineness$);\n", text
            next
        }
        inside && text == "" && /^[ \t]*(--.*)?$/ { next }
        inside { text = text (text == "" ? "" : "\n") $0 }
    ' "$work/$test.log" 2>/dev/null || true
done | psql -Xq -v ON_ERROR_STOP=1 "$database"

ask=(psql -XqAt -F ' ' "$database")
export PGOPTIONS='-c statement_timeout=5s -c client_min_messages=error'
"${ask[@]}" -f "$here/statements.sql" | "${ask[@]}" 2>/dev/null | psql -Xq -v ON_ERROR_STOP=1 "$database"
"${ask[@]}" -v ON_ERROR_STOP=1 -f "$here/reasons.sql" -f "$here/shares.sql" \
    -c "SELECT format('regression: %s SELECTs more cannot be asked any more: their tables are gone, they fail, or take too long', count(*)) FROM fineness.query q WHERE NOT EXISTS (SELECT FROM fineness.result r WHERE r.query = q.id)"
