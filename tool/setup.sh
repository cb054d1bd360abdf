#!/usr/bin/env bash
# Prepares the Python environment; the other scripts source it, from the repository's root.
#
# It uses the active environment (venv or conda). If there is none it makes .venv and activates it.
# It installs requirements.txt when that file has changed since the last time.
# Before it makes anything it looks at the Python version, the venv module and the free disk. What is missing is one line
# on stderr, and the exit code is 2.
#
#   PPC_PYTHON=/path/to/python   the Python that makes the environment (default: python3, or the newest supported one on PATH)
#   PPC_VENV=dir                 the environment's folder (default: .venv)
#   PPC_CPU=1                    installs the CPU builds of torch, which take 4.5 GB less
#   PPC_CPU_INDEX=url            the package index with these builds (default: PyTorch's own)
#
# PPC_PYTHON or PPC_VENV takes precedence over an active environment.
. tool/pythons.sh

# GB that the environment takes, and GB that pip downloads to a temporary folder meanwhile; both rounded up.
if [ "$(uname -s)" = Linux ] && [ "${PPC_CPU:-}" != 1 ]; then
    environment_gb=7 download_gb=3  # with the CUDA libraries
else
    environment_gb=2 download_gb=1
fi

setup_error() {
    echo "setup: error: $*" >&2
    exit 2
}

# refuse_python WHAT: ends with the line that tells which Pythons are supported, and for which packages.
refuse_python() {
    local packages
    packages=$(echo $(grep -E '^(torch|numba|opencv-python)[<>=]' requirements.txt))
    setup_error "$1; supported are Python $OLDEST_PYTHON to $NEWEST_PYTHON (for $packages)." \
        "Install one of them, or name it: PPC_PYTHON=/path/to/python"
}

# has_module NAME: the environment's Python finds this module.
has_module() {
    python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)" 2>/dev/null
}

# Sets base_python, the Python that makes the environment.
choose_python() {
    local version candidate
    base_python=${PPC_PYTHON:-python3}
    version=$(python_version "$base_python")
    if is_supported "$version"; then
        return
    fi
    if [ -n "${PPC_PYTHON:-}" ]; then
        [ -n "$version" ] || setup_error "PPC_PYTHON=$PPC_PYTHON does not run"
        refuse_python "PPC_PYTHON=$PPC_PYTHON is Python $version"
    fi
    base_python=
    for candidate in $SUPPORTED_PYTHONS; do  # the last one found is the newest
        if [ "$(python_version "python$candidate")" = "$candidate" ]; then
            base_python=python$candidate
        fi
    done
    if [ -n "$base_python" ]; then
        return
    fi
    [ -n "$version" ] || refuse_python "there is no Python on PATH"
    refuse_python "python3 is Python $version"
}

# Debian and Ubuntu ship Python without ensurepip, which the venv module needs.
check_venv_module() {
    local version
    if ! "$base_python" -c 'import ensurepip, venv' 2>/dev/null; then
        version=$(python_version "$base_python")
        setup_error "$base_python cannot make an environment: its venv module is missing." \
            "On Debian and Ubuntu: apt install python$version-venv"
    fi
}

# disk_of FOLDER: prints free kilobytes and the mount point of the disk that holds the folder, or would hold it.
disk_of() {
    local folder=$1
    while [ ! -e "$folder" ]; do
        folder=$(dirname "$folder")
    done
    df -Pk "$folder" | awk 'NR == 2 { print $4, $6 }'
}

# check_disk FOLDER: there is room for the environment in this folder.
check_disk() {
    local free mount temporary_mount needed hint
    read -r free mount <<<"$(disk_of "$1")"
    read -r _ temporary_mount <<<"$(disk_of "${TMPDIR:-/tmp}")"
    needed=$environment_gb
    if [ "$temporary_mount" = "$mount" ]; then
        needed=$((needed + download_gb))
    fi
    if [ "$free" -lt $((needed * 1000000)) ]; then
        hint="free some"
        if [ "$environment_gb" = 7 ]; then
            hint="free some, or take the CPU builds of torch (2 GB) with PPC_CPU=1"
        fi
        setup_error "$mount has $((free / 1000000)) GB free and the installation needs $needed GB; $hint"
    fi
}

install_requirements() {
    local index
    if [ "${PPC_CPU:-}" = 1 ]; then
        # first, so that pip then finds torch already there
        index=${PPC_CPU_INDEX:-https://download.pytorch.org/whl/cpu}
        python -m pip install --quiet --retries 1 --index-url "$index" \
            $(grep -E '^(torch|torchvision)[<>=]' requirements.txt) ||
            setup_error "no CPU builds of torch from $index; name another index in PPC_CPU_INDEX, or leave out PPC_CPU"
    fi
    grep -v '^pydensecrf2' requirements.txt | python -m pip install --quiet -r /dev/stdin ||
        setup_error "pip could not install requirements.txt (its message is above); the same command tries again"
}

# pydensecrf2 is optional, and its C++ source has to be compiled: when that fails, everything else still works.
install_pydensecrf() {
    local log=$prefix/pydensecrf2.log reason=
    if python -m pip install --quiet "$(grep '^pydensecrf2' requirements.txt)" >"$log" 2>&1; then
        # pip succeeds without installing it where requirements.txt excludes this Python
        has_module pydensecrf || reason="it does not compile on Python $(python_version python)"
    elif ! command -v c++ >/dev/null && ! command -v g++ >/dev/null; then
        reason="there is no C++ compiler"
    else
        reason="it did not compile ($log)"
    fi
    if [ -n "$reason" ]; then
        echo "setup: pydensecrf2 is left out: $reason. Only --crf_backend pydensecrf needs it." >&2
    fi
}

# 1. Which environment? An environment without bin/activate was broken off while it was made; one whose Python does not run
#    has lost it. Both are made anew.
is_new=no
if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -z "${PPC_PYTHON:-}${PPC_VENV:-}" ]; then
    version=$(python_version python)
    is_supported "$version" || refuse_python "the active environment has Python $version"
else
    venv=${PPC_VENV:-.venv}
    version=$(python_version "$venv/bin/python")
    if [ -f "$venv/bin/activate" ] && [ -n "$version" ]; then
        is_supported "$version" || refuse_python "$venv has Python $version (delete it to have it made anew)"
        if [ -n "${PPC_PYTHON:-}" ] && [ "$(python_version "$PPC_PYTHON")" != "$version" ]; then
            setup_error "$venv has Python $version, PPC_PYTHON is another; delete $venv, or name another folder in PPC_VENV"
        fi
        . "$venv/bin/activate"
    else
        is_new=yes
        if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
            setup_error "$venv is there and is no environment; name another folder in PPC_VENV"
        fi
        choose_python
        check_venv_module
        check_disk "$venv"
    fi
fi

# 2. Make it.
if [ "$is_new" = yes ]; then
    if [ -e "$venv" ]; then
        echo "setup: $venv does not work (an earlier attempt was broken off, or its Python is gone); it is made anew" >&2
    fi
    if ! "$base_python" -m venv --clear "$venv"; then
        rm -rf "$venv"
        setup_error "$base_python could not make $venv (its message is above)"
    fi
    . "$venv/bin/activate"
fi

# 3. Install. The copy of requirements.txt in the environment is written last: without it the next run installs again.
prefix=$(python -c 'import sys; print(sys.prefix)')
stamp=$prefix/.ppc-requirements
if ! cmp -s requirements.txt "$stamp"; then
    has_module pip || setup_error "$prefix has no pip; install it there, or delete the folder to have it made anew"
    if [ "$is_new" = no ] && ! has_module torch; then
        check_disk "$prefix"
    fi
    install_requirements
    install_pydensecrf
    cp requirements.txt "$stamp"
fi
