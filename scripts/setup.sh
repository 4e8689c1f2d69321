#!/usr/bin/env bash
# Creates or completes .venv at the root of the repository: bash scripts/setup.sh [options], --help lists them.
#
# .venv/setup_stamp records the Python version and the checksum of each installed requirements file. New and changed
# files are installed; packages from earlier calls with other options stay. While this script works, the stamp is
# replaced by .venv/setup_unfinished; a .venv with that file and no running setup.sh is incomplete and is created again.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Do not use the Python of an activated .venv, which is removed when .venv is created again.
PATH=":$PATH:"
PATH=${PATH//":$VENV/bin:"/:}
PATH=${PATH#:} PATH=${PATH%:}

STAMP="$VENV/setup_stamp"
LOG="$VENV/setup.log"
PYTHONS_WANTED="3.10, 3.11 or 3.12" # the wheels that MindSpore 2.10 has
# The versions that mindspore/run_check of 2.10 accepts; its Ascend operators were compiled with the last one.
CANN_VERSIONS="8.2 8.3 8.5 9.0 9.1"

usage() {
  cat <<END
usage: bash scripts/setup.sh [--dev] [--gpu] [--ascend] [--torch] [--app] [--video] [--system]
Creates .venv for training, evaluation and export on CPU. Options add packages to it:
  --dev     tests, formatter and type checker, with PyTorch, Gradio and PyAV for the tests
  --gpu     CUDA 11 libraries from wheels (2.8 GB unpacked); only needs an NVIDIA driver
  --ascend  Python packages of the CANN toolkit, which must be installed
  --torch   PyTorch, to convert .pkl weights
  --app     Gradio: the web page, app.py
  --video   PyAV: videos, in deblur.py and app.py
  --system  Debian packages: a C++ compiler (native convolutions), a C compiler with binutils, mpirun and a browser
            (slow tests), by apt-get
PYTHON=/path/to/python selects the Python, which must be $PYTHONS_WANTED.
END
}

say() { echo "setup: $*"; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

main() {
  local option file changed=() with_system=false
  WANTED=(requirements.txt)
  for option in "$@"; do
    case $option in
      -h | --help) usage && exit 0 ;;
      --dev) want requirements-torch.txt requirements-app.txt requirements-video.txt requirements-dev.txt ;;
      --gpu | --ascend | --torch | --app | --video) want "requirements-${option#--}.txt" ;;
      --system) with_system=true ;;
      *) die "setup.sh: unknown option $option (--help lists the options)" ;;
    esac
  done

  # Check before the long downloads.
  case " $* " in *" --gpu "*) check_nvidia_driver ;; esac
  case " $* " in *" --ascend "*) check_ascend ;; esac
  if $with_system; then install_system_packages; fi

  take_lock
  # Also update what earlier calls installed or began to install, and install it again in a new .venv.
  while read -r file; do
    if [ -f "$ROOT/$file" ]; then want "$file"; fi
  done < <(cat "$STAMP" "$UNFINISHED" 2>/dev/null | awk 'NF == 3 { print $3 }')
  make_venv_if_needed
  for file in "${WANTED[@]}"; do
    stamp_has "$file" || changed+=("$file")
  done
  if [ ${#changed[@]} -eq 0 ]; then
    say "everything is up to date in $VENV"
    return
  fi
  install "${changed[@]}"
  say "done: $VENV ($("$VENV_PYTHON" -V))"
}

# Adds requirements files to WANTED, each once.
want() {
  local file
  for file in "$@"; do
    if [[ " ${WANTED[*]} " != *" $file "* ]]; then WANTED+=("$file"); fi
  done
}

# ---- checks before anything is installed -----------------------------------------------------------------------------

check_nvidia_driver() {
  has_nvidia_driver || die "--gpu: no NVIDIA driver found (no /proc/driver/nvidia/version, and nvidia-smi lists no GPU);" \
    "install the driver of your distribution first, or omit --gpu for CPU"
}

check_ascend() {
  local home="" device="" version="" need
  need="MindSpore 2.10 needs CANN 9.1 (it accepts ${CANN_VERSIONS// /, }):"
  need+=" the packages Ascend-cann-toolkit and Ascend-cann-<chip>-ops"
  home=$(cann_home) || true
  if [ "$(ascend_count)" -gt 0 ] || command -v npu-smi >/dev/null; then device="$(ascend_count) device(s)"; fi
  [ -n "$home$device" ] || die "--ascend: neither a CANN toolkit (ASCEND_HOME_PATH, /usr/local/Ascend)" \
    "nor a device (npu-smi, /dev/davinci*) found; $need"
  [ -n "$home" ] || die "--ascend: $device found, but no CANN toolkit (ASCEND_HOME_PATH, /usr/local/Ascend); $need"
  [ -n "$device" ] || die "--ascend: a CANN toolkit in $home, but no device (no npu-smi, no /dev/davinci*):" \
    "install the driver and firmware"
  version=$(sed -n 's/^[Vv]ersion=//p' "$home/compiler/version.info" 2>/dev/null | head -n 1) || true
  say "Ascend: $device, CANN ${version:-of unknown version} in $home"
  if [ -n "$version" ] && [[ " $CANN_VERSIONS " != *" $(cut -d. -f1,2 <<<"$version") "* ]]; then
    say "warning: CANN $version is not one that MindSpore 2.10 was tested with (${CANN_VERSIONS// /, })"
  fi
}

# Native convolutions need a compiler; the slow tests need mpirun, a compiler and a browser.
install_system_packages() {
  local packages=() as_root=() log
  command -v mpirun >/dev/null || packages+=(openmpi-bin)
  # Ubuntu has no chromium package outside snap, but often Chrome.
  command -v chromium >/dev/null || command -v google-chrome >/dev/null || packages+=(chromium)
  command -v chromedriver >/dev/null || packages+=(chromium-driver)
  command -v g++ >/dev/null || packages+=(g++)
  command -v gcc >/dev/null || packages+=(gcc)
  command -v nm >/dev/null || packages+=(binutils)
  if [ ${#packages[@]} -eq 0 ]; then
    say "the system packages are installed: mpirun, a browser and its driver, C and C++ compilers, binutils"
    return
  fi
  command -v apt-get >/dev/null || die "--system: this system has no apt-get;" \
    "install the equivalents of: ${packages[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "--system: you are not root and there is no sudo;" \
      "ask an administrator to run: apt-get install ${packages[*]}"
    as_root=(sudo)
  fi
  say "installing ${packages[*]} with apt-get"
  log=$(mktemp)
  if ! { "${as_root[@]}" apt-get update -q && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    fail "--system: apt-get failed, see its last lines above and the full log in $log"
  fi
  rm -f "$log"
}

# A second call waits, because both would write into .venv. The lock ends with the process that holds it.
take_lock() {
  command -v flock >/dev/null || return 0 # macOS has none, so the user must avoid two calls at a time
  exec 9<"$ROOT/scripts/setup.sh"
  if ! flock -n 9; then
    say "waiting for another setup.sh in this folder"
    flock 9
  fi
}

# ---- Python ----------------------------------------------------------------------------------------------------------

# Prints "3.11" for a CPython that starts, otherwise its output, if any. -I ignores the user's sitecustomize.
python_version() {
  local answer
  answer=$("$1" -I -c 'import platform as p; print(p.python_implementation(), p.python_version())' 2>/dev/null </dev/null) || return 0
  if [[ $answer =~ ([0-9]+\.[0-9]+) && $answer != *PyPy* ]]; then answer=${BASH_REMATCH[1]}; fi
  echo "$answer" | head -n 1
}

is_fit() {
  [[ $1 =~ ^3\.1[012]$ ]]
}

# Sets CHOSEN to the first suitable Python. If PYTHON is set, only that one is considered.
choose_python() {
  local name version found="" candidates=(python3.11 python3.12 python3.10 python3 python)
  if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
  for name in "${candidates[@]}"; do
    version=$(python_version "$name")
    if is_fit "$version"; then
      CHOSEN=$name
      return
    fi
    if [ -n "$version" ]; then found+="${found:+, }$name is $version"; fi
  done
  if [ -n "${PYTHON:-}" ]; then
    die "PYTHON: ${found:-$PYTHON does not start}, but MindSpore 2.10 needs Python $PYTHONS_WANTED"
  fi
  die "found no suitable Python (${found:-none on the PATH}), MindSpore 2.10 needs Python $PYTHONS_WANTED;" \
    "install one, or select it with PYTHON=/path/to/python3.11 bash scripts/setup.sh"
}

# Prints why the present .venv cannot be kept, if so.
fault_of_venv() {
  local version asked=""
  if [ -e "$UNFINISHED" ]; then
    echo "an earlier setup was interrupted"
    return
  fi
  version=$(python_version "$VENV_PYTHON")
  if [ -n "${PYTHON:-}" ]; then asked=$(python_version "$CHOSEN"); fi
  if ! is_fit "$version"; then
    echo "its Python is ${version:-broken}"
  elif [ ! -d "$VENV/lib/python$version/site-packages" ] || { [ -e "$STAMP" ] && ! grep -qx "python $version" "$STAMP"; }; then
    echo "it was created with another Python than its present $version"
  elif [ -n "$asked" ] && [ "$asked" != "$version" ]; then
    echo "it has Python $version, PYTHON is $asked"
  elif [ -e "$STAMP" ] && [ ! -d "$VENV/lib/python$version/site-packages/mindspore" ]; then
    echo "MindSpore is missing from it"
  elif [ ! -d "$VENV/lib/python$version/site-packages/pip" ]; then
    echo "it has no pip"
  fi
}

make_venv_if_needed() {
  local fault file
  # Also checked if .venv is complete, so that an unsuitable PYTHON is reported.
  if [ -n "${PYTHON:-}" ]; then choose_python; fi
  if [ -e "$VENV" ] || [ -L "$VENV" ]; then
    fault=$(fault_of_venv)
    [ -n "$fault" ] || return 0
    say "creating .venv again: $fault"
  fi
  choose_python
  "$CHOSEN" -c 'import venv, ensurepip' 2>/dev/null || die "$CHOSEN cannot create a virtual environment (no ensurepip):" \
    "apt-get install python3-venv (or python$(python_version "$CHOSEN")-venv), then run this again"
  rm -rf "$VENV"
  mkdir "$VENV" 2>/dev/null || die "cannot write into $ROOT"
  for file in "${WANTED[@]}"; do checksum "$file"; done >"$UNFINISHED"
  say "creating .venv with $CHOSEN ($(python_version "$CHOSEN"))"
  "$CHOSEN" -m venv "$VENV" >"$LOG" 2>&1 || fail "$CHOSEN -m venv failed: $(tail -n 1 "$LOG") (full log: $LOG)"
}

# ---- packages --------------------------------------------------------------------------------------------------------

checksum() {
  (cd "$ROOT" && cksum "$1") # prints `sum bytes name`; part of POSIX
}

stamp_has() {
  [ -e "$STAMP" ] && grep -qxF "$(checksum "$1")" "$STAMP"
}

# Checks that the packages import and do not conflict.
installation_works() {
  "$VENV_PYTHON" -m pip --disable-pip-version-check check >>"$LOG" 2>&1 &&
    "$VENV_PYTHON" -c 'import mindspore, numpy, PIL, skimage, yaml, tqdm, tensorboardX, matplotlib' >>"$LOG" 2>&1
}

# install FILE...: installs the requirements files and records their checksums in the stamp.
install() {
  local file old_stamp sum size
  old_stamp=$(cat "$STAMP" 2>/dev/null) || true
  {
    echo "$old_stamp"
    for file in "$@"; do checksum "$file"; done
  } >"$UNFINISHED"
  rm -f "$STAMP"
  for file in "$@"; do
    case $file in
      requirements.txt) say "installing $file (MindSpore is 2.4 GB unpacked: one to two minutes with a fast connection)" ;;
      *) say "installing $file" ;;
    esac
    # -c keeps the versions that requirements.txt pins, above all numpy below 2.
    if ! "$VENV_PYTHON" -m pip --disable-pip-version-check --no-input install --quiet \
      -r "$ROOT/$file" -c "$ROOT/requirements.txt" >>"$LOG" 2>&1; then
      give_up "$old_stamp" "pip could not install $file: $(grep -E '^ERROR' "$LOG" | tail -n 1)"
    fi
    if [ "$file" = requirements-gpu.txt ]; then write_nvcc; fi
  done
  say "checking the installation"
  installation_works || give_up "$old_stamp" "the installation does not work: $(tail -n 1 "$LOG")"

  {
    echo "python $(python_version "$VENV_PYTHON")"
    for file in "$@"; do checksum "$file"; done
    # Also the files of earlier calls that were not installed now.
    while read -r sum size file; do
      if [ -n "$file" ] && [[ " $* " != *" $file "* ]]; then echo "$sum $size $file"; fi
    done <<<"$old_stamp"
  } >"$STAMP.new"
  mv "$STAMP.new" "$STAMP"
  rm -f "$UNFINISHED"
}

# give_up OLD_STAMP MESSAGE: pip failed, usually before it changed anything. If the old installation still works, its
# stamp is restored; otherwise .venv stays marked as incomplete, and the next call creates it again.
give_up() {
  if [ -n "$1" ] && installation_works; then
    printf '%s\n' "$1" >"$STAMP"
    rm -f "$UNFINISHED"
  fi
  fail "$2 (full log: $LOG)"
}

# MindSpore runs $CUDA_HOME/bin/nvcc only to get the CUDA version for choosing its plug-in. The wheels have no compiler,
# so this script replaces it: 11.6 is the newest version with a plug-in, which also works with later CUDA 11 libraries.
write_nvcc() {
  mkdir -p "$VENV/cuda/bin"
  printf '#!/bin/sh\necho "Cuda compilation tools, release 11.6, V11.6.124"\n' >"$VENV/cuda/bin/nvcc"
  chmod +x "$VENV/cuda/bin/nvcc"
}

# On the last line, so that bash reads the whole file before a `git pull` can change it.
main "$@"
