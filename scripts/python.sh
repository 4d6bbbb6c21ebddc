#!/usr/bin/env bash
# Prints the path of a Python that has the pinned torch and what the reference scripts import, for `make parity`, `golden`
# and `bench`: $L2UL_PYTHON when set, python3 when it has them, else a virtual environment in the cache, made on first
# use (about 2.6 GB to fetch: Python's torch does not start without its CUDA libraries, even on the CPU).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
. "$here/common.sh"

version=$(awk '$1 == "version" { print $2 }' "$here/../third_party/libtorch.lock")
packages=("torch==$version" torchvision==0.26.0 numpy==2.4.6 pillow==13.0.0 safetensors==0.8.0)

# serves PYTHON says whether it has the pinned torch and the other packages; others of their versions do as well.
serves() {
  [ "$("$1" -c 'import numpy, PIL, safetensors, torchvision, torch; print(torch.__version__.split("+")[0])' 2>/dev/null)" = "$version" ]
}

if [ -n "${L2UL_PYTHON:-}" ]; then
  serves "$L2UL_PYTHON" || die "L2UL_PYTHON=$L2UL_PYTHON does not have ${packages[*]}"
  command -v "$L2UL_PYTHON"
  exit
fi
py=$(python)
if serves "$py"; then
  command -v "$py"
  exit
fi
venv=$(cache_dir)/python-$version-$(printf '%s\n' "${packages[@]}" "$("$py" --version)" | sha256sum | cut -c 1-12)
if [ ! -e "$venv/complete" ]; then
  lock python
  if [ ! -e "$venv/complete" ]; then
    say "making a Python with ${packages[*]}, once"
    # Without pip, because Debian keeps what a virtual environment needs for one in a package of its own; the host's pip
    # puts the packages where the environment looks for them.
    rm -rf "$venv"
    "$py" -m venv --without-pip "$venv"
    pip install --no-cache-dir --root-user-action ignore --only-binary=:all: \
      --target "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" "${packages[@]}" >&2 </dev/null
    serves "$venv/bin/python" || die "the new Python in $venv does not import torch $version"
    touch "$venv/complete"
  fi
fi
printf '%s\n' "$venv/bin/python"
