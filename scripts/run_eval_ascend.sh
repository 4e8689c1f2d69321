#!/usr/bin/env bash
# Score a checkpoint: DATASET CKPT_FILE [IMG_SAVE_DIR] [options of eval.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
launch eval ascend "$@"
