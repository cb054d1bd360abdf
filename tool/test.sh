#!/usr/bin/env bash
# Sets up the environment where needed, then runs ruff and the tests: bash tool/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
. tool/setup.sh
export OMP_WAIT_POLICY=PASSIVE  # threads that wait do not keep the tests' other processes from running
python -m ruff check .
python -m ruff format --check .
python -m pytest "$@"
