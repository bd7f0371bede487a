#!/bin/sh
# Looks whether every wheel of this Runtime is there, and a Python that can use them, so that what is wrong is told once
# and first, not by each component. Changes nothing. Greengrass runs it at each of its own starts: names, no digests.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/python.sh"
exec "$python" -I -c '
import os, sys
os.chdir(sys.argv[1])
with open("SHA256SUMS", encoding="utf-8") as sums:
    names = [line.rstrip("\n").split("  ", 1)[1] for line in sums]
needed = [name for name in names if name.startswith(("wheels/", "installer/"))]
lacking = [name for name in needed if not os.access(name, os.R_OK) or os.path.getsize(name) == 0]
if lacking or not needed:
    what = "%d of %d files are missing, empty or unreadable, the first is %s" % (
        len(lacking), len(needed), lacking[0]) if needed else "SHA256SUMS names no wheel"
    sys.exit("install: io.sluice.Runtime in " + sys.argv[1] + " is not whole: " + what + ". Deploy it again.")
' "$here"
