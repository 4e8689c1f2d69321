# What setup.sh, run_tests.sh and the launchers share. To be sourced from bash; sourcing it runs nothing.
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$ROOT/.venv"
VENV_PYTHON="$VENV/bin/python"
# Present while setup.sh works on .venv, with what it is installing: whoever finds it, and no setup.sh at work, has a half-finished installation.
UNFINISHED="$VENV/setup_unfinished"

# A mistake of the user or of the machine: one line and exit status 2, as the Python scripts do it.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# One line with every argument quoted for the shell, ready to be pasted.
quoted() {
  local line
  printf -v line '%q ' "$@"
  printf '%s' "${line% }"
}

# ---- devices ---------------------------------------------------------------------------------------------------------

nvidia_gpu_count() {
  local count=0
  if command -v nvidia-smi >/dev/null; then
    # Lines of MIG slices are indented: they are parts of a GPU, not more of them.
    count=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU [0-9]') || true
  elif [ -d /proc/driver/nvidia/gpus ]; then
    count=$(find /proc/driver/nvidia/gpus -mindepth 1 -maxdepth 1 | wc -l)
  fi
  # A GPU that the user hides from CUDA is not there for us either.
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    local visible
    visible=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '^[0-9GM]') || true
    if [ "$visible" -lt "$count" ]; then count=$visible; fi
  fi
  echo $((count))
}

has_nvidia_driver() {
  [ -e /proc/driver/nvidia/version ] || compgen -G "/dev/nvidia[0-9]*" >/dev/null || nvidia-smi -L 2>/dev/null | grep '^GPU' >/dev/null
}

ascend_count() {
  local count=0 file
  for file in /dev/davinci[0-9]*; do
    if [ -e "$file" ]; then count=$((count + 1)); fi
  done
  echo "$count"
}

# The folder of the CANN toolkit, Huawei's software for Ascend; the environment's word counts first.
cann_home() {
  local folder
  for folder in "${ASCEND_HOME_PATH:-}" /usr/local/Ascend/ascend-toolkit/latest /usr/local/Ascend/ascend-toolkit \
    /usr/local/Ascend/cann "$HOME/Ascend/ascend-toolkit/latest" "$HOME/Ascend/cann"; do
    if [ -n "$folder" ] && [ -d "$folder" ]; then
      echo "$folder"
      return
    fi
  done
  return 1
}

# ---- .venv -----------------------------------------------------------------------------------------------------------

# Make .venv when it is missing or half made. A complete one, also one made by hand, is used as it is.
need_venv() {
  if [ ! -x "$VENV_PYTHON" ] || [ -e "$UNFINISHED" ]; then
    bash "$ROOT/scripts/setup.sh" "$@" || exit $?
  fi
}

# CANN's own settings (paths of its compiler and libraries), unless the user has read them in already.
source_cann_env() {
  local script home
  [ -z "${ASCEND_OPP_PATH:-}" ] || return 0
  home=$(cann_home) || return 0
  for script in "$home/set_env.sh" "$home/../set_env.sh"; do
    if [ -f "$script" ]; then
      set +eu # written for interactive shells: it reads variables that nobody has set
      # shellcheck disable=SC1090
      source "$script"
      set -eu
      return 0
    fi
  done
}

# CUDA for MindSpore: the wheels of setup.sh --gpu, or else a CUDA 11 of the machine's own.
source_gpu_env() {
  if [ -d "$VENV/cuda" ] || $DRY_RUN; then
    SHOWN_SETTINGS+="source $(quoted "$ROOT/scripts/gpu_env.sh") && "
    # shellcheck source-path=SCRIPTDIR source=gpu_env.sh
    $DRY_RUN || source "$ROOT/scripts/gpu_env.sh" || exit $?
  elif "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" --version 2>/dev/null | grep 'release 11' >/dev/null; then
    echo "CUDA: the machine's own, of ${CUDA_HOME:-/usr/local/cuda}"
  else
    die "an NVIDIA driver is here, but no CUDA 11 libraries: run 'bash $(quoted "$ROOT/scripts/setup.sh") --gpu' once"
  fi
}

# ---- launchers -------------------------------------------------------------------------------------------------------
# Each launcher is one call: launch ACTION DEVICE "$@", with ACTION standalone_train, distribute_train or eval.
# No function changes the folder, so relative paths of the caller stay valid.

usage() {
  local words
  case $ACTION in
    standalone_train) words="DATASET CKPT_DIR [--dry_run] [options of train.py]" ;;
    distribute_train) words="DATASET CKPT_DIR [N, default 8] [--launcher mpirun|msrun] [--dry_run] [options of train.py]" ;;
    eval) words="DATASET CKPT_FILE [IMG_SAVE_DIR] [--dry_run] [options of eval.py]" ;;
  esac
  echo "usage: bash $(basename "$0") $words"
}

help_text() {
  usage
  case $ACTION in
    standalone_train) echo "Trains on one $DEVICE device, with configs/${DEVICE}_config.yaml." ;;
    distribute_train)
      echo "Trains on N $DEVICE devices of this machine, data parallel, with configs/${DEVICE}_config.yaml."
      echo "--launcher  starts the N ranks: mpirun (default for gpu) or msrun (default for ascend and cpu)"
      echo "Logs of the ranks go to CKPT_DIR_logs. Ends with a status other than 0 when a rank fails, and shows its last lines."
      ;;
    eval) echo "Scores a checkpoint on a $DEVICE device, with configs/${DEVICE}_config.yaml; saves the images if a folder is named." ;;
  esac
  echo "--dry_run   prints the command and ends"
  echo "Further options go to the Python script and win over the configuration; its own --help lists them."
}

usage_error() {
  usage >&2
  exit 2
}

# Fills POSITIONAL and OPTIONS (what the Python script gets), and takes out what is the launcher's own.
parse_arguments() {
  POSITIONAL=() OPTIONS=() DRY_RUN=false LAUNCHER=""
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) help_text && exit 0 ;;
      --dry_run | --dry-run) DRY_RUN=true ;;
      --launcher=*) LAUNCHER=${1#*=} ;;
      --launcher)
        [ $# -ge 2 ] || usage_error
        LAUNCHER=$2
        shift
        ;;
      --*) OPTIONS+=("$1") ;;
      # A word after the first option is that option's value; before it, an argument of ours.
      *) if [ ${#OPTIONS[@]} -gt 0 ]; then OPTIONS+=("$1"); else POSITIONAL+=("$1"); fi ;;
    esac
    shift
  done
}

launch() {
  ACTION=$1 DEVICE=$2
  shift 2
  parse_arguments "$@"
  local least=2 most=3
  [ "$ACTION" = standalone_train ] && most=2
  if [ ${#POSITIONAL[@]} -lt $least ] || [ ${#POSITIONAL[@]} -gt $most ]; then usage_error; fi
  [ -z "$LAUNCHER" ] || [ "$ACTION" = distribute_train ] || usage_error
  SHOWN_SETTINGS="" # settings of the environment, as a person would type them before the command

  local script="$ROOT/train.py" third=${POSITIONAL[2]:-}
  local arguments=(--config_path "$ROOT/configs/${DEVICE}_config.yaml" --dataset_root "${POSITIONAL[0]}")
  if [ "$ACTION" = eval ]; then
    script="$ROOT/eval.py"
    arguments+=(--ckpt_file "${POSITIONAL[1]}")
    [ -z "$third" ] || arguments+=(--img_save_directory "$third")
  else
    arguments+=(--ckpt_save_directory "${POSITIONAL[1]}")
  fi

  if [ "$ACTION" = distribute_train ]; then
    case ${third:-8} in
      *[!0-9]* | 0*) die "N, the number of devices: got '$third', expected a whole number of 1 or more" ;;
    esac
    launch_ranks "${third:-8}" "${POSITIONAL[1]}" "$script" "${arguments[@]}" --is_train_distributed true "${OPTIONS[@]}"
  else
    prepare_device any
    local cmd=("$VENV_PYTHON" "$script" "${arguments[@]}" "${OPTIONS[@]}")
    show_and_end_if_dry "${cmd[@]}"
    exec "${cmd[@]}" # in the foreground and in our place: Ctrl-C and the exit status are the program's own
  fi
}

show_and_end_if_dry() {
  if $DRY_RUN; then
    echo "$SHOWN_SETTINGS$(quoted "$@")"
    exit 0
  fi
}

# prepare_device WANTED, a number or `any`: counts the devices before anything is installed, then sees to .venv and to
# the device's environment. Sets FOUND, what the preflight line says.
prepare_device() {
  local wanted=$1 found
  FOUND="not looked for"
  if $DRY_RUN; then # the command is wanted, whatever this machine has
    [ "$DEVICE" != gpu ] || source_gpu_env
    return 0
  fi
  case $DEVICE in
    gpu)
      found=$(nvidia_gpu_count)
      if [ "$wanted" = any ]; then
        has_nvidia_driver || die "no NVIDIA GPU here (no driver, and nvidia-smi -L lists none); the _cpu script runs anywhere"
      else
        need_devices "$wanted" "$found" "NVIDIA GPU" "nvidia-smi -L${CUDA_VISIBLE_DEVICES+, CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES}"
      fi
      need_venv --gpu
      source_gpu_env
      ;;
    ascend)
      found=$(ascend_count)
      need_devices "${wanted/any/1}" "$found" "Ascend device" "/dev/davinci*"
      need_venv --ascend
      source_cann_env
      ;;
    cpu)
      found="$(getconf _NPROCESSORS_ONLN) cores of the"
      need_venv
      ;;
  esac
  FOUND="$found $DEVICE"
}

# need_devices WANTED FOUND NAME WHERE_LOOKED
need_devices() {
  [ "$2" -gt 0 ] || die "no $3 here (looked at: $4); the _cpu script runs anywhere"
  [ "$2" -ge "$1" ] || die "$1 ${3}s asked for, $2 found ($4); give $2 or less as the third argument"
}

# ---- several ranks ---------------------------------------------------------------------------------------------------

# launch_ranks N CKPT_DIR SCRIPT ARGUMENTS...: one rank on each of N devices of this machine.
launch_ranks() {
  local count=$1 logs="${2%/}_logs" port=none cmd
  shift 2
  [ -n "$LAUNCHER" ] || { [ "$DEVICE" = gpu ] && LAUNCHER=mpirun || LAUNCHER=msrun; }
  prepare_device "$count"

  case $LAUNCHER in
    mpirun) mpirun_command "$count" "$logs" "$@" ;;
    msrun)
      port=$(free_port)
      msrun_command "$count" "$logs" "$port" "$@"
      ;;
    *) die "--launcher: got '$LAUNCHER', expected mpirun or msrun" ;;
  esac
  echo "preflight: devices: $FOUND; ranks: $count; launcher: $LAUNCHER ($LAUNCHER_PATH); port: $port; logs: $logs"
  show_and_end_if_dry "${cmd[@]}"

  # Not inside CKPT_DIR: train.py refuses a run folder that already holds something.
  mkdir -p "$logs" 2>/dev/null || die "cannot make the log folder $logs; give a CKPT_DIR whose parent you may write to"
  # The command, for the record. Its time tells this run's logs from those of an earlier run.
  quoted "${cmd[@]}" >"$logs/command.txt"
  run_in_front "${cmd[@]}"
  [ "$STATUS" -eq 0 ] || show_failure "$logs"
  exit "$STATUS"
}

# Sets `cmd` of launch_ranks and LAUNCHER_PATH, as its twin below does.
mpirun_command() {
  local count=$1 logs=$2
  shift 2
  LAUNCHER_PATH=$(command -v mpirun || true)
  if [ -z "$LAUNCHER_PATH" ]; then
    $DRY_RUN || die "no mpirun on the PATH: apt-get install openmpi-bin, or use --launcher msrun, which needs nothing"
    LAUNCHER_PATH="not found"
  fi
  # No binding: Open MPI would give each rank one core, and the loader's workers need several.
  cmd=(mpirun -np "$count" --bind-to none --oversubscribe --output-filename "$logs")
  [ "$(id -u)" -ne 0 ] || cmd+=(--allow-run-as-root) # Open MPI refuses root without it
  cmd+=("$VENV_PYTHON" "$@")
}

msrun_command() {
  local count=$1 logs=$2 port=$3
  shift 3
  LAUNCHER_PATH="$VENV/bin/msrun"
  # msrun starts its ranks as plain `python`: ours has to be the first on the PATH.
  export PATH="$VENV/bin:$PATH"
  SHOWN_SETTINGS+="PATH=$(quoted "$VENV/bin"):\$PATH "
  # Through Python, because the first line of bin/msrun names the folder where .venv was made: it may have moved.
  cmd=("$VENV_PYTHON" "$LAUNCHER_PATH" --worker_num="$count" --local_worker_num="$count" --master_addr=127.0.0.1
    --master_port="$port" --log_dir="$logs" --join=True --tail_worker_log=0)
  [ "$DEVICE" != ascend ] || cmd+=(--bind_core=True) # each rank on the cores near its device
  cmd+=("$@")
}

# A port on which nobody listens, below those that the kernel hands out by itself. The scheduler of a broken run may
# hold its port for a while, and a second cluster on one port fails with "Repeated registration node".
free_port() {
  local port
  while true; do
    port=$((20000 + RANDOM % 12000))
    (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

# Run a launcher and wait for it; STATUS is its exit status. It gets a process group of its own, so that a signal to
# this script reaches it and everything it started in that group.
run_in_front() {
  local child
  set -m
  "$@" </dev/null & # a process in the background may not read from the terminal
  child=$!
  set +m
  # msrun ends its ranks on SIGINT only: after SIGTERM they would stay behind, holding the devices.
  trap 'INTERRUPTED=130; kill -INT -- "-$child" 2>/dev/null || true' INT
  trap 'INTERRUPTED=143; kill -INT -- "-$child" 2>/dev/null || true' TERM HUP
  STATUS=0 INTERRUPTED=0
  wait "$child" || STATUS=$?
  while kill -0 "$child" 2>/dev/null; do # a signal to us ends `wait` before the launcher has ended
    STATUS=0
    wait "$child" || STATUS=$?
  done
  trap - INT TERM HUP
  [ "$INTERRUPTED" -eq 0 ] || exit "$INTERRUPTED"
}

# The end of the log of the rank that failed first. Its fellows are killed or fail soon after, so of the logs that hold
# an error it is the one that was last written to longest ago.
show_failure() {
  local logs=$1 file first=""
  for file in "$logs"/worker_*.log "$logs"/*/rank.*/std{err,out}; do
    if [ "$file" -nt "$logs/command.txt" ] && grep -qE '^error:|^Traceback|[a-z]Error:|\[(ERROR|CRITICAL)\]' "$file"; then
      if [ -z "$first" ] || [ "$file" -ot "$first" ]; then first=$file; fi
    fi
  done
  if [ -n "$first" ]; then
    printf '\nThe first rank that failed, last lines of %s:\n' "$first"
    tail -n 20 "$first" | sed 's/^/  | /'
  else
    printf '\nNo rank wrote an error message: one that is killed, for memory for example, cannot.\n'
  fi
  printf 'error: %s ended with status %s; the logs of all ranks are in %s\n' "$LAUNCHER" "$STATUS" "$logs"
} >&2
