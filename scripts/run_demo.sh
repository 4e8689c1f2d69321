#!/usr/bin/env bash
# A small demonstration: create a sample set, preprocess it, fine-tune, evaluate, export, and print the result.
#   bash scripts/run_demo.sh                   # fine-tunes weights_pretrained/MIMO-UNet_sample.ckpt
#   bash scripts/run_demo.sh --from_scratch    # starts from random weights
# All output goes to ./demo in the repository. Takes less than 6 minutes on two CPU cores.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case "${1:-}" in
    "") echo "demo: fine-tunes the sample weights; --from_scratch starts from random ones" ;;
    --from_scratch) echo "demo: trains from random weights" ;;
    *) echo "usage: bash scripts/run_demo.sh [--from_scratch]" >&2; exit 2 ;;
esac

bash "$root/scripts/setup.sh"
exec "$root/.venv/bin/python" "$root/scripts/demo.py" "$@"
