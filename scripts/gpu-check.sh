#!/usr/bin/env bash
# gpu-check.sh BUNDLE [RESULT.json [FLAGS]] checks this project on a machine with a GPU, in about 10 minutes and without a
# network: it unpacks what `make gpu-bundle` made, lends it the libtorch of this machine's Python ($L2UL_PYTHON, else
# python3), runs the device tests and the rows that compare with PyTorch, and writes the result (gpu-check.json). FLAGS
# are those of gpu_check.py: --list prints the rows, --rows G1,G6 measures only these. The rows G… want torchvision and
# safetensors in that Python; where they are missing, the row says so.
set -euo pipefail
bundle=${1:?usage: gpu-check.sh gpu-bundle.tar.gz [RESULT.json [FLAGS]]}
result=$(realpath -m "${2:-gpu-check.json}")
python=${L2UL_PYTHON:-python3}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -C "$work" -xzf "$bundle"
root=$work/gpu-bundle

site=$("$python" -c 'import importlib.util as u, os; print(os.path.dirname(u.find_spec("torch").submodule_search_locations[0]))') || {
  echo "gpu-check.sh: $python has no torch; set L2UL_PYTHON to one that has" >&2
  exit 1
}
wanted=$(awk '$1 == "build" { print $2 }' "$root/third_party/libtorch.lock")
found=$(sed -n "s/^__version__ = '\(.*\)'.*/\1/p" "$site/torch/version.py")
[ "$found" = "$wanted" ] || {
  echo "gpu-check.sh: $python has torch $found; the bundle is built for $wanted" >&2
  exit 1
}
# The folder of the packages has the layout that our libraries look for: torch/lib beside nvidia/*/lib.
ln -s "$site" "$root/lib/libtorch"
export OMP_WAIT_POLICY=passive
"$python" "$root/scripts/gpu_check.py" "$root" "$result" "${@:3}"
