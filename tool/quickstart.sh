#!/usr/bin/env bash
# Sets up the environment where needed, then trains everything on generated pictures, from image-level labels to DeepLab, and
# ends with the scores, a contact sheet and a report.html in runs/quickstart: bash tool/quickstart.sh [arguments of tool.pipeline]
set -euo pipefail
cd "$(dirname "$0")/.."
. tool/setup.sh
exec python -m tool.pipeline --preset quickstart --work_dir runs/quickstart "$@"
