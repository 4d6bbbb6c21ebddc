# shellcheck shell=bash
# Wheels from a package index into the cache: what the scripts that fetch native libraries share. Sourced after
# common.sh, never run.
#
# A lock file has lines "KIND REQUIREMENT FILE SHA256", where KIND says what needs the wheel, and "KEY VALUE", among them
# "python 3.12": one build is fetched, whatever the host's Python. $fetch_hint is what else a person can do.

# pinned KEY LOCK prints the value of a key.
pinned() { awk -v key="$1" '$1 == key { print $2; exit }' "$2"; }

# wheels_of LOCK KINDS prints the lines of these kinds.
wheels_of() { awk -v kinds=" $2 " 'NF == 4 && index(kinds, " " $1 " ")' "$1"; }

# fetch LOCK KINDS WHEELS WORK fills the folder WHEELS. A wheel that an earlier, interrupted run left there whole is not
# fetched again. What is half done lies in WORK.
fetch() {
  local lockfile=$1 kinds=$2 wheels=$3 work=$4 requirement file sum
  local platforms=(--platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_25_x86_64
    --platform manylinux_2_18_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64)
  mkdir -p "$wheels"
  while read -r _ requirement file sum; do
    if ! printf '%s  %s\n' "$sum" "$wheels/$file" | sha256sum --check --status 2>/dev/null; then
      rm -f "${wheels:?}/$file"
      say "fetching $requirement"
      # pip keeps what is half fetched in TMPDIR; there it is removed with the rest when we are interrupted.
      TMPDIR=$work pip download --no-cache-dir --no-deps --only-binary=:all: --implementation cp \
        --python-version "$(pinned python "$lockfile")" "${platforms[@]}" --dest "$work/wheel" "$requirement" >&2 </dev/null ||
        die "pip could not fetch $requirement. Is the package index reachable? Run it again: what is here already is kept. ${fetch_hint:-}"
      [ -f "$work/wheel/$file" ] || die "pip fetched $(ls "$work/wheel") instead of $file"
      printf '%s  %s\n' "$sum" "$work/wheel/$file" | sha256sum --check --status ||
        die "$file has sha256 $(sha256sum "$work/wheel/$file" | cut -d ' ' -f 1) and not $sum as third_party/$(basename "$lockfile") says; not used"
      mv "$work/wheel/$file" "$wheels/$file"
    fi
  done < <(wheels_of "$lockfile" "$kinds")
}

# unpack WHEELS OUT PATTERN... takes the members that match a pattern, in the places they have in the wheels.
unpack() {
  local py
  py=$(python)
  "$py" - "$@" <<'PY'
import fnmatch, glob, os, sys, zipfile

wheels, out, *keep = sys.argv[1:]
for wheel in sorted(glob.glob(wheels + "/*.whl")):
    with zipfile.ZipFile(wheel) as z:
        for member in z.infolist():
            if any(fnmatch.fnmatch(member.filename, k) for k in keep):
                path = z.extract(member, out)
                if member.external_attr >> 16 & 0o100:  # extract forgets that a file is a program
                    os.chmod(path, 0o755)
PY
}

# unpacked NAME LOCK KINDS MEGABYTES MEBIBYTES CHECK PATTERN... sets $home to the folder of the cache where the matching
# members of a lock file's wheels lie. Where it is missing, MEGABYTES are fetched, which takes MEBIBYTES of the disk; the
# folder comes to be once the function CHECK has passed it. Call it in the script's own shell: a signal then waits for
# its cleaning up.
unpacked() {
  local name=$1 lockfile=$2 kinds=$3 megabytes=$4 mebibytes=$5 check=$6 cache key free work
  shift 6
  cache=$(cache_dir) || exit 1
  # The key names the wheels, so that another pin never meets this one's files.
  key=$(wheels_of "$lockfile" "$kinds" | sha256sum | cut -c 1-12)
  home=$cache/$name-$(pinned version "$lockfile")-$key
  if [ ! -d "$home" ]; then
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
      die "the pinned $name is for Linux on x86_64, this is $(uname -s) on $(uname -m). ${fetch_hint:-}"
    lock "$name"
    if [ ! -d "$home" ]; then
      free=$(df -Pk "$cache" | awk 'NR == 2 { print int($4 / 1024) }')
      [ "$free" -ge "$mebibytes" ] || die "$cache has $free MiB free; fetching and unpacking $name takes $mebibytes. Free some, or set XDG_CACHE_HOME"
      rm -rf "$cache/$name".work.* # left by a run that was killed; the lock says that none is at work
      work=$(mktemp -d "$cache/$name.work.XXXXXX")
      # shellcheck disable=SC2064 # the folder's name is wanted as it is now
      trap "rm -rf '$work'" EXIT
      trap 'exit 130' INT
      trap 'exit 143' TERM HUP
      say "$name $(pinned version "$lockfile") is not here yet: about $megabytes MB to fetch, once, into $cache"
      fetch "$lockfile" "$kinds" "$cache/wheels-$key" "$work"
      say "unpacking"
      mkdir "$work/out"
      unpack "$cache/wheels-$key" "$work/out" "$@"
      "$check" "$work/out"
      mv -T "$work/out" "$home"
      rm -rf "$cache/wheels-$key"
    fi
  fi
}
