#!/usr/bin/env bash
# Train on several devices of this machine: DATASET CKPT_DIR [N] [--launcher mpirun|msrun] [options of train.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
launch distribute_train ascend "$@"
