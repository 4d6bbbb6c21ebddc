#!/usr/bin/env bash
# link-libtorch.sh TORCH LIB FLAGS makes the libtorch in TORCH (a path that libtorch.sh printed) usable from here:
#   LIB    gets its run-time libraries as hard links, or copies across file systems: LIB/torch/lib/*.so beside
#          LIB/nvidia/*/lib, as in a wheel, because the libraries find each other by paths relative to themselves.
#          A system package is left where it is: the loader finds it.
#   FLAGS  gets two files for the compiler's @FILE argument: libtorch.cppflags and libtorch.ldflags.
set -euo pipefail
torch=$1 lib=$2 flags=$3
[ -d "$torch/lib" ] || {
  echo "link-libtorch.sh: $torch has no lib folder" >&2
  exit 1
}

# needed FILE prints the paths of the libraries FILE loads, itself first, those of libtorch's own tree only.
needed() {
  printf '%s\n' "$1"
  ldd "$1" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }'
}

mkdir -p "$flags"
if [ -e "$torch/lib/libtorch_cpu.so" ]; then
  rm -rf "${lib:?}"
  root=$(cd "$torch/.." && pwd -P)
  torch=$(cd "$torch" && pwd -P)
  while read -r file; do
    dir=$(cd "$(dirname "$file")" && pwd -P)
    case $dir/ in
      "$torch"/*) to=$lib/torch${dir#"$torch"} ;;
      "$root"/nvidia/*) to=$lib${dir#"$root"} ;;
      *) continue ;;
    esac
    mkdir -p "$to"
    ln --logical "$file" "$to/" 2>/dev/null || cp --dereference --reflink=auto "$file" "$to/"
  done < <(needed "$torch/lib/libtorch_cpu.so")
  # Whoever passes the libraries on must pass on their notices.
  for dir in "$root"/torch-*.dist-info "$root"/nvidia_cuda_runtime-*.dist-info "$root"/nvidia_cuda_cupti-*.dist-info; do
    [ -d "$dir/licenses" ] || continue
    mkdir -p "$lib/licenses"
    cp -R "$dir/licenses" "$lib/licenses/$(basename "$dir" .dist-info)"
  done
  printf -- '-isystem "%s/include"\n-isystem "%s/include/torch/csrc/api/include"\n' "$torch" "$torch" >"$flags/libtorch.cppflags"
  printf -- '-L%s/torch/lib\n' "$lib" >"$flags/libtorch.ldflags"
else
  : >"$flags/libtorch.cppflags"
  : >"$flags/libtorch.ldflags"
fi
