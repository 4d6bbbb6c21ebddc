#compdef unlearn
# Completion of unlearn in zsh: . <(unlearn completion zsh), or a file _unlearn in a folder of $fpath.

_unlearn() {
  local -a given whole open
  local line value kind prefix
  given=("${(@Q)words[2,CURRENT]}")
  for line in "${(@f)$("${~words[1]}" __complete -- "${(@)given}" 2>/dev/null)}"; do
    value=${line%%$'\t'*}
    case $value in
      '') ;;
      ':files '*|':dirs '*) kind=${value%% *} prefix=${value#* } ;;
      *[=:@,]) open+=("${value//:/\\:}:${line#*$'\t'}") ;;
      *) whole+=("${value//:/\\:}:${line#*$'\t'}") ;;
    esac
  done
  (( $#whole )) && _describe -t values value whole
  (( $#open )) && _describe -t values value open -S ''
  if [[ -n $kind ]]; then
    [[ -n $prefix ]] && compset -P "${(b)prefix}"
    if [[ $kind == :dirs ]]; then _files -/; else _files; fi
  fi
}

if [[ ${funcstack[1]} == _unlearn ]]; then
  _unlearn "$@"
else
  compdef _unlearn unlearn
fi
