#!/usr/bin/env bash
# Tests and measurements on one CUDA card, in at most nine minutes and without network. Options: benchmarks/gpu.py --help
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
