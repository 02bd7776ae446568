#!/usr/bin/env bash
# PostgreSQL's own regression tests under cachetag: the library preloaded, every permanent table tracked when it is made, the daemon following, and every
# statement inside a capture: psql connects to target/release/regression, which puts what it sends between capture_begin and capture_end.
# The suite runs twice, without and with cachetag; what it prints must be the same but for the differences that scripts/regression/differences/
# names and explains. Results that were cacheable are kept, and asked for again after changes: what has changed must have been bumped.
# The daemon must be alive and at the log's end afterwards.
# usage: scripts/regression.sh [--keep] [--without-capture]     PG_CONFIG names the server; CACHETAG_BIN the daemon; --keep leaves the folder of the run
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD/scripts/regression
pg_config=${PG_CONFIG:-pg_config}
bin=$("$pg_config" --bindir)
regress=$(dirname "$("$pg_config" --pgxs)")/../test/regress/pg_regress
daemon=${CACHETAG_BIN:-$PWD/target/release/cachetag}
relay=${CACHETAG_REGRESSION:-$PWD/target/release/regression}
redis=${CACHETAG_REDIS_SERVER:-redis-server}
keep='' captures=yes
for option in "$@"; do
    case $option in
    --keep) keep=yes ;;
    --without-capture) captures='' ;;
    *)
        echo "usage: scripts/regression.sh [--keep] [--without-capture]" >&2
        exit 2
        ;;
    esac
done

fail() {
    echo "regression.sh: $*" >&2
    exit 1
}

[[ -x $regress ]] || fail "$regress is missing: install the package postgresql-server-dev of this version"
[[ -x $daemon ]] || fail "$daemon is missing: cargo build --release -p cachetag-invalidator"
[[ -z $captures || -x $relay ]] || fail "$relay is missing: cargo build --release -p cachetag-tests --bin regression"
suite=$(scripts/regression/sources.sh)

work=$(mktemp -d)
as_postgres=()
if ((EUID == 0)); then as_postgres=(runuser -u postgres --); fi
pids=()
cleanup() {
    if ((${#pids[@]})); then kill "${pids[@]}" 2>/dev/null || true; fi
    for data in "$work"/*/data; do
        [[ ! -f $data/postmaster.pid ]] || "${as_postgres[@]}" "$bin/pg_ctl" -D "$data" -m immediate -w stop >/dev/null 2>&1 || true
    done
    if [[ -n $keep ]]; then echo "kept: $work"; else rm -rf "$work"; fi
}
trap cleanup EXIT
trap 'exit 1' INT TERM

free_port() { # one that nobody listens on
    local port
    while port=$((20000 + RANDOM % 10000)); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# What the tests load: functions in C, of the suite itself and of the contributed module spi.
mkdir "$work/lib"
cc -O1 -fPIC -shared -I"$("$pg_config" --includedir-server)" "$suite/regress.c" -o "$work/lib/regress.so"
cp "$("$pg_config" --pkglibdir)"/{autoinc,refint}.so "$work/lib/"
mkdir "$work/suite"
cp -r "$suite"/{sql,expected,data,parallel_schedule,resultmap} "$work/suite/"
psql_bin=$bin
if [[ -x $suite/bin/psql ]]; then
    cp -r "$suite/bin" "$work/suite/"
    psql_bin=$work/suite/bin
fi
chmod 755 "$work"

start_server() { # name, settings…
    local name=$1
    shift
    mkdir "$work/$name" "$work/$name/out"
    ((EUID != 0)) || chown -R postgres "$work/$name"
    export PGHOST=127.0.0.1 PGPORT PGUSER=postgres
    PGPORT=$(free_port)
    "${as_postgres[@]}" "$bin/initdb" -D "$work/$name/data" -U postgres -A trust -E UTF8 --no-locale -N >/dev/null
    {
        echo "port = $PGPORT"
        echo "listen_addresses = '127.0.0.1'"
        echo "unix_socket_directories = '$work/$name'"
        echo "fsync = off"
        echo "shared_buffers = 128MB"
        echo "wal_level = logical"
        echo "max_prepared_transactions = 2"
        printf '%s\n' "$@"
    } >>"$work/$name/data/postgresql.conf"
    "${as_postgres[@]}" "$bin/pg_ctl" -D "$work/$name/data" -l "$work/$name/out/server.log" -w start >/dev/null
    "$bin/psql" -Xq -d postgres -c "CREATE DATABASE regression TEMPLATE template0"
    local setting
    for setting in lc_messages=C lc_monetary=C lc_numeric=C lc_time=C bytea_output=hex timezone_abbreviations=Default; do
        "$bin/psql" -Xq -d postgres -c "ALTER DATABASE regression SET ${setting%=*} TO '${setting#*=}'"
    done
}

run_suite() { # name, port
    local name=$1 port=$2 began=$SECONDS
    (cd "$work/$name/out" && LANG=C LC_ALL=C "${as_postgres[@]}" "$regress" --bindir="$psql_bin" --inputdir="$work/suite" --outputdir="$work/$name/out" --dlpath="$work/lib" \
        --host=127.0.0.1 --port="$port" --user=postgres --use-existing --dbname=regression --schedule="$work/suite/parallel_schedule" \
        >"$work/$name/out/run.log" 2>&1) || true
    ran=$(grep -cE '\.\.\. (ok|FAILED)' "$work/$name/out/run.log" || true)
    failed=$(grep -E '\.\.\. FAILED' "$work/$name/out/run.log" | sed -E 's/^(test| )? *([a-z0-9_.]+) .*/\2/' | tr '\n' ' ' || true)
    echo "$name: $ran tests in $((SECONDS - began)) s; not as its authors expected: ${failed:-none}"
    ((ran > 100)) || { tail -n 20 "$work/$name/out/run.log" >&2; fail "the suite did not run"; }
}

start_server without
run_suite without "$PGPORT"
"${as_postgres[@]}" "$bin/pg_ctl" -D "$work/without/data" -m fast -w stop >/dev/null

start_server with "shared_preload_libraries = 'libcachetag'"
"$bin/psql" -Xq -d regression -v ON_ERROR_STOP=1 -f "$here/tracking.sql"
redis_port=$(free_port)
"$redis" --port "$redis_port" --bind 127.0.0.1 --save '' --dir "$work" >"$work/redis.log" 2>&1 &
pids+=($!)
"$daemon" run --postgres "postgres://postgres@127.0.0.1:$PGPORT/regression" --redis "redis://127.0.0.1:$redis_port" --log-format text >"$work/daemon.log" 2>&1 &
daemon_pid=$!
pids+=("$daemon_pid")
ask() { "$bin/psql" -XAtq -d regression -c "$1"; }
for _ in {1..300}; do
    [[ $(ask "SELECT count(*) FROM pg_replication_slots WHERE active") == 0 ]] || break
    sleep 0.1
done
problems=()
if [[ -n $captures ]]; then
    relay_port=$(free_port)
    "$relay" --listen "$relay_port" --postgres "$PGPORT" --redis "$redis_port" >"$work/captured.txt" 2>"$work/relay.log" &
    relay_pid=$!
    pids+=("$relay_pid")
    for _ in {1..100}; do
        ! (exec 3<>"/dev/tcp/127.0.0.1/$relay_port") 2>/dev/null || break
        sleep 0.1
    done
    run_suite with "$relay_port"
    kill "$relay_pid" 2>/dev/null || true
    wait "$relay_pid" || problems+=("capture has missed something, or its relay has failed")
    cat "$work/captured.txt" "$work/relay.log"
else
    run_suite with "$PGPORT"
fi
different=()
for file in "$work"/without/out/results/*.out; do
    test=$(basename "$file" .out)
    ! grep -qx "ignore: $test" "$work/suite/parallel_schedule" || continue # fails now and then by itself, its authors say
    rules=(-e '')
    for rule in all "$test"; do
        [[ ! -f $here/differences/$rule.sed ]] || rules+=(-f "$here/differences/$rule.sed")
    done
    if ! diff -u <(sed -E "${rules[@]}" "$file") <(sed -E "${rules[@]}" "$work/with/out/results/$test.out") >"$work/$test.diff"; then
        different+=("$test")
    fi
done
if ((${#different[@]})); then
    problems+=("${#different[@]} tests print something else: ${different[*]}")
    for test in "${different[@]}"; do head -n 40 "$work/$test.diff" | cut -c1-200; done
fi
crashes=$(grep -cE 'was terminated by signal|PANIC|TRAP:' "$work/with/out/server.log" || true)
((crashes == 0)) || problems+=("$crashes crashes in the server's log")

if ! kill -0 "$daemon_pid" 2>/dev/null; then
    problems+=("the daemon has ended")
elif [[ $(ask "SELECT cachetag.wait_for(timeout => '60s')") != t ]]; then
    problems+=("the daemon does not get to the end of the log: $(ask "SELECT confirmed_flush_lsn FROM pg_replication_slots") of $(ask "SELECT pg_current_wal_insert_lsn()")")
fi
read -r made tracked still rules < <(ask "
    SELECT count(*) || ' ' || count(*) FILTER (WHERE exempt IS NULL) || ' ' ||
           (SELECT count(DISTINCT relation) FROM cachetag.binding) || ' ' || (SELECT count(*) FROM cachetag.rule)
      FROM regress_cachetag.made")
echo "tables made: $made; tracked: $tracked; tracked in the end, with partitions and children: $still by $rules rules"
ask "SELECT '  not tracked: ' || count(*) || ' ' || exempt FROM regress_cachetag.made WHERE exempt IS NOT NULL GROUP BY exempt ORDER BY 1"
missed=$(ask "SELECT count(*) FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384
                 AND c.relnamespace NOT IN ('cachetag'::regnamespace, 'regress_cachetag'::regnamespace)
                 AND NOT EXISTS (SELECT FROM cachetag.rule r WHERE r.relation = c.oid) AND NOT EXISTS (SELECT FROM regress_cachetag.made m WHERE m.relation = c.oid AND m.exempt IS NOT NULL)")
((missed == 0)) || problems+=("$missed tables are not tracked")
errors=$(grep -cE ' (ERROR|panicked)' "$work/daemon.log" || true)
echo "daemon: $(ask "SELECT confirmed_flush_lsn FROM pg_replication_slots") confirmed of $(ask "SELECT pg_current_wal_insert_lsn()"); $(wc -l <"$work/daemon.log") lines of log, $errors errors"
((errors == 0)) || { grep -E ' (ERROR|panicked)' "$work/daemon.log" | head -n 10; problems+=("$errors errors in the daemon's log"); }

if ((${#problems[@]})); then
    printf 'regression.sh: %s\n' "${problems[@]}" >&2
    exit 1
fi
echo "$ran tests passed, 0 failed: as without cachetag"
