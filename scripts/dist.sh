#!/usr/bin/env bash
# dist.sh VERSION packs what `make build` made, with manual page, completion and the licences of everything in it, and writes
# the archive's sha256.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=unlearn-${1:?usage: dist.sh VERSION}
work=build/dist/$name
rm -rf build/dist
mkdir -p "$work/bin" "$work/licenses"

cp bin/unlearn "$work/bin/"
cp -Rl lib "$work/lib" 2>/dev/null || cp -R lib "$work/"
cp LICENSE README.md "$work/"
mkdir -p "$work/share/man/man1" "$work/share/bash-completion/completions" "$work/share/zsh/site-functions" "$work/share/fish/vendor_completions.d"
bin/unlearn man >"$work/share/man/man1/unlearn.1"
bin/unlearn completion bash >"$work/share/bash-completion/completions/unlearn"
bin/unlearn completion zsh >"$work/share/zsh/site-functions/_unlearn"
bin/unlearn completion fish >"$work/share/fish/vendor_completions.d/unlearn.fish"
cp third_party/README.md "$work/licenses/"
go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Dir}}{{end}}{{end}}' ./cmd/unlearn | sort -u |
  while read -r module dir; do
    find "$dir" -maxdepth 1 -type f \( -iname 'licen[sc]e*' -o -iname 'copying*' -o -iname 'unlicense*' -o -iname 'notice*' \) |
      while read -r file; do
        mkdir -p "$work/licenses/$module"
        cp "$file" "$work/licenses/$module/"
      done
    [ -d "$work/licenses/$module" ] || {
      echo "dist.sh: $module has no licence file in $dir" >&2
      exit 1
    }
  done

tar -C build/dist --owner=0 --group=0 --sort=name -czf "build/$name.tar.gz" "$name"
rm -rf build/dist
(cd build && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256" && cat "$name.tar.gz.sha256")
