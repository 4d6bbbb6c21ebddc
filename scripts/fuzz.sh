#!/usr/bin/env bash
# fuzz.sh SECONDS runs every fuzz target of the module for that long, one after the other, and stops at the first finding.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:?usage: fuzz.sh SECONDS}

ran=0
while read -r dir; do
  while read -r target; do
    echo "== $dir $target, ${seconds} s"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" "./$dir"
    ran=$((ran + 1))
  done < <(go test -list '^Fuzz' "./$dir" | grep '^Fuzz')
done < <(git grep -l --untracked '^func Fuzz' -- '*_test.go' | xargs -r -n 1 dirname | sort -u)
echo "$ran fuzz targets, $seconds s each, no finding"
[ "$ran" -gt 0 ]
