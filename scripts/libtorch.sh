#!/usr/bin/env bash
# Finds libtorch (CPU flavour) and prints the path of its `torch` folder, the one that holds include/ and lib/, as the
# only line on stdout. Looks, in order, at
#   1. $LIBTORCH: an unpacked libtorch zip, the torch folder of a wheel, or the prefix of a system package,
#   2. a Python torch of exactly the pinned build, when its libraries are complete,
#   3. the cache, $XDG_CACHE_HOME/l2ul or ~/.cache/l2ul,
#   4. the pinned wheels, fetched by pip, checked by sha256 and unpacked into the cache.
# What is pinned stands in third_party/libtorch.lock.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
. "$here/common.sh"

lockfile=$here/../third_party/libtorch.lock
oldest=2.6 # libtorch before this lacks what the bridge uses; see torch/csrc

pinned() { awk -v key="$1" '$1 == key { print $2; exit }' "$lockfile"; }
version=$(pinned version)
build=$(pinned build)

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

# complaint_of LIB says what keeps libtorch_cpu.so in the folder LIB from being loaded; nothing when nothing does.
complaint_of() {
  local out
  out=$(ldd "$1/libtorch_cpu.so" 2>/dev/null) || {
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
  [ -z "$complaint" ] || die "$lib/libtorch_cpu.so $complaint"
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

# fetch fills the folder $1 with the wheels of the lock file. A wheel that an earlier, interrupted run left there whole
# is not fetched again.
fetch() {
  local wheels=$1 kind requirement file sum
  local platforms=(--platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_25_x86_64
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64)
  mkdir -p "$wheels"
  while read -r kind requirement file sum; do
    [ "$kind" = wheel ] || continue
    if ! printf '%s  %s\n' "$sum" "$wheels/$file" | sha256sum --check --status 2>/dev/null; then
      rm -f "${wheels:?}/$file"
      say "fetching $requirement"
      # pip keeps what is half fetched in TMPDIR; there it is removed with the rest when we are interrupted.
      TMPDIR=$work pip download --no-cache-dir --no-deps --only-binary=:all: --implementation cp \
        --python-version "$(pinned python)" "${platforms[@]}" --dest "$work/wheel" "$requirement" >&2 </dev/null ||
        die "pip could not fetch $requirement. Is the package index reachable? Run it again: what is here already is kept. Or set LIBTORCH to an unpacked libtorch $version"
      [ -f "$work/wheel/$file" ] || die "pip fetched $(ls "$work/wheel") instead of $file"
      printf '%s  %s\n' "$sum" "$work/wheel/$file" | sha256sum --check --status ||
        die "$file has sha256 $(sha256sum "$work/wheel/$file" | cut -d ' ' -f 1) and not $sum as third_party/libtorch.lock says; not used"
      mv "$work/wheel/$file" "$wheels/$file"
    fi
  done <"$lockfile"
}

# unpack takes from the wheels in $1 what compiling and running on the CPU needs, into $2. The places of torch/ and
# nvidia/ beside each other are kept: the libraries find one another by paths relative to themselves.
unpack() {
  local py
  py=$(python)
  "$py" - "$1" "$2" <<'PY'
import fnmatch, glob, sys, zipfile

keep = ["torch/include/*", "torch/version.py", "torch/lib/libc10.so", "torch/lib/libtorch_cpu.so", "torch/lib/libgomp*",
        "nvidia/*/lib/libcudart.so*", "nvidia/*/lib/libcupti.so*", "*.dist-info/licenses/*"]
for wheel in sorted(glob.glob(sys.argv[1] + "/*.whl")):
    with zipfile.ZipFile(wheel) as z:
        z.extractall(sys.argv[2], [n for n in z.namelist() if any(fnmatch.fnmatch(n, k) for k in keep)])
PY
}

from_cache() {
  local cache key home free complaint
  cache=$(cache_dir) || exit 1
  # The key names the wheels, so that another pin never meets this one's files.
  key=$(grep '^wheel ' "$lockfile" | sha256sum | cut -c 1-12)
  home=$cache/libtorch-$version-$key
  if [ ! -d "$home/torch" ]; then
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
      die "the pinned libtorch is for Linux on x86_64, this is $(uname -s) on $(uname -m); set LIBTORCH to a libtorch $version for it"
    lock libtorch
    if [ ! -d "$home/torch" ]; then
      free=$(df -Pk "$cache" | awk 'NR == 2 { print int($4 / 1024) }')
      [ "$free" -ge 2000 ] || die "$cache has $free MiB free; fetching and unpacking libtorch takes 2,000. Free some, or set XDG_CACHE_HOME"
      rm -rf "$cache"/libtorch.work.* # left by a run that was killed; the lock says that none is at work
      work=$(mktemp -d "$cache/libtorch.work.XXXXXX")
      trap 'rm -rf "$work"' EXIT
      trap 'exit 130' INT
      trap 'exit 143' TERM HUP
      say "libtorch $version is not here yet: about 535 MB to fetch, once, into $cache"
      fetch "$cache/wheels-$key"
      say "unpacking"
      mkdir "$work/out"
      unpack "$cache/wheels-$key" "$work/out"
      complaint=$(complaint_of "$work/out/torch/lib")
      [ -z "$complaint" ] || die "libtorch_cpu.so of the wheels $complaint"
      mv -T "$work/out" "$home"
      rm -rf "$cache/wheels-$key"
    fi
  fi
  say "libtorch $build from $home"
  printf '%s\n' "$home/torch"
}

if [ -n "${LIBTORCH:-}" ]; then
  from_environment "$LIBTORCH"
else
  from_python || from_cache
fi
