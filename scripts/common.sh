# shellcheck shell=bash
# What our scripts share; sourced, never run. Messages go to stderr, so that stdout carries results only.

say() { printf '%s\n' "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}

# cache_dir makes the cache folder when it is missing, marks it so that backups skip it, and prints its path.
cache_dir() {
  local base=${XDG_CACHE_HOME:-}
  [ -n "$base" ] || base=${HOME:?neither XDG_CACHE_HOME nor HOME is set: where should downloads be kept?}/.cache
  local dir=$base/l2ul
  mkdir -p "$dir" || die "cannot make the cache folder $dir; set XDG_CACHE_HOME to a folder you can write"
  [ -e "$dir/CACHEDIR.TAG" ] || printf '%s\n' 'Signature: 8a477f597d28d172789f06886806bc55' \
    '# Downloads and tools of l2ul: libtorch, linters. Safe to delete.' >"$dir/CACHEDIR.TAG"
  printf '%s\n' "$dir"
}

# python prints the Python to use: $PYTHON when set, else python3.
python() {
  local py=${PYTHON:-python3}
  command -v "$py" >/dev/null || die "$py is not installed. Type: $(apt_line python3 python3-pip)"
  printf '%s\n' "$py"
}

# pip runs pip of that Python and says what to install when there is none.
pip() {
  local py
  py=$(python) || exit 1
  "$py" -m pip --version >/dev/null 2>&1 ||
    die "$py has no pip, which the download needs. Type: $(apt_line python3-pip)"
  "$py" -m pip --disable-pip-version-check "$@"
}

# apt_line prints the line a person types to install the named packages.
apt_line() {
  local sudo=''
  [ "$(id -u)" = 0 ] || sudo='sudo '
  printf '%sapt-get update && %sapt-get install -y --no-install-recommends %s' "$sudo" "$sudo" "$*"
}

# lock waits until no other run of our scripts holds the lock NAME in the cache; it is held until this process ends.
lock() {
  local file
  file=$(cache_dir)/$1.lock || exit 1
  exec 9>"$file"
  flock --nonblock 9 || {
    say "waiting for another run that holds $file"
    flock 9
  }
}
