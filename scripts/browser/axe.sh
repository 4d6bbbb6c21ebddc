#!/usr/bin/env bash
# axe.sh fetches axe-core (MPL-2.0), which the test of accessibility runs in the page, into build/. It is pinned by its sha512.
set -euo pipefail
version=4.14.1
sha512=1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b734f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5

build=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/build
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent "axe-core@$version" > /dev/null)
echo "$sha512  $work/axe-core-$version.tgz" | sha512sum --check --quiet
mkdir -p "$build"
tar -xzf "$work/axe-core-$version.tgz" -C "$work" package/axe.min.js
mv "$work/package/axe.min.js" "$build/axe.min.js"
