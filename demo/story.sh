#!/usr/bin/env bash
# A shop whose pages are cached in Redis, and rows that change behind the cache's back. Uses psql and redis-cli, nothing else.
# On a terminal (or with DEMO_INTERACTIVE=1) everything stays up afterwards, to play with.
set -euo pipefail
cd "$(dirname "$0")/.."

cachetag=${CACHETAG_BIN:-target/release/cachetag}
work=$(mktemp -d)
dev=

finish() {
    local status=$?
    trap - EXIT
    if [[ -n $dev ]]; then
        kill -TERM "$dev" 2>/dev/null || true
        wait "$dev" 2>/dev/null || true
    fi
    if ((status)) && [[ -s $work/dev.log ]]; then
        echo "the end of the log:" >&2
        tail -n 20 "$work/dev.log" >&2
    fi
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- the servers

echo "Starting a private PostgreSQL, a private Redis and the daemon, and loading a shop of 125,000 rows ..."
: >"$work/dev.out"
"$cachetag" dev --load demo/shop.sql >"$work/dev.out" 2>"$work/dev.log" &
dev=$!
until grep -qx ready "$work/dev.out"; do
    kill -0 "$dev" 2>/dev/null || { echo "the servers did not start" >&2; exit 1; }
    sleep 0.1
done
postgres=$(sed -n 's/^postgres=//p' "$work/dev.out")
redis=$(sed -n 's/^redis=//p' "$work/dev.out")

# Three sessions that stay open: a writer and a reader of PostgreSQL, and one of Redis. New processes would take longer than what is measured.
open_session() { # name, command…: reads statements from the pipe <name>.in, answers to <name>.out
    local name=$1
    shift
    mkfifo "$work/$name.in" "$work/$name.out"
    "$@" <"$work/$name.in" >"$work/$name.out" 2>>"$work/dev.log" &
}
open_session writer psql -XqAt -v ON_ERROR_STOP=1 "$postgres"
exec {writer_in}>"$work/writer.in" {writer_out}<"$work/writer.out"
open_session reader psql -XqAt -F $'\t' -v ON_ERROR_STOP=1 "$postgres"
exec {reader_in}>"$work/reader.in" {reader_out}<"$work/reader.out"
open_session cache redis-cli -u "$redis"
exec {cache_in}>"$work/cache.in" {cache_out}<"$work/cache.out"

answer=() # the lines of the last answer
read_answer() { # file descriptor
    local line
    answer=()
    while IFS= read -r line <&"$1"; do
        [[ $line == --end-- ]] && return
        answer+=("$line")
    done
    echo "a session ended: $(tail -n 1 "$work/dev.log")" >&2
    exit 1
}
write_sql() {
    printf '%s\n' "$1" "SELECT '--end--';" >&"$writer_in"
    read_answer "$writer_out"
}
read_sql() {
    printf '%s\n' "$1" "SELECT '--end--';" >&"$reader_in"
    read_answer "$reader_out"
}
redis_call() { # a command line as redis-cli reads it
    printf '%s\n' "$1" "ECHO --end--" >&"$cache_in"
    read_answer "$cache_out"
    if [[ ${answer[0]-} == @(ERR|CACHETAG|OOM|NOSCRIPT)\ * ]]; then
        echo "Redis: ${answer[0]}" >&2
        exit 1
    fi
}

# --- the application: what any program in any language does

# Each page: what it is called in the cache, and the query that makes it. The second column are the tags that the page depends on. For the last page nobody
# wrote them down: the extension finds them while the query runs, and says as of when the rows are, for which it takes the token of the miss.
declare -A query=(
    [page:product:42]="SELECT json_build_object('name', p.name, 'price', p.price, 'stars', (SELECT round(avg(stars), 1) FROM reviews r WHERE r.product_id = p.id)),
        ARRAY[cachetag.tag('product', p.id::text)] FROM products p WHERE id = 42"
    [page:product:43]="SELECT json_build_object('name', p.name, 'price', p.price, 'stars', (SELECT round(avg(stars), 1) FROM reviews r WHERE r.product_id = p.id)),
        ARRAY[cachetag.tag('product', p.id::text)] FROM products p WHERE id = 43"
    [page:kitchen]="SELECT json_build_object('category', c.name, 'products', count(*), 'from', min(p.price)),
        ARRAY[cachetag.tag('category', c.id::text)] FROM categories c JOIN products p ON p.category_id = c.id WHERE c.id = 1 GROUP BY c.id"
    [page:garden]="SELECT json_build_object('category', c.name, 'products', count(*), 'from', min(p.price)),
        ARRAY[cachetag.tag('category', c.id::text)] FROM categories c JOIN products p ON p.category_id = c.id WHERE c.id = 2 GROUP BY c.id"
    [page:home]="SELECT json_agg(json_build_object('category', name, 'products', n)), ARRAY['homepage'] FROM (SELECT c.name, count(*) AS n
        FROM categories c JOIN products p ON p.category_id = c.id WHERE c.id IN (1, 3) GROUP BY c.id ORDER BY c.id) shown"
    [page:orders:77]="SELECT json_build_object('customer', c.name, 'orders', count(o.id)),
        ARRAY[cachetag.tag('customer', c.id::text)] FROM customers c LEFT JOIN orders o ON o.customer_id = c.id WHERE c.id = 77 GROUP BY c.id"
    [page:bestsellers]="SELECT json_agg(json_build_object('name', p.name, 'price', p.price)), cachetag.tag_agg(cachetag.tag('product', p.id::text))
        FROM (SELECT * FROM products WHERE id IN (42, 1001, 2002, 3003) ORDER BY id) p"
    [page:reviews:42]="SELECT rows, tags, as_of FROM cachetag.capture_as_of('TOKEN', 'SELECT p.name, r.stars, r.text
        FROM products p JOIN reviews r ON r.product_id = p.id WHERE p.id = 42 ORDER BY r.id LIMIT 2')"
)
pages=(page:product:42 page:product:43 page:kitchen page:garden page:home page:orders:77 page:bestsellers page:reviews:42)

quoted() { # one argument as redis-cli reads it
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

fill() { # page: asks the cache; on a miss asks PostgreSQL and stores the answer, as every reader does
    local page=$1 token lease payload tags as_of tag list n
    for _ in {1..100}; do
        redis_call "FCALL cachetag_get 1 {ct}:e:$page"
        [[ ${answer[0]} != hit ]] || return 0
        if [[ ${answer[0]} == miss ]]; then
            token=${answer[2]} lease=${answer[3]}
            read_sql "${query[$page]//TOKEN/$token};"
            IFS=$'\t' read -r payload tags as_of <<<"${answer[0]}"
            list='' n=0
            for tag in $(tr ',' ' ' <<<"${tags:1:-1}"); do
                list+=" $(quoted "${tag//\"/}")"
                n=$((n + 1))
            done
            redis_call "FCALL cachetag_put 1 {ct}:e:$page $(quoted "$payload") ${as_of:-$token} 600000 TAGS $n$list LEASE $lease"
            [[ ${answer[0]} != stored ]] || return 0
        fi
        # Refused: a tag was bumped and the watermark is not yet past it. The next token is newer.
        sleep 0.02
    done
    echo "$page could not be stored: ${answer[*]}" >&2
    exit 1
}
fill_all() {
    local page
    for page in "${pages[@]}"; do fill "$page"; done
}

state_of() { # page: sets `state` to hit or miss, without taking a lease
    state=bypass
    while [[ $state == bypass ]]; do # the daemon is further behind than two seconds: nobody can tell
        redis_call "FCALL_RO cachetag_peek 1 {ct}:e:$1"
        state=${answer[0]}
    done
}

# --- telling

explain() { # page, table: sets `reason`, and `cause`: the rule of that table or the dependency that leads to the tag
    local tag i
    redis_call "FCALL_RO cachetag_explain 1 {ct}:e:$1"
    for ((i = 0; i < ${#answer[@]}; i += 2)); do
        [[ ${answer[i]} == reason ]] && reason=${answer[i + 1]}
    done
    tag=${reason%% was bumped*}
    read_sql "SELECT format('rule: %s -> %s', \"table\", template) FROM cachetag.rules WHERE \"table\"::text = '$2' AND split_part(template, ':', 1) = split_part('$tag', ':', 1)
        UNION ALL SELECT 'dependency: ' || string_agg(parent, ', ' ORDER BY parent) || ' -> ' || child
        FROM cachetag.dependency WHERE child = '$tag' AND '$2' <> '' GROUP BY child;"
    cause=${answer[0]:-asked for}
}

micros() { echo "${EPOCHREALTIME/[^0-9]/}"; }

change() { # title, SQL, its table, the page to watch: runs the SQL in the writer's session and tells what fell
    local title=$1 sql=$2 table=$3 watched=$4 committed looks=0 took page stays=()
    fill_all
    echo
    echo "* $title"
    echo "    $sql"
    write_sql "$sql"
    committed=$(micros)
    until
        state_of "$watched"
        looks=$((looks + 1))
        [[ $state != hit ]]
    do
        (($(micros) - committed < 5000000)) || { echo "$watched is still valid after 5 s" >&2; exit 1; }
    done
    took=$(($(micros) - committed))
    printf '  %s was gone when looked at %d.%d ms after COMMIT had returned (look %d of a polling loop)\n' \
        "$watched" $((took / 1000)) $((took % 1000 / 100)) "$looks"
    for page in "${pages[@]}"; do
        state_of "$page"
        if [[ $state == hit ]]; then
            stays+=("$page")
        else
            explain "$page" "$table"
            printf '    fell   %-17s %s (%s)\n' "$page" "${reason%% by *}" "$cause"
        fi
    done
    printf '    valid  %s\n' "${stays[*]:-none}"
}

show() { # page: what readers get now
    fill "$1"
    redis_call "FCALL cachetag_get 1 {ct}:e:$1"
    printf '  readers now get: %s\n' "${answer[1]}"
}

# --- the story

read_sql "SELECT sum(reltuples)::bigint FROM pg_class WHERE relname IN ('products', 'categories', 'reviews', 'customers', 'orders_2024', 'orders_2025');"
echo "Ready: ${answer[0]} rows."
echo
echo "Eight pages are computed by SQL and stored in Redis, each with the tags it depends on. Those of page:reviews:42 nobody wrote down:"
echo "its query is an ordinary one, and the extension has found them."
fill_all
for page in "${pages[@]}"; do
    redis_call "FCALL_RO cachetag_explain 1 {ct}:e:$page"
    tags=
    for ((i = 0; i < ${#answer[@]}; i += 2)); do
        [[ ${answer[i]} == tag:* && ${answer[i]} != *:\* ]] && tags+=" ${answer[i]#tag:}"
    done
    printf '    %-17s%s\n' "$page" "$tags"
done
echo
echo "Now rows change, by plain SQL in another session. Nobody calls the cache."

change "A price changes" \
    "UPDATE products SET price = 34.00 WHERE id = 42;" products page:product:42
show page:product:42

change "A product moves from Garden to Office: the old and the new category, and the home page, which shows Office" \
    "UPDATE products SET category_id = 3 WHERE id = 43;" products page:garden
show page:home

change "A review arrives: the product's page shows its stars" \
    "INSERT INTO reviews (product_id, stars, text) VALUES (43, 5, 'Better than expected.');" reviews page:product:43

read_sql "SELECT count(*) FROM products WHERE category_id = 1;"
change "Everything in Kitchen becomes dearer, ${answer[0]} rows in one statement" \
    "UPDATE products SET price = price * 1.05 WHERE category_id = 1;" products page:kitchen

change "A customer's orders are deleted: the tag is that of the old rows" \
    "DELETE FROM orders WHERE customer_id = 77;" orders page:orders:77

change "One partition is truncated: no row tells whose orders went, so the whole family falls" \
    "TRUNCATE orders_2024;" orders page:orders:77

change "Somebody says so" "SELECT cachetag.invalidate('homepage');" "" page:home

fill_all
echo
echo "* And what is rolled back never happened"
echo "    BEGIN; UPDATE products SET price = 0; ROLLBACK;"
write_sql "BEGIN; UPDATE products SET price = 0; ROLLBACK; SELECT cachetag.invalidate('the-next-commit');"
write_sql "SELECT pg_current_wal_flush_lsn();"
end=${answer[0]} began=$(micros) stays=()
for page in "${pages[@]}"; do
    # A hit only counts when it covers what came after the rollback.
    until
        redis_call "FCALL_RO cachetag_peek 1 {ct}:e:$page ATLEAST $end"
        [[ ${answer[0]} == hit ]]
    do
        (($(micros) - began < 5000000)) || { echo "$page fell" >&2; exit 1; }
    done
    stays+=("$page")
done
printf '    valid  %s\n' "${stays[*]}"

if [[ ${DEMO_INTERACTIVE:-} != 1 ]] && ! [[ -t 0 && -t 1 ]]; then
    echo
    echo "Done; everything is stopped and removed."
    exit 0
fi

cat <<END

Everything keeps running until Ctrl-C. In other terminals:

    psql $postgres
    redis-cli -u $redis

    redis-cli -u $redis FCALL_RO cachetag_explain 1 '{ct}:e:page:home'   # is it valid, and why
    redis-cli -u $redis XREVRANGE '{ct}:log' + - COUNT 5                 # the last bumps
    psql $postgres -c "SELECT * FROM cachetag.rules"                     # what touches what
    psql $postgres -c "SELECT * FROM cachetag.status()"
END
trap 'exit 0' INT TERM
wait "$dev"
