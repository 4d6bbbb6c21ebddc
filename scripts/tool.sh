#!/usr/bin/env bash
# tool.sh NAME [ARG...] runs the pinned golangci-lint, clang-format or shellcheck. It is built or fetched on first use and
# kept in the cache under its version; nothing is installed into the system.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
. "$here/common.sh"

name=${1:?usage: tool.sh golangci-lint|clang-format|shellcheck [ARG...]}
shift
tools=$(cache_dir)/tools

# go_tool builds the tool whose package path is $1, at the version that scripts/tools/go.mod pins, and prints its path.
go_tool() {
  local version bin
  # The Go version belongs to the key: golangci-lint refuses code that is newer than the Go it was built with.
  version=$(sed -n "s|^\s*${1%/cmd/*} \(v\S*\).*|\1|p" "$here/tools/go.mod")-$(go env GOVERSION)
  bin=$tools/$name-$version
  if [ ! -x "$bin" ]; then
    mkdir -p "$tools"
    lock tools
    if [ ! -x "$bin" ]; then
      say "building $name $version, once (about two minutes on 2 cores)"
      go -C "$here/tools" build -o "$bin.work" "$1"
      mv "$bin.work" "$bin"
    fi
  fi
  printf '%s\n' "$bin"
}

# wheel_tool installs the wheels of requirements.txt and prints the path of the program NAME.
wheel_tool() {
  local dir
  dir=$tools/wheels-$(sha256sum "$here/tools/requirements.txt" | cut -c 1-12)
  if [ ! -d "$dir" ]; then
    mkdir -p "$tools"
    lock tools
    if [ ! -d "$dir" ]; then
      say "fetching clang-format and shellcheck, once"
      rm -rf "$dir.work"
      pip install --quiet --root-user-action ignore --no-deps --only-binary=:all: --require-hashes --target "$dir.work" \
        --requirement "$here/tools/requirements.txt" >&2 </dev/null
      mv -T "$dir.work" "$dir"
    fi
  fi
  case $name in
    clang-format) printf '%s\n' "$dir/clang_format/data/bin/clang-format" ;;
    *) printf '%s\n' "$dir/bin/$name" ;;
  esac
}

case $name in
  golangci-lint) bin=$(go_tool github.com/golangci/golangci-lint/v2/cmd/golangci-lint) ;;
  clang-format | shellcheck) bin=$(wheel_tool) ;;
  *) die "no tool named $name; there are golangci-lint, clang-format and shellcheck" ;;
esac
[ -x "$bin" ] || die "$bin is missing; remove $tools and run this again"
exec "$bin" "$@"
