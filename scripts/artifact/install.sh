#!/bin/sh
# Makes the Python environment venv/ in the component's work folder, where Greengrass starts this script, from the
# wheels beside it: no network, no compiler. Greengrass runs it at each of its own starts, so it is over in a moment
# when the environment is there already. An environment is complete or it is not called venv.
#
# pip comes along and runs straight from its wheel: a Python without ensurepip (Debian packs that apart) is enough, and
# the environment holds what the component uses and nothing else.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
pythons="@PYTHONS@"
pip=$here/@PIP@/pip
lock=$here/requirements.txt
venv=$PWD/venv
new=$PWD/venv.new.$$
old=$PWD/venv.old.$$

# What the environment was made for, as the Python in it sees it. One whose base Python was upgraded or removed does
# not answer, or answers differently.
stamp() {
    "$1" -I -c '
import hashlib, sys
with open(sys.argv[1], "rb") as lock:
    print(hashlib.sha256(lock.read()).hexdigest(), "%d.%d" % sys.version_info[:2])' "$lock" 2>/dev/null
}

if [ -s "$venv/stamp" ] && [ "$(stamp "$venv/bin/python")" = "$(cat "$venv/stamp")" ]; then
    exit 0
fi

# A name on PATH may be a shim that does not run, an unsupported version, or lack what is needed: ask each.
probe='
import os, sys
version = "%d.%d" % sys.version_info[:2]
if version not in sys.argv[1].split():
    sys.exit("is Python " + version)
if sys.maxsize < 2**32:
    sys.exit("is a 32-bit Python; this package is for 64-bit")
libc = (os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None) or "not glibc"
if not libc.startswith("glibc ") or tuple(int(part) for part in libc.split()[1].split(".")[:2]) < (2, 28):
    sys.exit("runs on " + libc + "; glibc 2.28 or later is needed")
try:
    import venv, zlib
except ImportError as error:
    sys.exit("lacks the module " + error.name + "; on Debian or Ubuntu: apt-get install python" + version)
'
python=
seen=
names=
for version in $pythons; do names="$names python$version"; done
set -f
IFS=:
# shellcheck disable=SC2086 # the folders of PATH, as "$@"
set -- $PATH
unset IFS
set +f
for name in $names python3; do
    for folder in "$@"; do
        [ -f "$folder/$name" ] && [ -x "$folder/$name" ] || continue
        if answer=$("$folder/$name" -I -c "$probe" "$pythons" 2>&1); then
            python=$folder/$name
            break 2
        fi
        seen="$seen
  $folder/$name $(printf '%s\n' "$answer" | tail -n 1)"
    done
done
if [ -z "$python" ]; then
    echo "install: no Python that can run this component. It needs one of: $pythons, with its standard library." >&2
    echo "install: looked for$names python3 on PATH=$PATH and found:${seen:- none}" >&2
    exit 1
fi

# What an earlier run left behind that was killed before it could tidy up.
for left in "$PWD"/venv.new.* "$PWD"/venv.old.*; do
    [ -e "$left" ] || continue
    kill -0 "${left##*.}" 2>/dev/null || rm -rf "$left"
done
trap 'rm -rf "$new" "$old"' EXIT
trap 'exit 1' HUP INT TERM

echo "install: making venv with $("$python" -I --version), once for this version of the component"
mkdir -p "$new/tmp"
export TMPDIR="$new/tmp" # /tmp of a gateway may be small, or in memory
"$python" -I -m venv --without-pip "$new"
PIP_CONFIG_FILE=/dev/null "$new/bin/python" -I "$pip" --isolated install --quiet --disable-pip-version-check --no-input \
    --no-cache-dir --no-compile --no-index --find-links "$here/wheels" --require-hashes --no-deps --requirement "$lock"
rm -rf "$new/tmp"
# One import leaves the bytecode of what the component uses, a fraction of all that was installed, and shows here, not
# at its start, that everything is there.
"$new/bin/python" -I -c '
import importlib, sys
sys.path.insert(0, sys.argv[1])
importlib.import_module("@PACKAGE@.__main__")' "$here"
stamp "$new/bin/python" >"$new/stamp"

# Everything reaches the disk before it gets its name: a power cut must not leave a stamped environment of empty files.
"$python" -I -c '
import os, sys
new, venv, old = sys.argv[1:]
os.sync()
if os.path.isdir(venv):
    os.rename(venv, old)
os.rename(new, venv)' "$new" "$venv" "$old"
