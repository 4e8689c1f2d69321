#!/usr/bin/env bash
# The main job, small: make a sample set, preprocess it, train, evaluate, export, and show the result.
#   bash scripts/run_demo.sh [--from_scratch]
# Everything it makes lies in ./demo of the repository. Runs on two CPU cores in under 6 minutes.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case "${1:-}" in
    "" | --from_scratch) ;;
    *) echo "usage: bash scripts/run_demo.sh [--from_scratch]" >&2; exit 2 ;;
esac

bash "$root/scripts/setup.sh"
exec "$root/.venv/bin/python" "$root/scripts/demo.py" "$@"
