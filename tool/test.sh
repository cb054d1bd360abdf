#!/usr/bin/env bash
# Sets up the environment where needed, then runs ruff and the tests: bash tool/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
. tool/setup.sh
python -m ruff check .
python -m pytest "$@"
