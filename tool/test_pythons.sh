#!/usr/bin/env bash
# Installs requirements.txt and runs the smoke preset with several Pythons, each in a fresh environment in a temporary folder.
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

work= child=
set -m  # a background command leads a process group of its own, so that pip's own processes can be ended with it

# run COMMAND ...: in the background, since bash acts on a signal at once only while it waits.
run() {
    local code=0
    "$@" </dev/null &
    child=$!
    wait "$child" || code=$?
    child=
    return "$code"
}

# Ends what still runs, then removes the environment.
clean_up() {
    if [ -n "$child" ]; then
        kill -- "-$child" 2>/dev/null || true
        wait 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# test_python VERSION: installs and runs the smoke preset in $work; a failure ends with the last lines of the output.
test_python() {
    local start=$SECONDS installed log=$work/log stage_log
    mkdir "$work/tmp"  # for pip's downloads, so that they are removed with the rest
    if ! run env PPC_PYTHON="$(find_python "$1")" PPC_VENV="$work/venv" TMPDIR="$work/tmp" \
        bash -c 'set -euo pipefail; . tool/setup.sh' >"$log" 2>&1; then
        echo "Python $1: failed after $((SECONDS - start)) s, in the installation"
        tail -n 20 "$log" | sed 's/^/    /'
        return 1
    fi
    installed=$((SECONDS - start))
    if ! run "$work/venv/bin/python" -m tool.pipeline --preset smoke --work_dir "$work/smoke" >"$log" 2>&1; then
        echo "Python $1: failed after $((SECONDS - start)) s, in the smoke preset"
        stage_log=$(ls -t "$work"/smoke/logs/*.log 2>/dev/null | head -n 1)
        tail -n 20 "$log" ${stage_log:+"$stage_log"} | sed 's/^/    /'
        return 1
    fi
    echo "Python $1: passed in $((SECONDS - start)) s (installation $installed s)"
}

passed=0 failed=0
for version in $SUPPORTED_PYTHONS; do  # in this order, and each only once
    case " $versions " in
        *" $version "*) ;;
        *) continue ;;
    esac
    if [ "$version" = "$skipped" ]; then
        echo "Python $version: skipped, tested already"
        continue
    fi
    work=$(mktemp -d)
    if test_python "$version"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
    rm -rf "$work"
done
if [ $((passed + failed)) -gt 0 ]; then
    echo "Pythons: $passed passed, $failed failed"
fi
[ "$failed" = 0 ]
