#!/usr/bin/env bash
# Installs requirements.txt and runs the smoke preset with several Pythons, two at once, each in a fresh environment in a
# temporary folder.
#
#   bash tool/test.sh --all_pythons                  every supported Python of this machine
#   bash tool/test.sh --pythons oldest newest 3.12   the oldest and the newest found here, and one by its version
#   ... --skip 3.11                                  leaves out a version that has been tested already
#
# Prints a line for each Python: its version, passed or failed, seconds. Exit code 1 if one failed, 2 for wrong arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
. tool/pythons.sh
unset VIRTUAL_ENV CONDA_PREFIX

fail() {
    echo "test_pythons: error: $*" >&2
    exit 2
}

# What this machine has.
found= missing=
for version in $SUPPORTED_PYTHONS; do
    if [ -n "$(find_python "$version")" ]; then
        found="$found $version"
    else
        missing="$missing $version"
    fi
done
found=${found# }
[ -n "$found" ] || fail "no supported Python found on PATH or in pyenv ($OLDEST_PYTHON to $NEWEST_PYTHON)"
echo "Pythons found: $found${missing:+; not found:$missing}"

# Which of them to test.
versions= skipped=
while [ $# -gt 0 ]; do
    case "$1" in
        --all_pythons) versions="$versions $found" ;;
        --pythons) ;;
        oldest) versions="$versions ${found%% *}" ;;
        newest) versions="$versions ${found##* }" ;;
        --skip)
            [ $# -gt 1 ] || fail "--skip needs a version"
            skipped=$2
            shift
            ;;
        *)
            is_supported "$1" || fail "$1: neither oldest, newest nor a supported version ($SUPPORTED_PYTHONS)"
            [ -n "$(find_python "$1")" ] || fail "there is no Python $1 on PATH or in pyenv"
            versions="$versions $1"
            ;;
    esac
    shift
done
[ -n "$versions" ] || fail "--pythons needs versions, oldest or newest"

# Two at once: the installation of one unpacks while the other downloads or trains.
AT_ONCE=2
work=$(mktemp -d)
set -m  # each background command leads a process group of its own, so that what it has started can be ended with it

# Ends what still runs, then removes the environments.
clean_up() {
    local job
    for job in $(jobs -p); do
        kill -- "-$job" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# test_python VERSION: installs and runs the smoke preset in $work/VERSION; a failure ends with the last lines of the
# output.
test_python() {
    local start=$SECONDS installed place=$work/$1 log=$work/$1/log stage_log
    mkdir -p "$place/tmp"  # for pip's downloads, so that they are removed with the rest
    if ! env PPC_PYTHON="$(find_python "$1")" PPC_VENV="$place/venv" TMPDIR="$place/tmp" \
        bash -c 'set -euo pipefail; . tool/setup.sh' >"$log" 2>&1; then
        echo "Python $1: failed after $((SECONDS - start)) s, in the installation"
        tail -n 20 "$log" | sed 's/^/    /'
        return 1
    fi
    installed=$((SECONDS - start))
    if ! "$place/venv/bin/python" -m tool.pipeline --preset smoke --work_dir "$place/smoke" >"$log" 2>&1; then
        echo "Python $1: failed after $((SECONDS - start)) s, in the smoke preset"
        stage_log=$(ls -t "$place"/smoke/logs/*.log 2>/dev/null | head -n 1)
        tail -n 20 "$log" ${stage_log:+"$stage_log"} | sed 's/^/    /'
        return 1
    fi
    echo "Python $1: passed in $((SECONDS - start)) s (installation $installed s)"
}

passed=0 failed=0 running= count=0

# Waits for the Pythons that run, in their order, and counts how they ended.
finish() {
    local version_and_process version
    for version_and_process in $running; do
        version=${version_and_process%:*}
        if wait "${version_and_process#*:}"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
        cat "$work/$version.out"
        rm -rf "${work:?}/$version"
    done
    running= count=0
}

for version in $SUPPORTED_PYTHONS; do  # in this order, and each only once
    case " $versions " in
        *" $version "*) ;;
        *) continue ;;
    esac
    if [ "$version" = "$skipped" ]; then
        echo "Python $version: skipped, tested already"
        continue
    fi
    # bash acts on a signal at once while it waits for a command in the background, not in the foreground
    test_python "$version" </dev/null >"$work/$version.out" 2>&1 &
    running="$running $version:$!"
    count=$((count + 1))
    [ "$count" -lt "$AT_ONCE" ] || finish
done
finish
if [ $((passed + failed)) -gt 0 ]; then
    echo "Pythons: $passed passed, $failed failed"
fi
[ "$failed" = 0 ]
