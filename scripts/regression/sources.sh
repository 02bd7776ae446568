#!/usr/bin/env bash
# Fetches the sources of PostgreSQL's regression suite for the server of PG_CONFIG, and prints the folder that holds them (sql/, expected/, …).
#
# They come as Debian's source package through a private apt root: apt checks them with the system's archive keyring, nothing is installed,
# and the system's own package lists stay as they are. A second run finds the result and downloads nothing. The suite of another minor version
# will do: it is first run without cachetag, and what counts is the difference. Then bin/psql of that version is there too, for the tests are as
# much of psql as of the server.
set -euo pipefail

fail() {
    echo "regression/sources.sh: $*" >&2
    exit 1
}

version=$("${PG_CONFIG:-pg_config}" --version | sed 's/[^0-9]*\([0-9.]*\).*/\1/')
major=${version%%.*}
home=${XDG_CACHE_HOME:-$HOME/.cache}/cachetag
suite=$home/regress-$version
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

mkdir -p "$home"
exec 9>"$home/regress.lock"
flock 9 # two test runs may want it at once
if [[ -f $suite/parallel_schedule ]]; then
    echo "$suite"
    exit 0
fi

for tool in apt-get bzip2 dpkg dpkg-deb tar; do
    command -v "$tool" >/dev/null || fail "$tool is missing; or put src/test/regress of PostgreSQL $major into $suite by hand"
done
[[ -r $keyring ]] || fail "$keyring is missing: install the package debian-archive-keyring"
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")

apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt/etc/apt.conf.d" "$apt/etc/preferences.d" "$apt/etc/trusted.gpg.d" "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/got" "$apt/new"
: >"$apt/status"
{
    for kind in deb deb-src; do
        echo "$kind [signed-by=$keyring] $mirror $codename main"
        echo "$kind [signed-by=$keyring] $mirror-security $codename-security main"
    done
} >"$apt/etc/sources.list"
private=(
    -o "Dir::Etc=$apt/etc" -o "Dir::State=$apt/state" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
    -o "APT::Sandbox::User=$(id -un)" -o "APT::Architecture=$(dpkg --print-architecture)" -o "Acquire::Languages=none" -o "Acquire::Retries=3"
)
apt-get "${private[@]}" -qq update >&2 || fail "cannot read the source lists of $mirror; DEBIAN_MIRROR names another mirror"

# The server's own version first. A mirror may list a version whose files it no longer has.
mapfile -t versions < <(apt-cache "${private[@]}" showsrc "postgresql-$major" 2>/dev/null | sed -n 's/^Version: //p' | sort -rV)
((${#versions[@]})) || fail "$mirror has no source package postgresql-$major"
for wanted in $(printf '%s\n' "${versions[@]}" | grep -F "$version-" || true) "${versions[@]}"; do
    if (cd "$apt/got" && apt-get "${private[@]}" -qq source --download-only "postgresql-$major=$wanted") >"$apt/log" 2>&1; then
        archive=$(compgen -G "$apt/got/*.orig.tar.*" | grep -v '\.asc$')
        tar -xf "$archive" -C "$apt/new" --strip-components=4 --wildcards '*/src/test/regress/*'
        if [[ $wanted != "$version-"* ]]; then
            (cd "$apt/got" && apt-get "${private[@]}" -qq download "postgresql-client-$major=$wanted" >&2) || fail "cannot download psql $wanted from $mirror"
            dpkg-deb -x "$apt"/got/postgresql-client-*.deb "$apt/client"
            install -D "$apt/client/usr/lib/postgresql/$major/bin/psql" "$apt/new/bin/psql"
        fi
        mv "$apt/new" "$suite"
        echo "$suite"
        exit 0
    fi
done
cat "$apt/log" >&2
fail "cannot download the source package postgresql-$major from $mirror"
