#!/usr/bin/env bash
# What a GPU that is lent for ten minutes can tell and train; see benchmarks/gpu.py.
#
#   bash benchmarks/gpu.sh PACK OUT [--device cuda] [--minutes 9]
#
# PACK is made by benchmarks/pack_training.py. PYTHON names another interpreter.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python" || command -v python3 || command -v python)
export PYTHONPATH="$root/benchmarks:$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "$python" "$root/benchmarks/gpu.py" "$@"
