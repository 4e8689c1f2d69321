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

# Every step runs, even after a failure, so that one call shows all problems.
failed=()
step() {
  local name=$1
  shift
  echo "== $name"
  "$@" || failed+=("$name")
}
cd "$ROOT" # the tools read pyproject.toml there, and test files are relative to it
step "ruff check" "$VENV_PYTHON" -m ruff check .
step "ruff format" "$VENV_PYTHON" -m ruff format --check .
step "mypy" "$VENV_PYTHON" -m mypy
step "imports" "$VENV_PYTHON" -m importlinter.cli lint
# Two tests at a time with one thread each, because they mostly start processes, and because spinning OpenMP threads of
# two processes slow each other down. The argument -n 0 runs one test at a time.
export OMP_NUM_THREADS=1
step "pytest" "$VENV_PYTHON" -m pytest -n 2 --dist worksteal "${selection[@]}" "${arguments[@]}"

echo "total: $((SECONDS - started)) s, failed: ${failed[*]:-none}"
[ ${#failed[@]} -eq 0 ]
