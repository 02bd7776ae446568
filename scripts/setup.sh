#!/usr/bin/env bash
# Installs what building, testing and the demo need on Debian and its children, and nothing that is there already. Quiet when all is there.
# With the argument `examples` also the languages of examples/, with `bench` also what `make bench` measures with. Starts, stops and configures no system service. With PG_CONFIG set, that PostgreSQL is used and none is installed.
set -euo pipefail

missing=()

need() { # a package, and a command that succeeds when it is not needed
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

redis_is_there() {
    # Functions came with Redis 7; every Valkey has them.
    command -v valkey-server || [[ $(redis-server --version) =~ v=([0-9]+) && ${BASH_REMATCH[1]} -ge 7 ]]
}

libclang_is_there() {
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' || compgen -G '/usr/lib*/libclang*.so*' || compgen -G '/usr/lib/*/libclang*.so*' ||
        [[ -n ${LIBCLANG_PATH:-} ]]
}

postgres_is_there() { # pg_config: its server, programs and headers
    local pg_config=$1
    [[ -x $("$pg_config" --bindir)/postgres && -x $("$pg_config" --bindir)/initdb && -f $("$pg_config" --includedir-server)/postgres.h ]]
}

# The major version that the distribution offers, or 15.
postgres_of_distribution() {
    local depends
    depends=$(apt-cache depends postgresql 2>/dev/null || true)
    [[ $depends =~ postgresql-([0-9]+) ]] && echo "${BASH_REMATCH[1]}" || echo 15
}

if [[ -n ${PG_CONFIG:-} && $PG_CONFIG != pg_config ]]; then
    if ! postgres_is_there "$PG_CONFIG" 2>/dev/null; then
        echo "setup: PG_CONFIG=$PG_CONFIG does not lead to a PostgreSQL server with its headers (packages postgresql-N and postgresql-server-dev-N)" >&2
        exit 1
    fi
elif ! postgres_is_there pg_config >/dev/null 2>&1; then
    major=$(postgres_of_distribution)
    missing+=("postgresql-$major" "postgresql-server-dev-$major")
fi
need redis-server redis_is_there
need redis-tools command -v redis-cli
need gcc command -v cc
need make command -v make
need clang command -v clang
need libclang-dev libclang_is_there
need curl command -v curl
need openssl command -v openssl
need bzip2 command -v bzip2
need ca-certificates test -f /etc/ssl/certs/ca-certificates.crt

if [[ ${1:-} == examples ]]; then
    need python3-venv python3 -c 'import ensurepip, venv'
    need nodejs command -v node
    need npm command -v npm
    need ruby command -v ruby
    need ruby-redis ruby -e 'require "redis"'
    need ruby-pg ruby -e 'require "pg"'
    need ruby-minitest ruby -e 'require "minitest"'
    need php-cli command -v php
    need php-redis php -r 'exit(extension_loaded("redis") ? 0 : 1);'
    need php-pgsql php -r 'exit(extension_loaded("pdo_pgsql") ? 0 : 1);'
    need golang-go command -v go
    need golang-github-gomodule-redigo-dev test -d /usr/share/gocode/src/github.com/gomodule/redigo
    need golang-github-lib-pq-dev test -d /usr/share/gocode/src/github.com/lib/pq
    need jq command -v jq
fi

if [[ ${1:-} == bench ]]; then
    need valgrind command -v valgrind
fi

if ((${#missing[@]})); then
    if ! command -v apt-get >/dev/null; then
        echo "setup: missing: ${missing[*]} (Debian's names); this machine has no apt-get, so install them by its own means" >&2
        exit 1
    fi
    if ((EUID != 0)); then
        echo "setup: missing: ${missing[*]}; run as root: apt-get update && apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "setup: installing ${missing[*]}"
    # The servers of these packages would start as system services; ours are private ones.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt-get update -q && apt-get install -q -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        echo "setup: apt-get failed; its output is in $log" >&2
        exit 1
    fi
    rm -f "$log"
fi

# The toolchain.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
if ! command -v cargo >/dev/null; then
    echo "setup: cargo is missing; install Rust $wanted or newer: curl https://sh.rustup.rs -sSf | sh -s -- -y" >&2
    exit 1
fi
found=$(rustc --version | cut -d' ' -f2)
if [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) != "$wanted" ]]; then
    echo "setup: rustc is $found, cachetag needs $wanted or newer: rustup update stable" >&2
    exit 1
fi
