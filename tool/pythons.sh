# The Pythons this project supports, and where this machine has them. Only definitions: setup.sh and test_pythons.sh source it.

# The one place that states the range; the README repeats it, and tests/test_setup.py compares the two.
# torch, numba and OpenCV have wheels for each of them.
SUPPORTED_PYTHONS="3.10 3.11 3.12 3.13 3.14"  # oldest first
OLDEST_PYTHON=${SUPPORTED_PYTHONS%% *}
NEWEST_PYTHON=${SUPPORTED_PYTHONS##* }

# python_version COMMAND: prints its version, such as 3.11, or nothing if the command does not run.
python_version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

# is_supported VERSION
is_supported() {
    case " $SUPPORTED_PYTHONS " in
        *" $1 "*) return 0 ;;
        *) return 1 ;;
    esac
}

# find_python VERSION: prints a command that runs this version, or nothing. It looks on PATH and among pyenv's versions.
find_python() {
    local candidate
    for candidate in "python$1" python3 "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        if [ "$(python_version "$candidate")" = "$1" ]; then
            echo "$candidate"
            return
        fi
    done
}
