#!/bin/sh
# Runs the SQL tests of the extension, which is installed already (scripts/install-extension.sh), on a private cluster.
# usage: extension/test/run.sh [-u] [test ...]        -u: take what comes out as what is expected
# PG_CONFIG names another server. As root, the cluster runs as user postgres. A server that comes without clients (scripts/postgres.sh) is tested with psql from the
# path; tests that need clients of its own version are then left out, and said to be.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bin=$("${PG_CONFIG:-pg_config}" --bindir)
update=
if [ "${1:-}" = -u ]; then update=yes; shift; fi
work=$(mktemp -d)
as_postgres() { "$@"; }
export AS_POSTGRES=
if [ "$(id -u)" = 0 ]; then
    chown postgres "$work"
    as_postgres() { runuser -u postgres -- "$@"; }
    AS_POSTGRES="runuser -u postgres --"
fi
cd "$work"
own_clients=yes
if [ ! -x "$bin/psql" ]; then
    mkdir "$work/bin"
    ln -s "$bin"/* "$(command -v psql)" "$(command -v createdb)" "$work/bin/"
    bin=$work/bin
    own_clients=
fi
# pgrx puts a backtrace into DETAIL when it is asked for one.
unset RUST_BACKTRACE RUST_LIB_BACKTRACE
# psql \i and pg_dump of the tests find their way by these.
export BINDIR="$bin" PGHOST="$work" PGPORT=5432 PGUSER=postgres PGDATABASE=postgres PGTZ=America/New_York

stop() {
    # A test that broke off may have left its standby running.
    [ ! -d "$work/standby" ] || as_postgres "$bin/pg_ctl" -D "$work/standby" -m immediate -w stop >/dev/null 2>&1 || true
    as_postgres "$bin/pg_ctl" -D "$work/data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 1' INT TERM
as_postgres "$bin/initdb" -D "$work/data" -U postgres -A trust -E UTF8 --no-locale -N >/dev/null
cat >>"$work/data/postgresql.conf" <<EOF
listen_addresses = ''
unix_socket_directories = '$work'
fsync = off
wal_level = logical
max_replication_slots = 4
max_wal_senders = 4
max_slot_wal_keep_size = 1GB
autovacuum = off
max_prepared_transactions = 4
shared_preload_libraries = 'libcachetag'
EOF
as_postgres "$bin/pg_ctl" -D "$work/data" -l "$work/log" -w start >/dev/null

[ $# -gt 0 ] || set -- $(cd "$here/sql" && ls *.sql | sed 's/\.sql$//')
passed=0 failed=0
for test in "$@"; do
    if [ -z "$own_clients" ] && grep -q 'pg_dump\|pg_basebackup' "$here/sql/$test.sql"; then
        echo "left out $test: it needs pg_dump or pg_basebackup of the server's version"
        continue
    fi
    "$bin/createdb" "test_$test"
    PGDATABASE="test_$test" PGOPTIONS='-c client_min_messages=warning' "$bin/psql" -X -q -c 'CREATE EXTENSION cachetag' >"$work/$test.out" 2>&1
    # As users see it: the commands, what they answer, what they complain of; without names of functions and lines inside the extension.
    (cd "$here/sql" && PGDATABASE="test_$test" "$bin/psql" -X -a -q -v VERBOSITY=default -v SHOW_CONTEXT=never -f "$test.sql") >>"$work/$test.out" 2>&1 || true
    sed -i 's/^psql:[^:]*:[0-9]*: //' "$work/$test.out"
    if [ -n "$update" ]; then
        cp "$work/$test.out" "$here/expected/$test.out"
    fi
    if diff -u "$here/expected/$test.out" "$work/$test.out"; then
        passed=$((passed + 1))
        echo "ok     $test"
    else
        failed=$((failed + 1))
        echo "FAILED $test"
        if grep -q 'server closed the connection' "$work/$test.out"; then tail -20 "$work/log"; fi
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
