#!/usr/bin/env bash
# Scores the sample weights on their held-out sets, then writes the figures, tables and pictures of their model card.
#   bash weights_pretrained/score_sample_weights.sh DATA WORK --run RECIPE=RUN_FOLDER ... --hardware TEXT
# DATA is what the lists in weights_pretrained are relative to; WORK gets sets and reports; the rest is for record_weights.py.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python="$root/.venv/bin/python"
card="$root/weights_pretrained"

if [ $# -lt 2 ]; then
    echo "usage: bash weights_pretrained/score_sample_weights.sh DATA WORK --run RECIPE=RUN_FOLDER ... --hardware TEXT" >&2
    exit 2
fi
data=$1 work=$2
shift 2
if [ ! -d "$data/pairs" ] || [ ! -d "$data/sharp/kodak24" ]; then
    echo "error: DATA: got $data, expected a folder with pairs/ and sharp/kodak24/, the files of weights_pretrained/test_*.txt" >&2
    exit 2
fi

score() { # NAME OPTIONS...
    "$python" "$root/eval.py" --device_target CPU --ckpt_file "$card/MIMO-UNet_sample.ckpt" --metrics psnr,ssim \
        --report_file "$work/$1.json" --strip_save_directory "$work/$1_strips" "${@:2}"
}

mkdir -p "$work/photos"
while read -r name; do cp "$data/sharp/kodak24/$name" "$work/photos/"; done <"$card/test_kodak.txt"
rm -rf "$work/kodak" "$work/sample" # of an earlier call
PYTHONPATH="$root" "$python" -m src.data.synthetic_blur --photos "$work/photos" --root "$work/kodak" --count 6 --seed 1
PYTHONPATH="$root" "$python" -m src.data.sample_data --root "$work/sample_set"
"$python" "$root/src/preprocessing.py" --root_src "$work/sample_set" --root_dst "$work/sample"

score gopro --dataset_root "$data" --test_list "$card/test_gopro.txt"
score reds --dataset_root "$data" --test_list "$card/test_reds.txt"
score kodak --dataset_root "$work/kodak"
score sample --dataset_root "$work/sample" --slice_dataset 3
exec "$python" "$root/weights_pretrained/record_weights.py" --reports "$work" "$@"
