# shellcheck shell=sh
# Read by install.sh: finds a Python that this package runs on, $python, or ends the install in words.
pythons="@PYTHONS@"

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
    echo "install: no Python that can run this. It needs one of: $pythons, with its standard library." >&2
    echo "install: looked for$names python3 on PATH=$PATH and found:${seen:- none}" >&2
    exit 1
fi
