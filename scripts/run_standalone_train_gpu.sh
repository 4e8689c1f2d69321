#!/usr/bin/env bash
# Train on one device: DATASET CKPT_DIR [options of train.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
launch standalone_train gpu "$@"
