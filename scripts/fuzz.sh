#!/usr/bin/env bash
# fuzz.sh SECONDS runs every fuzz target of the module for that long, one after the other, and stops at the first finding.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:?usage: fuzz.sh SECONDS}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
ran=0
while read -r dir; do
  while read -r target; do
    echo "== $dir $target, ${seconds} s"
    # Minimising is bounded, else the first interesting input of a large format takes the whole time. A worker that is
    # busy when the time ends fails with "context deadline exceeded"; a finding is always written to a file.
    if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" -fuzzminimizetime 10x "./$dir" >"$log" 2>&1; then
      tail -n 40 "$log"
      if grep -q 'Failing input written to' "$log" || ! grep -q 'context deadline exceeded' "$log"; then
        exit 1
      fi
    fi
    tail -n 1 "$log"
    ran=$((ran + 1))
  done < <(go test -list '^Fuzz' "./$dir" | grep '^Fuzz')
done < <(git grep -l --untracked '^func Fuzz' -- '*_test.go' | xargs -r -n 1 dirname | sort -u)
echo "$ran fuzz targets, $seconds s each, no finding"
[ "$ran" -gt 0 ]
