# Completion of unlearn in bash: . <(unlearn completion bash)

_unlearn() {
  local line=${COMP_LINE:0:COMP_POINT} breaks=${COMP_WORDBREAKS//[^=:]/} words current head="" value kind prefix file
  # Readline splits words at = and : as well, and replaces what follows them alone: head is what it keeps.
  # shellcheck disable=SC2162 # a backslash quotes here as it does on the command line
  read -a words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  current=${words[${#words[@]} - 1]}
  [[ -n $breaks ]] && head=${current%"${current##*["$breaks"]}"}
  COMPREPLY=()
  while IFS=$'\t' read -r value _; do
    case $value in
      ":files "* | ":dirs "*)
        kind=${value:1:1} prefix=${value#* }
        # Behind @, where readline sees no file, what it does with names of files is done here.
        [[ $prefix == *@ ]] || compopt -o filenames 2>/dev/null
        while IFS= read -r file; do
          if [[ $prefix == *@ ]]; then
            if [[ -d $file ]]; then
              file+=/
              compopt -o nospace 2>/dev/null
            fi
            printf -v file %q "$file"
          fi
          file=$prefix$file
          COMPREPLY+=("${file#"$head"}")
        done < <(compgen "-$kind" -- "${current#"$prefix"}")
        ;;
      *) COMPREPLY+=("${value#"$head"}") ;;
    esac
  done < <("${1/#\~/$HOME}" __complete -- "${words[@]:1}" 2>/dev/null)
  if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=:@,] ]]; then
    compopt -o nospace 2>/dev/null
  fi
}

complete -F _unlearn unlearn
