#!/usr/bin/env bash
# Train on several devices of one or more machines: DATASET CKPT_DIR [N] [options of train.py]; see --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
launch distribute_train ascend "$@"
