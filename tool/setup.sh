#!/usr/bin/env bash
# Activates the environment of this repository; sourced by the other scripts, from the repository's root.
# Outside any environment it makes .venv, and installs requirements.txt when that has changed since the last time.
if [ -z "${VIRTUAL_ENV:-}" ] && [ -z "${CONDA_PREFIX:-}" ]; then
    [ -x .venv/bin/python ] || python3 -m venv .venv
    . .venv/bin/activate
fi
# what this environment has been given, kept inside it
stamp=$(python -c 'import sys; print(sys.prefix)')/.ppc-requirements
if ! cmp -s requirements.txt "$stamp"; then
    python -m pip install --quiet -r requirements.txt pytest ruff
    cp requirements.txt "$stamp"
fi
