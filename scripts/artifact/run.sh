#!/bin/sh
# Becomes the component's process. Greengrass starts it in the component's work folder, after install.sh.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

# It may be gone since it was installed: its Python was upgraded or removed, or the power was cut while it was exchanged.
# Nucleus lite installs only when something is deployed.
if [ ! -x venv/bin/python ]; then
    echo "run: there is no venv with a Python in $PWD; it is installed now"
    sh "$here/install.sh"
fi

# Python finds the component and its library in this folder, everything else in the venv, and nothing anywhere else.
# Bytecode is there from install.sh, safe on the disk. None is written now: Python does not sync it, and a file that a
# power cut tore would keep the component from ever starting again.
unset PYTHONHOME
export PYTHONPATH="$here" PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
# What a large message took goes back to the system when it is done with. Left alone, glibc keeps more with each of them.
export MALLOC_TRIM_THRESHOLD_=131072
# exec: the signal that stops the component must reach Python, not a shell in front of it.
exec "$PWD/venv/bin/python" -u -m @PACKAGE@
