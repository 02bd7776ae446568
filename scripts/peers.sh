#!/usr/bin/env bash
# Installs what `make bench` is measured beside, at the versions that are written down in tests/peers, into the target folder; nothing that is
# there already. One line a peer on standard output, fields between tabs:
#
#   name  ready   command…           how it is started
#   name  absent  why
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source=$root/tests/peers
home=${CARGO_TARGET_DIR:-$root/target}/peers
log=$home/install.log
mkdir -p "$home"
exec 9>"$home/lock"
flock 9 # two runs may want it at once
: >"$log"

refreshed=
need() { # a command, and Debian's packages that hold it
    local program=$1
    shift
    command -v "$program" >/dev/null && return
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        why="$program is missing (Debian's packages: $*)"
        return 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    { [[ -n $refreshed ]] || apt-get update -q; } >>"$log" 2>&1 && refreshed=yes
    apt-get install -q -y --no-install-recommends "$@" >>"$log" 2>&1 </dev/null && return
    why="apt-get install $* failed, see $log"
    return 1
}

# Whether `home/$1` was made from just these files; if not it is emptied.
fresh() { # name, files…
    local name=$1
    shift
    stamp=$(sha256sum "$@" | sha256sum)
    [[ $(cat "$home/$name/stamp" 2>/dev/null) == "$stamp" ]] && return
    rm -rf "${home:?}/$name"
    mkdir -p "$home/$name"
    return 1
}

node_peer() { # name
    local name=$1 files=("$source/$1/package.json" "$source/$1/package-lock.json")
    need node nodejs npm && need npm npm || return
    local major
    major=$(node --version | sed 's/v\([0-9]*\).*/\1/')
    if ((major < 18)); then
        why="Node $(node --version) is older than 18"
        return 1
    fi
    if ! fresh "$name" "${files[@]}"; then
        cp "${files[@]}" "$home/$name"
        if ! (cd "$home/$name" && npm ci --no-audit --no-fund) >>"$log" 2>&1; then
            why="npm ci failed, see $log"
            return 1
        fi
        echo "$stamp" >"$home/$name/stamp"
    fi
    # Node looks for packages beside the program.
    cp "$source/$name/main.mjs" "$home/$name"
    command=(node "$home/$name/main.mjs")
}

python_peer() { # name
    local name=$1 requirements=$source/$1/requirements.txt
    need python3 python3 || return
    if ! fresh "$name" "$requirements"; then
        # Debian keeps what a virtual environment needs in a package of its own.
        python3 -c 'import ensurepip' 2>/dev/null || need ensurepip python3-venv || return
        if ! { python3 -m venv "$home/$name/venv" && "$home/$name/venv/bin/pip" install -q --no-deps -r "$requirements"; } >>"$log" 2>&1; then
            why="pip install failed, see $log"
            return 1
        fi
        echo "$stamp" >"$home/$name/stamp"
    fi
    command=("$home/$name/venv/bin/python" "$source/$name/main.py")
}

for peer in "bentocache node_peer" "cashews python_peer" "cacheops python_peer"; do
    read -r name kind <<<"$peer"
    if $kind "$name"; then
        printf '%s\tready' "$name"
        printf '\t%s' "${command[@]}"
        echo
    else
        printf '%s\tabsent\t%s\n' "$name" "$why"
    fi
done
