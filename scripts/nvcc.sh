#!/usr/bin/env bash
# Prints the path of a CUDA toolkit, the folder that holds bin/nvcc and include/cuda_runtime.h: $CUDA_HOME when set, else
# the compiler of third_party/cuda.lock from the cache, fetched when it is not there. It needs no GPU and no driver.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
. "$here/common.sh"
# shellcheck source=scripts/wheels.sh
. "$here/wheels.sh"
lockfile=$here/../third_party/cuda.lock

# major_of DIR prints the major version of the toolkit in DIR.
major_of() { "$1/bin/nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\..*/\1/p'; }

sound() {
  local toolkit
  toolkit=$(echo "$1"/nvidia/*)
  [ -n "$(major_of "$toolkit")" ] || die "nvcc of the wheels does not run here: $("$toolkit/bin/nvcc" --version 2>&1)"
}

wanted=$(pinned version "$lockfile")
if [ -n "${CUDA_HOME:-}" ]; then
  [ -x "$CUDA_HOME/bin/nvcc" ] || die "CUDA_HOME=$CUDA_HOME has no bin/nvcc; point it at a CUDA toolkit, or unset it and the compiler is fetched"
  found=$(major_of "$CUDA_HOME")
  # Minor versions of the CUDA runtime go together, major ones do not.
  [ "$found" = "${wanted%%.*}" ] || die "CUDA_HOME=$CUDA_HOME is CUDA ${found:-of no known version}; libtorch is built with CUDA ${wanted%%.*}"
  say "nvcc of CUDA $found from CUDA_HOME=$CUDA_HOME"
  printf '%s\n' "$CUDA_HOME"
  exit
fi
export fetch_hint="Or set CUDA_HOME to a toolkit of CUDA ${wanted%%.*}"
unpacked nvcc "$lockfile" wheel 105 1000 sound 'nvidia/*' '*.dist-info/licenses/*'
say "nvcc $wanted from $home"
echo "$home"/nvidia/*
