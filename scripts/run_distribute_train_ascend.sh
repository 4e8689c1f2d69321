#!/usr/bin/env bash
# Train on several devices, of one machine or more: DATASET CKPT_DIR [N] [options of train.py]; for all options see --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
launch distribute_train ascend "$@"
