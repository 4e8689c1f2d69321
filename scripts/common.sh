# Shared functions of setup.sh, run_tests.sh and the launchers, to be sourced from bash. Sourcing it runs nothing.
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$ROOT/.venv"
VENV_PYTHON="$VENV/bin/python"
# Exists while setup.sh installs into .venv, and lists what it installs. Without a running setup.sh it marks an
# incomplete installation.
UNFINISHED="$VENV/setup_unfinished"

# Reports an error on one line and exits with 2, as the Python scripts do.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# Prints an optional line: the work continues if stdout has no reader. In a dry run the output is the result.
say() {
  if $DRY_RUN; then
    echo "$*"
  else
    (trap '' PIPE && echo "$*") 2>/dev/null || true
  fi
}

# All arguments on one line, quoted for the shell.
quoted() {
  local line
  printf -v line '%q ' "$@"
  printf '%s' "${line% }"
}

# ---- devices ---------------------------------------------------------------------------------------------------------

nvidia_gpu_count() {
  local count=0
  if command -v nvidia-smi >/dev/null; then
    # Indented lines are MIG slices, which are parts of a GPU.
    count=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU [0-9]') || true
  elif [ -d /proc/driver/nvidia/gpus ]; then
    count=$(find /proc/driver/nvidia/gpus -mindepth 1 -maxdepth 1 | wc -l)
  fi
  # Do not count GPUs that the user hides from CUDA.
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

# The folder of the CANN toolkit, Huawei's software for Ascend, preferably from the environment.
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

# Creates .venv if it is missing or incomplete. A complete one is used as it is, even if it was not created by setup.sh.
need_venv() {
  if [ ! -x "$VENV_PYTHON" ] || [ -e "$UNFINISHED" ]; then
    bash "$ROOT/scripts/setup.sh" "$@" || exit $?
  fi
}

# Sources CANN's settings (paths of its compiler and libraries) unless the user has done so.
source_cann_env() {
  local script home
  [ -z "${ASCEND_OPP_PATH:-}" ] || return 0
  home=$(cann_home) || return 0
  for script in "$home/set_env.sh" "$home/../set_env.sh"; do
    if [ -f "$script" ]; then
      set +eu # it is written for interactive shells and reads unset variables
      # shellcheck disable=SC1090
      source "$script"
      set -eu
      return 0
    fi
  done
}

# CUDA for MindSpore: the wheels of setup.sh --gpu, or else CUDA 11 of the machine.
source_gpu_env() {
  if [ -d "$VENV/cuda" ] || $DRY_RUN; then
    SHOWN_SETTINGS+="source $(quoted "$ROOT/scripts/gpu_env.sh") && "
    # shellcheck source-path=SCRIPTDIR source=gpu_env.sh
    $DRY_RUN || source "$ROOT/scripts/gpu_env.sh" || exit $?
  elif "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" --version 2>/dev/null | grep 'release 11' >/dev/null; then
    say "CUDA: using the machine's, in ${CUDA_HOME:-/usr/local/cuda}"
  else
    die "an NVIDIA driver is installed, but no CUDA 11 libraries: run 'bash $(quoted "$ROOT/scripts/setup.sh") --gpu' once"
  fi
}

# ---- launchers -------------------------------------------------------------------------------------------------------
# Each launcher is one call: launch ACTION DEVICE "$@", with ACTION standalone_train, distribute_train or eval.
# No function changes the working directory, so relative paths of the caller stay valid.

usage() {
  local words
  case $ACTION in
    standalone_train) words="DATASET CKPT_DIR [--dry_run] [options of train.py]" ;;
    distribute_train)
      words="DATASET CKPT_DIR [N, default 8] [--launcher mpirun|msrun] [--hostfile FILE | --nnodes M --node_rank R"
      words+=" --master_addr A --master_port P] [--dry_run] [options of train.py]"
      ;;
    eval) words="DATASET CKPT_FILE [IMG_SAVE_DIR] [--dry_run] [options of eval.py]" ;;
  esac
  echo "usage: bash $(basename "$0") $words"
}

help_text() {
  usage
  case $ACTION in
    standalone_train) echo "Trains on one $DEVICE device, with configs/${DEVICE}_config.yaml." ;;
    distribute_train)
      echo "Trains data-parallel on N $DEVICE devices of one or several machines, with configs/${DEVICE}_config.yaml."
      [ "$DEVICE" = cpu ] || echo "With N = 8 the default is --recipe paper_8p (learning rate 5e-4), unless --recipe, --learning_rate or --config_path is given."
      echo "--launcher     program that starts the N ranks: mpirun (default for gpu) or msrun (default for ascend and cpu)"
      echo "--master_port  port through which the ranks connect; default on one machine: a free port"
      echo "Writes the logs of the ranks to CKPT_DIR_logs. If a rank fails, prints its last lines and exits with a non-zero status."
      echo "Several machines (docs/several_machines.md), with N devices in total:"
      echo "--hostfile     mpirun: list of machines, one 'name slots=devices' per line; start this script on one of them"
      echo "--nnodes       msrun: M machines with N/M devices each; start this script on each of them, with"
      echo "--node_rank    its number, counted from 0; without it, --dry_run prints the commands of all machines"
      echo "--master_addr  address of machine 0, and --master_port a free port there; both equal on all machines"
      ;;
    eval) echo "Scores a checkpoint on a $DEVICE device, with configs/${DEVICE}_config.yaml; saves the images if IMG_SAVE_DIR is given." ;;
  esac
  echo "--dry_run   prints the command without running it"
  echo "Other options go to the Python script and override the configuration; its --help lists them."
}

usage_error() {
  usage >&2
  exit 2
}

# Sets POSITIONAL, OPTIONS (for the Python script) and the launcher's variables.
parse_arguments() {
  POSITIONAL=() OPTIONS=() DRY_RUN=false
  LAUNCHER="" HOSTFILE="" MASTER_ADDR="" MASTER_PORT="" NODE_RANK="" NNODES=""
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) help_text && exit 0 ;;
      --dry_run | --dry-run) DRY_RUN=true ;;
      --launcher=* | --hostfile=* | --master_addr=* | --master_port=* | --node_rank=* | --nnodes=*)
        launcher_option "${1%%=*}" "${1#*=}"
        ;;
      --launcher | --hostfile | --master_addr | --master_port | --node_rank | --nnodes)
        [ $# -ge 2 ] || usage_error
        launcher_option "$1" "$2"
        shift
        ;;
      --*) OPTIONS+=("$1") ;;
      # A word after the first option is the value of an option; before it, it is positional.
      *) if [ ${#OPTIONS[@]} -gt 0 ]; then OPTIONS+=("$1"); else POSITIONAL+=("$1"); fi ;;
    esac
    shift
  done
}

# launcher_option --node_rank 1: sets NODE_RANK.
launcher_option() {
  local name=${1#--}
  [ "$ACTION" = distribute_train ] || usage_error
  [ -n "$2" ] || die "$1: got nothing, expected a value"
  printf -v "${name^^}" %s "$2"
}

launch() {
  ACTION=$1 DEVICE=$2
  shift 2
  parse_arguments "$@"
  local least=2 most=3
  [ "$ACTION" = standalone_train ] && most=2
  if [ ${#POSITIONAL[@]} -lt $least ] || [ ${#POSITIONAL[@]} -gt $most ]; then usage_error; fi
  local word
  for word in "${POSITIONAL[@]}"; do
    [[ $word = *[![:space:]]* ]] || die "got '$word' as an argument (is a shell variable unset?); $(usage)"
  done
  SHOWN_SETTINGS="" # environment settings to print before the command

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
    is_number "${third:-8}" && [ "${third:-8}" != 0 ] ||
      die "N, the number of devices: got '$third', expected a whole number of 1 or more"
    choose_learning_rate "${third:-8}" "${POSITIONAL[1]}"
    launch_ranks "${third:-8}" "${POSITIONAL[1]}" "$script" "${arguments[@]}" --is_train_distributed true "${OPTIONS[@]}"
  else
    prepare_device any
    local cmd=("$VENV_PYTHON" "$script" "${arguments[@]}" "${OPTIONS[@]}")
    show_and_end_if_dry "${cmd[@]}"
    exec "${cmd[@]}" # replaces this shell, so that Ctrl-C and the exit status are those of the program
  fi
}

# has_option NAME: whether the user gave --NAME to the Python script.
has_option() {
  local option
  for option in "${OPTIONS[@]}"; do
    if [ "$option" = "--$1" ] || [[ $option = "--$1="* ]]; then return 0; fi
  done
  return 1
}

# choose_learning_rate N CKPT_DIR: adds the recipe for eight devices to OPTIONS, unless the user chose a rate, and sets
# RATE_REMARK to the reason. On CPU the recipe would replace the small crops and few epochs of cpu_config.yaml.
choose_learning_rate() {
  local count=$1 name
  RATE_REMARK=""
  for name in learning_rate recipe config_path; do
    if has_option "$name"; then return 0; fi
  done
  # A resumed run keeps its rate. `--resume auto` in a folder without a run starts a new one.
  if has_option resume && { [ -f "$2/config.yaml" ] || ! [[ " ${OPTIONS[*]}" =~ \ --resume[\ =]auto ]]; }; then
    RATE_REMARK=", from the resumed run"
  elif [ "$count" = 8 ] && [ "$DEVICE" != cpu ]; then
    OPTIONS+=(--recipe paper_8p)
    RATE_REMARK=", from recipe paper_8p, the default on 8 devices; --recipe or --learning_rate override it"
  elif [ "$count" != 1 ]; then
    RATE_REMARK=", as on one device; --learning_rate overrides it"
  fi
}

# describe_training N SCRIPT ARGUMENTS...: prints the total batch and the learning rate. An error in the options ends
# the script here, with one line, before the ranks start.
describe_training() {
  [ -x "$VENV_PYTHON" ] || return 0 # a dry run does not need .venv
  "$VENV_PYTHON" -c '
import sys
root, ranks, remark = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sys.path.insert(0, root)
from src.config import load_config
from src.errors import run_main
def main():
    config = load_config("train", sys.argv[5:])
    batch = config.schedule.train_batch_size * config.schedule.accumulate_steps
    print(f"training: batch {batch} on each of {ranks} rank(s), {batch * ranks} in total; "
          f"learning rate {config.schedule.learning_rate:g}{remark}")
run_main(main)
' "$ROOT" "$1" "$RATE_REMARK" "${@:2}" || exit $?
}

show_and_end_if_dry() {
  if $DRY_RUN; then
    echo "$SHOWN_SETTINGS$(quoted "$@")"
    exit 0
  fi
}

# prepare_device WANTED, a number or `any`: counts the devices before installing anything, then prepares .venv and the
# device's environment. Sets FOUND for the preflight line.
prepare_device() {
  local wanted=$1 found
  FOUND="not checked"
  if $DRY_RUN; then # prints the command whatever devices this machine has
    [ "$DEVICE" != gpu ] || source_gpu_env
    return 0
  fi
  case $DEVICE in
    gpu)
      found=$(nvidia_gpu_count)
      if [ "$wanted" = any ]; then
        has_nvidia_driver || die "no NVIDIA GPU found (no driver, and nvidia-smi -L lists none); the _cpu script runs anywhere"
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
  [ "$2" -gt 0 ] || die "no $3 found (checked: $4); the _cpu script runs anywhere"
  [ "$2" -ge "$1" ] || die "$1 ${3}s requested, $2 found ($4); give $(($2 * ${NNODES:-1})) or fewer as the third argument"
}

# ---- several ranks ---------------------------------------------------------------------------------------------------

# A whole number without leading zeros, which bash would read as octal.
is_number() {
  [[ $1 =~ ^(0|[1-9][0-9]{0,8})$ ]]
}

# launch_ranks N CKPT_DIR SCRIPT ARGUMENTS...: starts one rank on each of N devices, counted over all machines.
launch_ranks() {
  local count=$1 logs="${2%/}_logs" port=${MASTER_PORT:-none} cmd
  shift 2
  check_machines "$count"
  local local_count=$((count / NNODES)) node=${NODE_RANK:-0} name=""
  [ -z "$HOSTFILE" ] || local_count=any # the slots of the list limit them, which Open MPI checks
  prepare_device "$local_count"
  if [ "$port" = none ] && { [ "$LAUNCHER" = msrun ] || [ "$DEVICE" = cpu ]; }; then port=$(free_port); fi
  if [ -n "$MASTER_PORT" ]; then check_meeting_point "$node"; fi

  if [ "$LAUNCHER" = mpirun ]; then
    mpirun_command "$count" "$logs" "$port" "$@"
  else
    LAUNCHER_PATH="$VENV/bin/msrun"
    # msrun starts its ranks as `python`, so that of .venv must be first on the PATH.
    export PATH="$VENV/bin:$PATH"
    SHOWN_SETTINGS+="PATH=$(quoted "$VENV/bin"):\$PATH "
    if [ "$NNODES" -gt 1 ] && [ -z "$NODE_RANK" ]; then show_all_nodes_and_end "$count" "$logs" "$port" "$@"; fi
    if [ "$NNODES" -gt 1 ]; then
      logs+="/node_$node" # because the machines may share their disks
      name="machine: $node of 0-$((NNODES - 1)), connected through $MASTER_ADDR; "
    fi
    msrun_command "$count" "$logs" "$port" "$node" "$@"
  fi
  say "preflight: ${name}devices: $FOUND; ranks: $count; launcher: $LAUNCHER ($LAUNCHER_PATH); port: $port; logs: $logs"
  describe_training "$count" "$@"
  show_and_end_if_dry "${cmd[@]}"

  # The next file to be opened would get a closed descriptor.
  [ -e /dev/fd/1 ] || exec >/dev/null
  [ -e /dev/fd/2 ] || exec 2>/dev/null
  # Not inside CKPT_DIR, because train.py refuses a run folder with contents.
  mkdir -p "$logs" 2>/dev/null || die "cannot create the log folder $logs; choose a CKPT_DIR with a writable parent"
  # Records the command. The file's time distinguishes the logs of this run from earlier ones.
  quoted "${cmd[@]}" >"$logs/command.txt"
  [ "$node" = 0 ] || say "machine 0 shows the progress; this machine waits until it ends"
  run_in_front "$logs/launcher.txt" "${cmd[@]}"
  [ "$STATUS" -eq 0 ] || (trap '' PIPE && show_failure "$logs") || true
  exit "$STATUS"
}

# check_machines N: chooses the launcher and checks the options for machines. Sets NNODES to a number, which is 1 for
# mpirun, because that gets the machines from its list.
check_machines() {
  local count=$1
  if [ -z "$LAUNCHER" ]; then
    if [ -n "$NNODES$NODE_RANK$MASTER_ADDR" ]; then
      LAUNCHER=msrun
    elif [ -n "$HOSTFILE" ] || [ "$DEVICE" = gpu ]; then
      LAUNCHER=mpirun
    else
      LAUNCHER=msrun
    fi
  fi
  if [ -n "$MASTER_PORT" ]; then
    is_number "$MASTER_PORT" && [ "$MASTER_PORT" -ge 1024 ] && [ "$MASTER_PORT" -le 65535 ] ||
      die "--master_port: got '$MASTER_PORT', expected a number from 1024 to 65535"
  fi
  case $LAUNCHER in
    mpirun)
      [ -z "$NNODES$NODE_RANK$MASTER_ADDR" ] ||
        die "--nnodes, --node_rank and --master_addr belong to msrun; mpirun is started once, with --hostfile FILE"
      [ -z "$MASTER_PORT" ] || [ "$DEVICE" = cpu ] || die "--master_port: on $DEVICE Open MPI chooses its ports automatically"
      [ -z "$HOSTFILE" ] || check_hostfile "$count"
      NNODES=1
      ;;
    msrun) check_nodes "$count" ;;
    *) die "--launcher: got '$LAUNCHER', expected mpirun or msrun" ;;
  esac
}

check_nodes() {
  local count=$1
  [ -z "$HOSTFILE" ] || die "--hostfile belongs to mpirun; msrun is started on each machine," \
    "with --nnodes, --node_rank, --master_addr and --master_port"
  if [ -z "$NNODES" ]; then
    [ -z "$MASTER_ADDR" ] || die "--master_addr is for several machines: also give their number, --nnodes M"
    [ -z "$NODE_RANK" ] || die "--node_rank is for several machines: also give their number, --nnodes M"
  fi
  NNODES=${NNODES:-1}
  is_number "$NNODES" && [ "$NNODES" -ge 1 ] || die "--nnodes: got '$NNODES', expected a whole number of 1 or more"
  if [ -n "$NODE_RANK" ]; then
    is_number "$NODE_RANK" && [ "$NODE_RANK" -lt "$NNODES" ] ||
      die "--node_rank: got '$NODE_RANK', expected 0 to $((NNODES - 1)), for --nnodes $NNODES"
  fi
  [ "$NNODES" -gt 1 ] || return 0
  [ $((count % NNODES)) -eq 0 ] || die "N, the number of devices on all machines: got $count," \
    "expected a multiple of --nnodes $NNODES"
  [ -n "$MASTER_ADDR" ] || die "--nnodes $NNODES: also give the address of machine 0, --master_addr A"
  [ -n "$MASTER_PORT" ] || die "--nnodes $NNODES: also give a port that is free on machine 0, the same on all machines:" \
    "--master_port P"
  [ -n "$NODE_RANK" ] || $DRY_RUN || die "--nnodes $NNODES: also give this machine's number, --node_rank 0 to $((NNODES - 1))"
}

# The machines of the list, one per line, without comments: `name slots=4`.
hosts() {
  sed -e 's/#.*//' -e 's/^[[:space:]]*//' -e '/^$/d' "$HOSTFILE"
}

check_hostfile() {
  local count=$1 slots
  [ -f "$HOSTFILE" ] && [ -r "$HOSTFILE" ] || die "--hostfile: cannot read the file $HOSTFILE"
  [ -n "$(hosts)" ] || die "--hostfile: $HOSTFILE lists no machines; expected lines such as: node-a slots=8"
  slots=$(hosts | awk '{ n = ""; for (i = 2; i <= NF; i++) if ($i ~ /^slots=[0-9]+$/) n = substr($i, 7)
    if (n == "") open = 1; sum += n } END { if (!open) print sum + 0 }')
  [ -z "$slots" ] || [ "$slots" -ge "$count" ] ||
    die "--hostfile: $HOSTFILE has $slots slots, but $count ranks were requested; give $slots or fewer as the third argument"
}

# check_meeting_point NODE: checks that machine 0 has the address and a free port, and that the other machines do not
# have the address, because msrun would start a conflicting second scheduler there.
check_meeting_point() {
  local node=$1 answer
  if $DRY_RUN || [ -n "$HOSTFILE" ]; then return 0; fi
  answer=$("$VENV_PYTHON" -c '
import errno, socket, sys
try:
    family, kind, _, _, place = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(place)
    listener.listen()
    print("free", place[0])
except socket.gaierror:
    print("unknown")
except OSError as e:
    print("elsewhere" if e.errno == errno.EADDRNOTAVAIL else "taken")
' "${MASTER_ADDR:-127.0.0.1}" "$MASTER_PORT")
  if [ "$NNODES" -gt 1 ]; then
    case $node:$answer in
      *:unknown) die "--master_addr: the name $MASTER_ADDR cannot be resolved here; give the IP address" ;;
      0:free\ 127.* | 0:free\ ::1) die "--master_addr: on every machine $MASTER_ADDR is that machine itself; give the address of machine 0 in the network" ;;
      0:elsewhere) die "--master_addr: $MASTER_ADDR is not an address of this machine, but --node_rank 0 must have it" ;;
      0:*) ;;
      *:elsewhere) return 0 ;;
      *) die "--master_addr: $MASTER_ADDR is this machine, but it must be machine 0, and --node_rank is $node" ;;
    esac
  fi
  [ "$answer" != taken ] || die "port $MASTER_PORT is in use: choose another --master_port"
}

# mpirun_command N LOGS PORT ARGUMENTS...: sets `cmd` of launch_ranks and LAUNCHER_PATH.
mpirun_command() {
  local count=$1 logs=$2 port=$3 name host
  shift 3
  LAUNCHER_PATH=$(command -v mpirun || true)
  if [ -z "$LAUNCHER_PATH" ]; then
    $DRY_RUN || die "no mpirun on the PATH: apt-get install openmpi-bin, or use --launcher msrun, which needs no installation"
    LAUNCHER_PATH="not found"
  fi
  # No binding, because Open MPI would give each rank one core, but the loader's workers need several.
  cmd=(mpirun -np "$count" --bind-to none --output-filename "$logs")
  if [ -n "$HOSTFILE" ]; then
    cmd+=(--hostfile "$HOSTFILE")
    # Ranks on other machines only get the variables listed here.
    while read -r name; do cmd+=(-x "$name"); done < <(shared_variables)
  else
    cmd+=(--oversubscribe)
  fi
  # CPU ranks connect through MindSpore's scheduler, not through Open MPI; rank 0 starts it (src/device.py).
  if [ "$DEVICE" = cpu ]; then
    host=$(first_host)
    if [[ $host = 127.* ]] && [ -n "$HOSTFILE" ] && [ "$(hosts | awk '{ print $1 }' | sort -u | wc -l)" -gt 1 ]; then
      die "--hostfile: the name of the first machine resolves to $host here, which is each machine itself; write its address instead"
    fi
    cmd+=(-x "MS_SCHED_HOST=$host" -x "MS_SCHED_PORT=$port")
  fi
  [ "$(id -u)" -ne 0 ] || cmd+=(--allow-run-as-root) # otherwise Open MPI refuses to run as root
  cmd+=("$VENV_PYTHON" "$@")
}

shared_variables() {
  local set_by_gpu_env='CUDA_HOME|LD_LIBRARY_PATH|CUDA_CACHE_MAXSIZE'
  if $DRY_RUN && [ "$DEVICE" = gpu ]; then tr '|' '\n' <<<"$set_by_gpu_env"; fi
  compgen -e | grep -E "^($set_by_gpu_env|GLOG_v|(ASCEND|HCCL|NCCL|MS)_.*)\$" | grep -v '^MS_SCHED_' |
    if $DRY_RUN && [ "$DEVICE" = gpu ]; then grep -vE "^($set_by_gpu_env)\$"; else cat; fi || true
}

# The address of the machine of rank 0, as the other machines see it.
first_host() {
  local name address
  if [ -z "$HOSTFILE" ]; then
    echo 127.0.0.1
    return
  fi
  name=$(hosts | awk '{ sub(/.*@/, "", $1); print $1; exit }')
  address=$(getent ahostsv4 "$name" 2>/dev/null | awk '{ print $1; exit }') || true
  echo "${address:-$name}"
}

# msrun_command N LOGS PORT NODE ARGUMENTS...: sets `cmd` of launch_ranks.
msrun_command() {
  local count=$1 logs=$2 port=$3 node=$4
  shift 4
  # Through Python, because the first line of bin/msrun contains the original path of .venv, which may have moved.
  cmd=("$VENV_PYTHON" "$LAUNCHER_PATH" --worker_num="$count" --local_worker_num="$((count / NNODES))"
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="$port")
  [ "$NNODES" -eq 1 ] || cmd+=(--node_rank="$node")
  cmd+=(--log_dir="$logs" --join=True --tail_worker_log=0)
  # msrun would overwrite the variable with its default, 600 s.
  [ -z "${MS_TOPO_TIMEOUT:-}" ] || cmd+=(--cluster_time_out="$MS_TOPO_TIMEOUT")
  [ "$DEVICE" != ascend ] || cmd+=(--bind_core=True) # each rank on the cores near its device
  cmd+=("$@")
}

# show_all_nodes_and_end N LOGS PORT ARGUMENTS...: for --dry_run without --node_rank.
show_all_nodes_and_end() {
  local count=$1 logs=$2 port=$3 node
  shift 3
  echo "preflight: machines: $NNODES; ranks: $count, $((count / NNODES)) on each; launcher: msrun; port: $port; logs: $logs/node_*"
  describe_training "$count" "$@"
  for ((node = 0; node < NNODES; node++)); do
    msrun_command "$count" "$logs/node_$node" "$port" "$node" "$@"
    if [ "$node" -eq 0 ]; then echo "# machine 0, $MASTER_ADDR:"; else echo "# machine $node:"; fi
    echo "$SHOWN_SETTINGS$(quoted "${cmd[@]}")"
  done
  exit 0
}

# A free port below the kernel's ephemeral ports. A random one, because the scheduler of a broken run may hold its port
# for a while, and a second cluster on it fails with "Repeated registration node".
free_port() {
  local port
  while true; do
    port=$((20000 + RANDOM % 12000))
    (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

# interrupt_ranks LAUNCHER_PID SIGNAL STATUS: the first call asks the ranks to finish their step and save; they agree on
# the step, also across machines. The second call interrupts the launcher, which kills the ranks at once. It gets
# SIGINT, because after SIGTERM msrun would leave its ranks running and holding the devices.
interrupt_ranks() {
  local child=$1 again=$INTERRUPTED pid asked=false
  INTERRUPTED=$3
  if [ "$again" -eq 0 ]; then
    for pid in $(descendants "$child"); do
      grep -aF "$ROOT/train.py" "/proc/$pid/cmdline" >/dev/null 2>&1 || continue
      if grep -azE '^(MS_ROLE=MS_WORKER|OMPI_COMM_WORLD_RANK=)' "/proc/$pid/environ" >/dev/null 2>&1; then
        kill -"$2" "$pid" 2>/dev/null && asked=true
      fi
    done
  fi
  $asked || kill -INT -- "-$child" 2>/dev/null || true
}

# All descendants of a process, from /proc, because pgrep is not always installed.
descendants() {
  local file line pid parent
  for file in /proc/[0-9]*/stat; do
    read -r line 2>/dev/null <"$file" || continue
    pid=${line%% *} line=${line##*) } # the name in between may contain any character
    parent=${line#* } parent=${parent%% *}
    if [ "$parent" = "$1" ]; then
      echo "$pid"
      descendants "$pid"
    fi
  done
}

# Copies lines except those that MindSpore's cluster prints at the end of each rank at any log level. If the output
# loses its reader, the ranks continue.
without_farewells() {
  local line
  trap '' INT TERM HUP PIPE # because the ranks still print after Ctrl-C
  while IFS= read -r line || [ -n "$line" ]; do
    [[ $line = "[INFO] DISTRIBUTED("*"] Event base dispatch success!" ]] || printf '%s\n' "$line" 2>/dev/null || exec >/dev/null
  done
}

# run_in_front FILE COMMAND...: runs a launcher and waits for it; sets STATUS to its exit status and copies its error
# messages to FILE. The launcher gets its own process group, through which a signal to this script reaches it and all
# that it started.
run_in_front() {
  local child messages=$1 out err pid filters
  shift
  exec {out}> >(without_farewells)
  filters=$!
  exec {err}> >(trap '' INT TERM HUP && tee "$messages" | without_farewells >&2)
  filters+=" $!"
  set -m
  # A background process must not read from the terminal.
  "$@" </dev/null >&"$out" 2>&"$err" {out}>&- {err}>&- &
  child=$!
  set +m
  exec {out}>&- {err}>&-
  trap 'interrupt_ranks "$child" TERM 130' INT
  trap 'interrupt_ranks "$child" TERM 143' TERM
  trap 'interrupt_ranks "$child" HUP 129' HUP # no effect under nohup, because bash leaves ignored signals ignored
  STATUS=0 INTERRUPTED=0
  wait "$child" || STATUS=$?
  while kill -0 "$child" 2>/dev/null; do # a signal to this script ends `wait` before the launcher ends
    STATUS=0
    wait "$child" || STATUS=$?
  done
  # Wait for the output of the ranks, but only five seconds: a process that they left behind may keep the pipe open.
  for pid in $filters; do
    for _ in {1..100}; do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.05
    done
  done
  trap - INT TERM HUP
  [ "$INTERRUPTED" -eq 0 ] || exit "$INTERRUPTED"
}

# Prints the end of the log of the rank that failed first. The other ranks are killed or fail soon after, so it is the
# log with the oldest modification time among those with an error.
show_failure() {
  local logs=$1 file first=""
  for file in "$logs"/worker_*.log "$logs"/*/rank.*/std{err,out}; do
    if [ "$file" -nt "$logs/command.txt" ] && grep -qE '^error:|^Traceback|[a-z]Error:|\[(ERROR|CRITICAL)\]' "$file"; then
      if [ -z "$first" ] || [ "$file" -ot "$first" ]; then first=$file; fi
    fi
  done
  if [ -n "$first" ]; then
    printf '\nLast lines of the first rank that failed, from %s:\n' "$first"
    tail -n 20 "$first" | sed 's/^/  | /'
  else
    printf '\nNo rank wrote an error message. A rank that is killed, for example when memory runs out, cannot.\n'
  fi
  printf 'error: %s ended with status %s%s; the logs of all ranks are in %s\n' \
    "$LAUNCHER" "$STATUS" "$(dead_rank "$logs")" "$logs"
} >&2

# ", rank 1 with -9", where a signal has a negative number, if the launcher reports which rank ended first: mpirun by
# its number, msrun by its process, which the log of the rank identifies.
dead_rank() {
  local logs=$1 text pid rank
  text=$(cat "$logs/launcher.txt" 2>/dev/null) || return 0
  if [[ $text =~ process\ rank\ ([0-9]+)\ with\ PID.*\ exited\ on\ signal\ ([0-9]+) ]]; then
    echo ", rank ${BASH_REMATCH[1]} with -${BASH_REMATCH[2]}"
  elif [[ $text =~ Process\ name:\ \[\[[0-9,]+\],([0-9]+)\][[:space:]]+Exit\ code:[[:space:]]+([0-9]+) ]]; then
    echo ", rank ${BASH_REMATCH[1]} with ${BASH_REMATCH[2]}"
  elif [[ $text =~ Worker\ process\ ([0-9]+)\ exit\ with\ exception.\ Error\ code:\ (-?[0-9]+) ]]; then
    pid=${BASH_REMATCH[1]} text=${BASH_REMATCH[2]}
    rank=$(sed -n "s/^rank \([0-9]*\) is process $pid\$/\1/p" "$logs"/worker_*.log 2>/dev/null)
    echo ", ${rank:+rank $rank, }process $pid, with $text"
  fi
}
