#!/usr/bin/env bash
# Builds our contestant and runs the rows; arguments go to run.py. L2UL_PYTHON names a Python with the pinned torch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
go build -o build/bench/ours ./scripts/bench/ours
exec "${L2UL_PYTHON:-python3}" scripts/bench/run.py "$@"
