#!/usr/bin/env bash
# Sets up the environment where needed, then runs ruff and the tests: bash tool/test.sh [pytest arguments]
# With --all_pythons or --pythons it tests the installation with several Pythons instead: see tool/test_pythons.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
    --all_pythons | --pythons) exec bash tool/test_pythons.sh "$@" ;;
esac
. tool/setup.sh
packages="pytest hypothesis ruff mypy"
for package in $packages; do
    has_module "$package" || { python -m pip install --quiet $packages && break; }
done
export OMP_WAIT_POLICY=PASSIVE  # threads that wait do not keep the tests' other processes from running
python -m ruff check .
python -m ruff format --check .
python -m mypy
python -m pytest "$@"
