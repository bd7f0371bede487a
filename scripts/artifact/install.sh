#!/bin/sh
# Makes the Python environment venv/ in the component's work folder, where Greengrass starts this script, from the
# wheels of io.sluice.Runtime, which lies beside this component: no network, no compiler. Greengrass runs it at each of
# its own starts, so it is over in a moment when the environment is there already, and then needs no Runtime. An
# environment is complete or it is not called venv.
#
# pip comes with the Runtime and runs straight from its wheel: a Python without ensurepip (Debian packs that apart) is
# enough, and the environment holds what the component uses and nothing else.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
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

# What an earlier run left behind that was killed before it could tidy up.
for left in "$PWD"/venv.new.* "$PWD"/venv.old.*; do
    [ -e "$left" ] || continue
    kill -0 "${left##*.}" 2>/dev/null || rm -rf "$left"
done

if [ -s "$venv/stamp" ] && [ "$(stamp "$venv/bin/python")" = "$(cat "$venv/stamp")" ]; then
    exit 0
fi

. "$here/python.sh"

trap 'rm -rf "$new" "$old"' EXIT
trap 'exit 1' HUP INT TERM

echo "install: making venv with $("$python" -I --version), once for this version of the component"
mkdir -p "$new/tmp"
export TMPDIR="$new/tmp" # /tmp of a gateway may be small, or in memory
"$python" -I -m venv --without-pip "$new"
"$new/bin/python" -I "$here/install_packages.py" "$here"
rm -rf "$new/tmp"
# One import leaves the bytecode of what the component uses, a fraction of all that was installed, and shows here, not
# at its start, that everything is there.
"$new/bin/python" -I -c '
import importlib, sys
sys.path.insert(0, sys.argv[1])
importlib.import_module("@PACKAGE@.__main__")' "$here"
stamp "$new/bin/python" >"$new/stamp"

# Everything reaches the disk before it gets its name: a power cut must not leave a stamped environment of empty files.
# And the name before this is over: nucleus lite does not install again what it knows to be installed.
"$python" -I -c '
import os, sys
new, venv, old = sys.argv[1:]
os.sync()
if os.path.isdir(venv):
    os.rename(venv, old)
os.rename(new, venv)
os.fsync(os.open(".", os.O_RDONLY))' "$new" "$venv" "$old"
