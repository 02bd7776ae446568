#!/usr/bin/env bash
# All tests, one step after the other; a step that fails does not keep the others from running. `make test` calls this after the build.
set -uo pipefail
cd "$(dirname "$0")/.."

failed=()
step() { # title, command…
    local title=$1 began=$SECONDS
    shift
    echo
    echo "=== $title"
    if "$@"; then
        echo "=== $title: ok, $((SECONDS - began)) s"
    else
        failed+=("$title")
        echo "=== $title: FAILED, $((SECONDS - began)) s"
    fi
}

# Every test has servers of its own: more at a time than there are cores only slows them down.
threads=${TEST_THREADS:-$(nproc)}
export CACHETAG_BIN=$PWD/target/release/cachetag

on_valkey() {
    local server
    server=$(scripts/valkey.sh) || return
    CACHETAG_REDIS_SERVER=$server redis_library
}

redis_library() {
    cargo test --release --quiet -p cachetag-tests --test 'redis*' -- --test-threads="$threads"
}

# What a test prints is its result.
told() {
    cargo test --release --quiet -p cachetag-tests "$@" -- --nocapture --test-threads="$threads"
}

end_to_end() {
    local file name targets=(--lib)
    for file in tests/tests/*; do
        name=$(basename "$file" .rs)
        case $name in
        redis* | model | faults | checker | broken | capture_fuzz) ;; # have a turn of their own
        *) targets+=(--test "$name") ;;
        esac
    done
    cargo test --release --quiet --no-fail-fast -p cachetag-tests "${targets[@]}" -- --test-threads="$threads"
}

# Most of its time a fault is waited for: twice as many at a time.
faults() {
    cargo test --release --quiet -p cachetag-tests --test faults -- --test-threads=$((threads * 2))
}

# What only newer servers have, and what they do differently.
on_postgres_17() {
    local bin
    bin=$(scripts/postgres.sh 17) || return
    PG_CONFIG=$bin/pg_config extension/test/run.sh || return
    CACHETAG_PG_BIN=$bin cargo test --release --quiet -p cachetag-tests --test faults --test schema -- \
        failover windows --test-threads=$((threads * 2))
}

step "core, daemon and client: unit and property tests" cargo test --release --quiet -p cachetag-core -p cachetag-invalidator -p cachetag-client
step "extension: SQL regression" extension/test/run.sh
step "Redis library on $(redis-server --version 2>/dev/null | grep -o 'v=[0-9.]*' || echo 'the installed server')" redis_library
step "Redis library on Valkey 8" on_valkey
step "the consistency rule, exhaustively" told --test model
step "end to end" end_to_end
step "end to end: faults" faults
step "PostgreSQL 17: SQL, promotion with a failover slot, slots created under load" on_postgres_17
step "examples in other languages" scripts/examples.sh
step "checker: three million reads under every fault" told --test checker
step "checker: every guard taken out on purpose is caught" told --test broken
step "capture: 20,000 changed results, and every source of tags forgotten once" told --test capture_fuzz
step "PostgreSQL's regression tests, every table tracked, every statement captured" scripts/regression.sh

echo
if ((${#failed[@]})); then
    echo "FAILED: $(printf '%s; ' "${failed[@]}")"
    exit 1
fi
echo "all tests passed"
