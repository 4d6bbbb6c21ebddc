#!/usr/bin/env bash
# libtorch.sh [--cuda] finds libtorch and prints the path of its `torch` folder, the one that holds include/ and lib/, as
# the only line on stdout. Of the CPU's libraries all must be there; with --cuda, those of CUDA too. Looks, in order, at
#   1. $LIBTORCH: an unpacked libtorch zip, the torch folder of a wheel, or the prefix of a system package,
#   2. a Python torch of exactly the pinned build, when its libraries are complete,
#   3. the cache, $XDG_CACHE_HOME/l2ul or ~/.cache/l2ul,
#   4. the pinned wheels, fetched by pip, checked by sha256 and unpacked into the cache.
# What is pinned stands in third_party/libtorch.lock.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
. "$here/common.sh"
# shellcheck source=scripts/wheels.sh
. "$here/wheels.sh"

flavour=cpu main=libtorch_cpu.so
case ${1:-} in
  '') ;;
  --cuda) flavour=cuda main=libtorch_cuda.so ;;
  *) die "usage: libtorch.sh [--cuda]" ;;
esac
lockfile=$here/../third_party/libtorch.lock
oldest=2.6 # libtorch before this lacks what the bridge uses; see torch/csrc

version=$(pinned version "$lockfile")
build=$(pinned build "$lockfile")

# version_of DIR prints the version of the libtorch in DIR, as exactly as its layout tells: 2.11.0+cu130, or 2.11.0.
version_of() {
  local h
  if [ -f "$1/version.py" ]; then
    sed -n "s/^__version__ = '\(.*\)'.*/\1/p" "$1/version.py"
  elif [ -f "$1/build-version" ]; then
    head -n 1 "$1/build-version"
  else
    for h in torch/headeronly/version.h torch/csrc/api/include/torch/version.h; do
      [ -f "$1/include/$h" ] || continue
      awk '$2 ~ /^TORCH_VERSION_(MAJOR|MINOR|PATCH)$/ && NF == 3 { printf "%s%s", sep, $3; sep = "." } END { print "" }' \
        "$1/include/$h"
      return
    done
  fi
}

# lib_of DIR prints the folder of DIR that holds libtorch_cpu.so; it fails when there is none.
lib_of() {
  local d
  for d in "$1/lib" "$1/lib/$(uname -m)-linux-gnu" "$1/lib64"; do
    [ -e "$d/libtorch_cpu.so" ] && printf '%s\n' "$d" && return
  done
  return 1
}

# complaint_of LIB says what keeps the flavour's main library in the folder LIB from being loaded; nothing when nothing does.
complaint_of() {
  local out
  [ -e "$1/$main" ] || {
    echo "is not there"
    return
  }
  out=$(ldd "$1/$main" 2>/dev/null) || {
    echo "is not a library that this machine can load"
    return
  }
  awk '/not found/ && !seen[$1]++ { need = need " " $1 } END { if (need) print "needs" need ", not found by the loader" }' <<<"$out"
}

from_environment() {
  local dir=$1 lib found complaint
  [ -d "$dir" ] || die "LIBTORCH=$dir is not a folder"
  dir=$(cd "$dir" && pwd)
  [ -f "$dir/include/ATen/ATen.h" ] || [ ! -f "$dir/torch/include/ATen/ATen.h" ] || dir=$dir/torch
  [ -f "$dir/include/ATen/ATen.h" ] || die "LIBTORCH=$dir has no include/ATen/ATen.h: point it at the folder with include/ and lib/"
  lib=$(lib_of "$dir") || die "LIBTORCH=$dir has no lib/libtorch_cpu.so: point it at the folder with include/ and lib/"
  found=$(version_of "$dir")
  [ -n "$found" ] || die "LIBTORCH=$dir does not tell its version (no version.py, build-version or version.h)"
  [ "$(printf '%s\n' "$oldest" "${found%%[+-]*}" | sort -V | head -n 1)" = "$oldest" ] ||
    die "LIBTORCH=$dir is libtorch $found; $oldest or newer is needed ($version is what we test)"
  complaint=$(complaint_of "$lib")
  [ -z "$complaint" ] || die "$lib/$main $complaint"
  say "libtorch $found from LIBTORCH=$dir"
  [ "${found%%+*}" = "$version" ] || say "note: $version is the tested version; results may differ in their last bits"
  printf '%s\n' "$dir"
}

# from_python prints the torch folder of the host's Python when it is exactly the pinned build. It reads version.py and
# does not import torch, which takes seconds.
from_python() {
  local py dir lib
  py=${PYTHON:-python3}
  command -v "$py" >/dev/null || return 1
  dir=$("$py" -c 'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s else "")' \
    2>/dev/null) || return 1
  [ -n "$dir" ] && [ "$(version_of "$dir")" = "$build" ] && [ -f "$dir/include/ATen/ATen.h" ] || return 1
  lib=$(lib_of "$dir") && [ -z "$(complaint_of "$lib")" ] || return 1
  say "libtorch $build from $py"
  printf '%s\n' "$dir"
}

sound() {
  local complaint
  complaint=$(complaint_of "$1/torch/lib")
  [ -z "$complaint" ] || die "$main of the wheels $complaint"
}

# from_cache takes of the wheels what compiling and running needs. The places of torch/ and nvidia/ beside each other are
# kept: the libraries find one another by paths relative to themselves.
from_cache() {
  if [ "$flavour" = cpu ]; then
    unpacked libtorch "$lockfile" wheel 535 2000 sound 'torch/include/*' torch/version.py torch/lib/libc10.so \
      torch/lib/libtorch_cpu.so 'torch/lib/libgomp*' 'nvidia/*/lib/libcudart.so*' 'nvidia/*/lib/libcupti.so*' '*.dist-info/licenses/*'
  else
    unpacked libtorch-cuda "$lockfile" 'wheel cuda' 2600 9000 sound 'torch/include/*' torch/version.py 'torch/lib/*.so*' \
      'nvidia/*/lib/*' '*.dist-info/licenses/*'
  fi
  say "libtorch $build from $home"
  printf '%s\n' "$home/torch"
}

export fetch_hint="Or set LIBTORCH to an unpacked libtorch $version"
if [ -n "${LIBTORCH:-}" ]; then
  from_environment "$LIBTORCH"
else
  from_python || from_cache
fi
