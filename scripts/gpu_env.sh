# Lets MindSpore find the CUDA 11 libraries that `setup.sh --gpu` installed in .venv. Source it in bash before Python
# starts, from any folder; sourcing it again has no effect:
#     source scripts/gpu_env.sh
# shellcheck shell=bash

_mimo_gpu_env() {
  local venv site folders libs
  venv="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)/.venv"
  site=$(compgen -G "$venv/lib/python3.*/site-packages" | head -n 1 || true)
  # The wheels come first, because their versions match, unlike those of another CUDA on the machine.
  folders=$(compgen -G "$site/nvidia/*/lib" | sort || true)
  if [ ! -e "$site/nvidia/cudnn/lib/libcudnn.so.8" ] || [ ! -x "$venv/cuda/bin/nvcc" ]; then
    echo "error: no CUDA 11 libraries in $venv; run 'bash scripts/setup.sh --gpu' once" >&2
    return 2
  fi
  libs="${folders//$'\n'/:}:$site/mindspore/lib:$site/mindspore/lib/plugin/gpu"
  case ":${LD_LIBRARY_PATH:-}:" in
    *":$libs:"*) ;;
    *) export LD_LIBRARY_PATH="$libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" ;;
  esac
  # MindSpore runs nvcc only to get its version, by which it chooses its CUDA plug-in.
  export CUDA_HOME="$venv/cuda"
  # For GPUs newer than the plug-in the first start compiles its 819 MB of kernels. 4 GiB is the largest cache that CUDA
  # allows; with the default size every start might compile them again.
  export CUDA_CACHE_MAXSIZE="${CUDA_CACHE_MAXSIZE:-4294967296}"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  echo "error: this file sets variables of your shell: run 'source ${BASH_SOURCE[0]}'" >&2
  exit 2
fi
if _mimo_gpu_env; then
  unset -f _mimo_gpu_env
else
  unset -f _mimo_gpu_env
  return 2
fi
