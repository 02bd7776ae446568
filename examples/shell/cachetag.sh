# A cache in front of PostgreSQL that is never wrong for long: cachetag with redis-cli and psql. Source this; bash 4.4 or newer, Redis 7's tools.
#
#   CACHETAG_REDIS=redis://...
#   product() { psql "$POSTGRES" -XAtq -F $'\n' -v id="$1" <<<"SELECT ..., array_to_string(ARRAY[cachetag.tag('product', :id)], E'\n')"; }
#   page=$(cachetag_get_or_set --ttl 600 "page:product:42" product 42)
#
# A loader prints the value on its first line (empty: there is nothing, which is cached too), then a tag a line: they come from the same query.

# cachetag_get_or_set [--ttl s] [--absent-ttl s] [--fresh s] [--max-lag s] [--at-least lsn] [--patience s] key loader [argument…]
# Prints the value. Status: 0; 1 if there is nothing; more if the loader failed or the call is wrong.
cachetag_get_or_set() {
    local ttl=600 absent_ttl=30 fresh='' patience=2 asking=() key pause=5 deadline
    while [[ $1 == --* ]]; do
        case $1 in
            --ttl) ttl=$2 ;;
            --absent-ttl) absent_ttl=$2 ;;
            --fresh) fresh=$2 ;;
            --patience) patience=$2 ;;
            --max-lag) asking+=(MAXLAG "$(_cachetag_ms "$2")") ;;
            --at-least) asking+=(ATLEAST "$2") ;;
            *) echo "cachetag_get_or_set: unknown option $1" >&2; return 2 ;;
        esac
        shift 2
    done
    key=$1
    shift
    deadline=$((SECONDS + patience))
    local state payload token lease
    while true; do
        _cachetag_get "$key" "${asking[@]}" || return
        [[ $state == wait ]] && ((SECONDS < deadline)) || break
        sleep "$(printf '0.%03d' "$((pause = pause < 100 ? pause * 2 : 100))")"
    done
    case $state in
        hit | stale | early)
            # One caller recomputes, in the background; it must not hold on to our output, or $(...) would wait for it.
            [[ -z $lease ]] || { _cachetag_fill "$@" & } >/dev/null 2>&1 </dev/null
            [[ -n $payload ]] && printf '%s\n' "$payload"
            ;;
        *) _cachetag_fill "$@" ;;
    esac
}

# Sets state, payload, token, lease. A Redis that cannot serve now is a bypass; a mistake of the caller fails.
_cachetag_get() {
    local key=$1 lines
    shift
    if ! _cachetag_call cachetag_get "$key" "$@"; then
        state=bypass payload='' token='' lease=''
        return "$mistake"
    fi
    state=${lines[0]} token=${lines[-3]} lease=${lines[-2]}
    printf -v payload '%s\n' "${lines[@]:1:${#lines[@]}-4}"
    payload=${payload%$'\n'}
}

# loader [argument…]: runs it, prints and stores the value. Uses the caller's key, token, lease, ttl, absent_ttl and fresh.
_cachetag_fill() {
    local lines began=${EPOCHREALTIME/[^0-9]/} value options=()
    mapfile -t lines < <("$@" && echo 0 || echo $?) # after the token was given: that is what makes the fill sound
    [[ -z $lease ]] || options+=(LEASE "$lease")
    if [[ ${lines[-1]} != 0 || ${#lines[@]} -lt 2 ]]; then
        # An error is never stored; a put without a token only gives the lease back, and the next caller need not wait.
        [[ -z $lease ]] || _cachetag_call cachetag_put "$key" '' '' 1 TAGS 0 "${options[@]}" || true
        echo "cachetag: $1 failed" >&2
        return 3
    fi
    unset 'lines[-1]'
    value=${lines[0]}
    local tags=("${lines[@]:1}")
    options+=(COST $(((${EPOCHREALTIME/[^0-9]/} - began) / 1000)))
    [[ -z $fresh ]] || options+=(FRESH "$(_cachetag_ms "$fresh")")
    [[ -n $value ]] || { options+=(ABSENT); ttl=$absent_ttl; }
    if [[ -n $token ]]; then
        _cachetag_call cachetag_put "$key" "$value" "$token" "$(_cachetag_ms "$ttl")" TAGS "${#tags[@]}" "${tags[@]}" "${options[@]}" || ((!mistake)) || return 2
    fi
    [[ -n $value ]] && printf '%s\n' "$value"
}

# Sets lines to the reply. On an error `mistake` is 2 if the caller made it, else 0: Redis is down, full, or not loaded yet.
_cachetag_call() {
    local function=$1 key=$2 status
    shift 2
    mapfile -t lines < <(redis-cli -e -u "$CACHETAG_REDIS" FCALL "$function" 1 "{${CACHETAG_NAMESPACE:-ct}}:e:$key" "$@" 2>&1 && echo 0 || echo $?)
    status=${lines[-1]} mistake=0
    unset 'lines[-1]'
    ((status)) || return 0
    [[ ${lines[*]} != *CACHETAG\ * ]] || { mistake=2; echo "${lines[*]}" >&2; }
    return 1
}

_cachetag_ms() { # seconds, with a fraction or not
    local whole=${1%%.*} part=000
    [[ $1 != *.* ]] || part=${1#*.}000
    echo $((10#${whole:-0} * 1000 + 10#${part:0:3}))
}

# A family or a part of a tag, from standard input to standard output. Text and integers only: what else a column holds, let cachetag.tag()
# render in the query.
cachetag_encode() {
    local hex
    for hex in $(od -An -v -tx1); do
        case $hex in
            [01]? | 20 | 25 | 2a | 3a | 7b | 7d | 7f) printf '%%%s' "${hex^^}" ;;
            *) printf '%b' "\x$hex" ;;
        esac
    done
}

# family [part…]: prints the tag; a tag of a row is better taken from the query, by cachetag.tag().
cachetag_tag() {
    local part text=
    for part; do
        text+=:$(printf '%s' "$part" | cachetag_encode)
    done
    cachetag_is_tag "${text#:}" || { echo "no tag: ${text:1:80} has no family, is longer than 512 bytes, or is not UTF-8" >&2; return 2; }
    printf '%s\n' "${text#:}"
}

# Is it a canonical tag?
cachetag_is_tag() {
    local LC_ALL=C
    local char='([^[:cntrl:] :%*{}]|%([01][0-9A-F]|20|25|2A|3A|7B|7D|7F))'
    [[ $1 != '*' ]] || return 0
    # <family>:* must be a tag too.
    [[ $1 =~ ^($char+)(:\*|(:$char*)*)$ ]] && ((${#1} <= 512 && ${#BASH_REMATCH[1]} <= 510)) &&
        printf '%s' "$1" | iconv -f UTF-8 -t UTF-8 >/dev/null 2>&1
}
