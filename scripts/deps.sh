#!/usr/bin/env bash
# Checks that this machine has what building needs. What is missing and comes from a Debian or Ubuntu package is installed
# when that is possible without asking anybody (root, or sudo without a password); else the line to type is printed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
. "$here/common.sh"

has() { command -v "$1" >/dev/null; }
has_jpeg() { printf '#include <stdio.h>\n#include <jpeglib.h>\n' | g++ -E -x c++ - >/dev/null 2>&1; }
has_pip() { "${PYTHON:-python3}" -m pip --version >/dev/null 2>&1; }

# Packages that Debian and Ubuntu both have under this name; libjpeg-dev is libjpeg-turbo on both.
missing() {
  has g++ || echo g++
  has make || echo make
  has git || echo git
  has flock || echo util-linux
  [ -n "${LIBTORCH:-}" ] || has_pip || echo python3 python3-pip # fetches libtorch
  { has g++ && has_jpeg; } || echo libjpeg-dev
}

# Go is not taken from a package: the distributions' are older than what go.mod asks for. From 1.21 on the go command
# fetches the toolchain that go.mod names by itself.
wanted=$(awk '$1 == "go" { print $2 }' "$here/../go.mod")
has go || die "Go is not installed. Get $wanted or newer from https://go.dev/dl and put its bin folder on PATH"
found=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || found=$(go version | awk '{ print $3 }')
[ "$(printf '%s\n' 1.21 "${found#go}" | sort -V | head -n 1)" = 1.21 ] ||
  die "Go is ${found#go}; $wanted or newer is needed. Get it from https://go.dev/dl"

read -r -d '' -a packages < <(missing) || true
if [ "${#packages[@]}" -gt 0 ]; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  if has apt-get && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
    say "installing ${packages[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2 </dev/null
  else
    say "missing on this machine: ${packages[*]}. Type"
    say
    say "  $(apt_line "${packages[@]}")"
    say
    die "then run this again"
  fi
fi

# libtorch's headers are C++20.
echo 'int main() { return 0; }' | g++ -std=c++20 -fsyntax-only -x c++ - 2>/dev/null ||
  die "g++ $(g++ -dumpversion) does not know C++20; version 11 or newer is needed"
