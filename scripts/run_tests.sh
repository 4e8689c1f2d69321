#!/usr/bin/env bash
# Lint, format, types and tests: bash scripts/run_tests.sh [--all] [options of pytest]. --all adds the slow tests.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

selection=(-m "not slow")
arguments=()
for argument in "$@"; do
  case $argument in
    -h | --help) sed -n '2s/^# //p' "${BASH_SOURCE[0]}" && exit 0 ;;
    --all) selection=() ;;
    *) arguments+=("$argument") ;;
  esac
done

started=$SECONDS
bash "$ROOT/scripts/setup.sh" --dev

# Every step runs, also after a failure: one round shows all that is wrong.
failed=()
step() {
  local name=$1
  shift
  echo "== $name"
  "$@" || failed+=("$name")
}
cd "$ROOT" # where pyproject.toml has the settings of all these tools; a file named for pytest is relative to it
step "ruff check" "$VENV_PYTHON" -m ruff check .
step "ruff format" "$VENV_PYTHON" -m ruff format --check .
step "mypy" "$VENV_PYTHON" -m mypy
step "imports" "$VENV_PYTHON" -m importlinter.cli lint
# Two tests at a time, a thread each: most of their time goes to starting processes, and OpenMP's threads wait for each other
# by spinning, which two processes on the same cores cannot afford. -n 0 among the arguments: one after the other.
export OMP_NUM_THREADS=1
step "pytest" "$VENV_PYTHON" -m pytest -n 2 --dist worksteal "${selection[@]}" "${arguments[@]}"

echo "total: $((SECONDS - started)) s, failed: ${failed[*]:-none}"
[ ${#failed[@]} -eq 0 ]
