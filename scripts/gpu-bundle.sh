#!/usr/bin/env bash
# gpu-bundle.sh packs what gpu-check.sh needs on a machine with a GPU into build/gpu-bundle.tar.gz: the program, our
# libraries and libjpeg, test programs with the files they read, and scripts. libtorch comes from the Python there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
limit=60 # MiB; the archive travels by hand
packages=(torch torch/cuda unlearn/kernels unlearn/engine unlearn/data unlearn)
out=build/gpu-bundle
rm -rf "$out" "$out.tar.gz"
mkdir -p "$out"/{bin,lib,scripts,third_party}

cp -L lib/*.so "$out/lib/"
go build -trimpath -ldflags '-s -w' -o "$out/bin/unlearn" ./cmd/unlearn
ldd "$out/bin/unlearn" | awk '$1 ~ /^libjpeg/ { print $3 }' | xargs -r -I{} cp -L {} "$out/lib/"
for package in "${packages[@]}"; do
  mkdir -p "$out/$package"
  cp "$package"/*.go "$out/$package/" # some tests read the sources
  go test -trimpath -ldflags '-s -w' -c -o "$out/bin/${package//\//-}.test" "./$package"
done
cp unlearn/kernels/ops_test.py "$out/unlearn/kernels/"
mkdir "$out/unlearn/data/jpeg" && cp -R unlearn/data/jpeg/testdata "$out/unlearn/data/jpeg/"
cp -R scripts/golden "$out/scripts/"
cp go.mod "$out/" # by which tests find it
mkdir "$out/scripts/bench" && cp scripts/bench/*.py "$out/scripts/bench/"
go build -trimpath -ldflags '-s -w' -o "$out/bin/ours" ./scripts/bench/ours
cp scripts/gpu-check.sh scripts/gpu_check.py "$out/scripts/"
cp third_party/libtorch.lock "$out/third_party/"

tar -C build --owner=0 --group=0 --sort=name -czf "$out.tar.gz" gpu-bundle
rm -rf "$out"
size=$(($(stat -c %s "$out.tar.gz") >> 20))
[ "$size" -lt "$limit" ] || {
  echo "gpu-bundle.sh: $out.tar.gz has $size MiB; it must stay below $limit" >&2
  exit 1
}
echo "$out.tar.gz, $size MiB"
