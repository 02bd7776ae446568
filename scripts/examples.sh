#!/usr/bin/env bash
# The tests of examples/, language by language, against one private PostgreSQL, Redis and daemon. Installs what is missing (Debian, as root)
# and downloads libraries of pinned versions into target/examples and examples/node/node_modules, once.
#
#   scripts/examples.sh [language…]
set -euo pipefail
cd "$(dirname "$0")/.."

cachetag=${CACHETAG_BIN:-target/release/cachetag}
home=$PWD/target/examples
languages=("$@")
dev=
suite=

fail() {
    echo "examples.sh: $*" >&2
    exit 1
}

finish() {
    local status=$?
    trap - EXIT
    [[ -z $suite ]] || kill "$suite" 2>/dev/null || true
    if [[ -n $dev ]]; then
        kill -TERM "$dev" 2>/dev/null || true
        wait "$dev" 2>/dev/null || true
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

wanted() { # language
    local language
    ((${#languages[@]})) || return 0
    for language in "${languages[@]}"; do
        [[ $language != "$1" ]] || return 0
    done
    return 1
}

quietly() { # what, command…: its output only when it fails
    local what=$1 log=$home/install.log
    shift
    "$@" >"$log" 2>&1 || { tail -n 30 "$log" >&2; fail "$what failed"; }
}

# --- libraries

mkdir -p "$home"
[[ -x $cachetag ]] || fail "$cachetag is missing: make build"
scripts/setup.sh examples

if wanted python || wanted django; then
    if ! cat examples/{python,django}/requirements.txt | cmp -s - "$home/venv/requirements.txt"; then
        rm -rf "$home/venv"
        quietly "python3 -m venv" python3 -m venv "$home/venv"
        quietly "pip install" "$home/venv/bin/pip" install --disable-pip-version-check -r examples/django/requirements.txt
        cat examples/{python,django}/requirements.txt >"$home/venv/requirements.txt"
    fi
fi
if wanted django; then
    # Django's tests are in its source distribution, not in the wheel.
    version=$(sed -n 's/^Django==//p' examples/django/requirements.txt)
    if [[ ! -d $home/django-$version ]]; then
        rm -rf "$home/source"
        quietly "pip download" "$home/venv/bin/pip" download --disable-pip-version-check --no-deps --no-binary Django -d "$home/source" "Django==$version"
        mkdir "$home/source/tests"
        tar -xzf "$home"/source/*.tar.gz -C "$home/source/tests" --strip-components=2 --wildcards '*/tests/cache'
        mv "$home/source/tests" "$home/django-$version"
        rm -rf "$home/source"
    fi
fi
if wanted node && ! cmp -s examples/node/{,node_modules/.installed-}package-lock.json; then
    (cd examples/node && quietly "npm ci" npm ci --no-audit --no-fund --no-update-notifier)
    cp examples/node/{,node_modules/.installed-}package-lock.json
fi

# --- the servers

command -v psql >/dev/null || PATH=$PATH:$("${PG_CONFIG:-pg_config}" --bindir)
: >"$home/dev.out"
# An answer may be older than usual: on a busy machine the tests are about what is wrong, not about what is late.
"$cachetag" dev --load examples/shop.sql --max-lag 10s >"$home/dev.out" 2>"$home/dev.log" &
dev=$!
until grep -qx ready "$home/dev.out"; do
    kill -0 "$dev" 2>/dev/null || { tail -n 20 "$home/dev.log" >&2; fail "the servers did not start"; }
    sleep 0.1
done
POSTGRES_URL=$(sed -n 's/^postgres=//p' "$home/dev.out")
REDIS_URL=$(sed -n 's/^redis=//p' "$home/dev.out")
export POSTGRES_URL REDIS_URL PYTHONDONTWRITEBYTECODE=1

# --- the tests

failed=() total=0

report() { # title, a regular expression, status, seconds, log: the number that it has in brackets, or how many lines it fits, are tests
    local count
    if [[ $2 == *'('* ]]; then
        count=$(sed -nE "s/^$2.*/\\1/p" "$5" | tail -n 1)
    else
        count=$(grep -cE "^$2" "$5" || true)
    fi
    # Who ran no test has passed none.
    if (($3 == 0 && ${count:-0} > 0)); then
        total=$((total + count))
        printf '%-24s %3d tests passed, %d s\n' "$1" "$count" "$4"
    else
        failed+=("$1")
        printf '%-24s FAILED\n' "$1"
        tail -n 40 "$5"
    fi
}

run() { # title, language, the lines that count, command…
    local title=$1 language=$2 counted=$3 log=$home/$2.log began=$SECONDS status=0
    wanted "$language" || return 0
    shift 3
    (cd "examples/$language" && timeout 300 "$@") >"$log" 2>&1 || status=$?
    report "$title" "$counted" "$status" $((SECONDS - began)) "$log"
}

if wanted django; then # it mostly sleeps: beside the others
    suite_began=$SECONDS
    (cd examples/django && PYTHONPATH=.:../python:$home/django-$version exec "$home/venv/bin/python" own_suite.py) >"$home/suite.log" 2>&1 &
    suite=$!
fi
run "shell" shell '([0-9]+) passed' ./test.sh
run "Python" python 'Ran ([0-9]+) tests' "$home/venv/bin/python" -m unittest
run "Node" node '# pass ([0-9]+)' node --test --test-reporter=tap
run "Ruby" ruby '([0-9]+) runs' ruby test_cachetag.rb
run "PHP" php '([0-9]+) passed' php test.php
run "Go" go '--- PASS' env GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE="$home/go" go test -v -count=1 .
run "Django" django 'Ran ([0-9]+) tests' env PYTHONPATH=.:../python "$home/venv/bin/python" -m unittest test_cachetag_django
if wanted django; then
    status=0
    wait "$suite" || status=$?
    suite=
    report "Django's own cache tests" 'Ran ([0-9]+) tests' "$status" $((SECONDS - suite_began)) "$home/suite.log"
fi

((${#failed[@]} == 0)) || fail "failed: ${failed[*]}"
((total > 0)) || fail "no such language: $*"
echo "$total tests passed"
