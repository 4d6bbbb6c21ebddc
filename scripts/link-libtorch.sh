#!/usr/bin/env bash
# link-libtorch.sh TORCH LIB FLAGS [cuda] makes the libtorch in TORCH (a path that libtorch.sh printed) usable from here:
#   LIB    gets its run-time libraries as hard links, or copies across file systems: LIB/torch/lib/*.so beside
#          LIB/nvidia/*/lib, as in a wheel, because the libraries find each other by paths relative to themselves.
#          A system package is left where it is: the loader finds it. With `cuda` all of them, because libtorch opens
#          parts of its CUDA half, and of cuDNN, by name while it runs; without, those that the CPU needs.
#   FLAGS  gets two files for the compiler's @FILE argument: libtorch.cppflags and libtorch.ldflags.
set -euo pipefail
torch=$1 lib=$2 flags=$3 flavour=${4:-cpu}
[ -d "$torch/lib" ] || {
  echo "link-libtorch.sh: $torch has no lib folder" >&2
  exit 1
}

# wanted prints the paths of the libraries to link, others than libtorch's own among them.
wanted() {
  printf '%s\n' "$torch/lib/libtorch_cpu.so"
  ldd "$torch/lib/libtorch_cpu.so" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }'
  [ "$flavour" = cpu ] || find "$torch/lib" "$root"/nvidia/*/lib -maxdepth 1 -name '*.so*' ! -name '*python*'
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
    [ ! -e "$to/${file##*/}" ] || continue # met by another path
    ln --logical "$file" "$to/" 2>/dev/null || cp --dereference --reflink=auto "$file" "$to/"
  done < <(wanted)
  # Whoever passes the libraries on must pass on their notices.
  for dir in "$root"/torch-*.dist-info "$root"/nvidia_*.dist-info; do
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
