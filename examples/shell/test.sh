#!/usr/bin/env bash
# Against a real PostgreSQL, Redis and daemon: scripts/examples.sh starts them and runs this. Every test is a function test_*, run in a shell
# of its own; it fails when a command in it does.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/cachetag.sh"

CACHETAG_REDIS=$REDIS_URL
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sql() { psql "$POSTGRES_URL" -XAtq -v ON_ERROR_STOP=1 -F $'\n' "${@:2}" <<<"$1"; }

# --- the application

product() {
    echo >>"$loads"
    sql "SELECT (SELECT json_build_object('name', name, 'price', price) FROM products WHERE id = :id),
                array_to_string(ARRAY[cachetag.tag('product', :id)], E'\n')" -v id="$1"
}
category() {
    echo >>"$loads"
    sql "SELECT json_agg(id ORDER BY id), array_to_string(cachetag.tag_agg(cachetag.tag('product', id)) || cachetag.tag('category', :id), E'\n')
           FROM products WHERE category_id = :id" -v id="$1"
}

# --- helpers

page() { cachetag_get_or_set "${@:2}" "$run:$1" product "$1" || (($? == 1)); } # id, option…
count() { wc -l <"$loads"; }
redis() { redis-cli -u "$REDIS_URL" "$@"; }
peek() { redis FCALL_RO cachetag_peek 1 "{ct}:e:$run:$1" | head -n 1; } # takes no lease

same() { # expected, actual
    [[ $1 == "$2" ]] || { echo "expected $1, got $2" >&2; return 1; }
}
eventually() { # command…
    local end=$((SECONDS + 20))
    until "$@"; do
        ((SECONDS < end)) || { echo "not within 20 s: $*" >&2; return 1; }
        sleep 0.01
    done
}
prints() { [[ $("${@:2}") == "$1" ]]; } # text, command…
hits() { # command…: without a load; right after a bump a fill may be refused
    local before
    before=$(count)
    "$@" >/dev/null
    [[ $(count) == "$before" ]]
}

# --- tests

test_second_reader_hits() {
    eventually hits page 61
    same '{"name" : "Product 61", "price" : 71.00}' "$(page 61)"
}

test_a_change_of_the_row_changes_the_page() {
    local price
    for price in {100..104}; do
        sql "UPDATE products SET price = $price WHERE id = 62"
        eventually prints "{\"name\" : \"Product 62\", \"price\" : $price.00}" page 62
        same "{\"name\" : \"Product 62\", \"price\" : $price.00}" "$(page 62)"
    done
}

test_never_old_once_the_cache_has_caught_up() {
    local price
    for price in {200..204}; do
        eventually hits page 63
        same t "$(sql "UPDATE products SET price = $price WHERE id = 63; SELECT cachetag.wait_for(timeout => '20s')")"
        same "{\"name\" : \"Product 63\", \"price\" : $price.00}" "$(page 63)"
    done
}

test_a_list_falls_when_a_row_joins_it() {
    list() { cachetag_get_or_set "$run:list" category 9; }
    local before
    eventually hits list
    before=$(list)
    sql "UPDATE products SET category_id = 9 WHERE id = 99"
    eventually prints "${before%]}, 99]" list
    sql "UPDATE products SET category_id = 10 WHERE id = 99"
    eventually prints "$before" list
}

test_absent_is_cached_until_the_row_comes() {
    eventually hits page 904
    same '' "$(page 904)"
    same hit "$(peek 904)"
    same absent "$(redis FCALL_RO cachetag_explain 1 "{ct}:e:$run:904" | grep -A 1 -x kind | tail -n 1)"
    local status=0
    cachetag_get_or_set "$run:904" product 904 || status=$?
    same 1 "$status"
    sql "INSERT INTO products VALUES (904, 1, 'New', 1)"
    eventually prints '{"name" : "New", "price" : 1.00}' page 904
    sql "DELETE FROM products WHERE id = 904"
    eventually prints '' page 904
}

test_errors_are_not_stored_and_give_the_lease_back() {
    local status=0
    cachetag_get_or_set "$run:1" false 2>/dev/null || status=$?
    same 3 "$status"
    same miss "$(redis FCALL cachetag_get 1 "{ct}:e:$run:1" | head -n 1)"
}

test_read_your_writes() {
    local price position
    for price in {300..306}; do
        eventually hits page 64
        position=$(sql "UPDATE products SET price = $price WHERE id = 64; SELECT cachetag.position()")
        same "{\"name\" : \"Product 64\", \"price\" : $price.00}" "$(page 64 --at-least "$position")"
    done
    eventually hits page 64 --at-least "$position"
    ! hits page 64 --at-least FFFFFFFF/0 || { echo "a commit that the cache has not seen is covered" >&2; return 1; }
}

test_stale_while_revalidate() {
    eventually hits page 65
    sql "SELECT cachetag.invalidate_soft('product:65')"
    eventually prints stale peek 65
    local before
    before=$(count)
    same '{"name" : "Product 65", "price" : 75.00}' "$(page 65)" # served
    eventually prints "$((before + 1))" count                    # and refreshed behind our back
    refreshed() { page 65 >/dev/null && [[ $(peek 65) == hit ]]; }
    eventually refreshed
}

test_fresh_time() {
    eventually hits page 66 --fresh 0.5
    eventually prints stale peek 66
    local before
    before=$(count)
    same '{"name" : "Product 66", "price" : 76.00}' "$(page 66 --fresh 60)"
    # Where a program takes as long to start as the value is fresh, a refresh of before may still have the lease: then it is for the next reader.
    refreshed() {
        page 66 --fresh 60 >/dev/null
        prints hit peek 66 && (($(count) > before))
    }
    eventually refreshed
}

test_bypass_reads_the_database_and_stores_nothing() {
    local CACHETAG_NAMESPACE=nobody # no daemon feeds it
    same '{"name" : "Product 10", "price" : 20.00}' "$(page 10)"
    same '{"name" : "Product 10", "price" : 20.00}' "$(page 10)"
    same 2 "$(count)"
    same '' "$(redis KEYS '{nobody}:*')"
}

test_redis_down_is_a_bypass() {
    local CACHETAG_REDIS=redis://127.0.0.1:1
    same '{"name" : "Product 10", "price" : 20.00}' "$(page 10)"
}

test_a_mistake_of_the_caller_fails() {
    local status=0 said
    wrong() { printf '1\nnot a tag\n'; }
    said=$(cachetag_get_or_set "$run:x" wrong 2>&1) || status=$?
    same 2 "$status"
    [[ $said == *'CACHETAG TAGS'* ]]
}

test_of_three_processes_one_loads() {
    slow() {
        sleep 0.3
        product 67
    }
    racer() {
        redis INCR "$run:ready" >/dev/null
        eventually prints 3 redis GET "$run:ready"
        cachetag_get_or_set --patience 20 "$run:race" slow
    }
    local racer racers=()
    for racer in 1 2 3; do
        racer >"$work/racer$racer" &
        racers+=($!)
    done
    wait "${racers[@]}"
    for racer in 1 2 3; do
        same '{"name" : "Product 67", "price" : 77.00}' "$(<"$work/racer$racer")"
    done
    same 1 "$(count)"
}

# An argument of a shell cannot hold the byte 0: vectors with one are for cachetag_encode, a filter, alone.
vectors() { jq -r "$1" "$here/../../core/vectors/tags.json"; }
decoded() { base64 -d <<<"$1"; }

test_tags_built_and_not_built() {
    local family parts tag part raw
    while read -r tag family parts; do
        raw=()
        for part in $family $parts; do
            part=$(decoded "${part#=}" && echo .) # $(...) would strip line feeds at the end
            raw+=("${part%.}")
        done
        if [[ $tag == - ]]; then
            if cachetag_tag "${raw[@]}" 2>/dev/null; then return 1; fi
        else
            same "$(decoded "$tag")" "$(cachetag_tag "${raw[@]}")"
            cachetag_is_tag "$(decoded "$tag")"
        fi
    done < <(vectors '(.built[], .not_built[]) | select(any(.parts[]; contains("\u0000")) | not)
        | [if .tag then .tag | @base64 else "-" end, (.family, .parts[] | "=" + @base64)] | join(" ")')
}

test_tags_accepted_and_rejected() {
    local tag
    while read -r tag; do cachetag_is_tag "$(decoded "$tag")"; done < <(vectors '.accepted[].tag | @base64')
    while read -r tag; do
        tag=$(decoded "${tag#=}" && echo .)
        if cachetag_is_tag "${tag%.}"; then echo "taken: $tag" >&2; return 1; fi
    done < <(vectors '.rejected[].text | select(contains("\u0000") | not) | "=" + @base64')
    while read -r tag; do
        if cachetag_is_tag "$(printf '%b' "$(sed 's/../\\x&/g' <<<"$tag")")"; then echo "taken: $tag" >&2; return 1; fi
    done < <(vectors '.rejected_bytes[].hex')
}

test_parts_of_tags() {
    same "$(vectors '[.parts[].encoded] | add')" "$(printf '%b' "$(vectors '[.parts[] | "\\x" + .raw_hex] | add')" | cachetag_encode)"
}

test_the_database_agrees() {
    local part
    for part in 42 'a:b c' '50%' '{x}*' é東; do
        same "$(sql "SELECT cachetag.tag('f', :'part'::text)" -v part="$part")" "$(cachetag_tag f "$part")"
    done
}

# --- the runner

passed=0 failed=0
for name in $(compgen -A function test_); do
    run=$RANDOM$RANDOM loads=$work/$name
    : >"$loads"
    # In a process of its own: inside an `if`, `set -e` would not count.
    (trap - EXIT; set -e; "$name") >"$work/out" 2>&1 &
    if wait $!; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name: $(tail -n 3 "$work/out")"
    fi
done
echo "$passed passed, $failed failed"
((failed == 0))
