#!/bin/sh
# code.sh IMAGE: puts this checkout's packages for that image where its Python finds them.
set -eu
umask 022
target=$(python3 -c 'import site; print(site.getsitepackages()[0])')
mkdir -p "$target"
cp -r "/cumulus-build/$1/code/." "$target/"
chmod -R u=rwX,go=rX "$target"/cumulus*
if [ "$1" = job ]; then
    # Where the daemon starts it, whatever the image's Python is.
    mkdir -p /usr/local/lib/cumulus
    ln -sfn "$target/cumulus_runner" /usr/local/lib/cumulus/cumulus_runner
fi
python3 /cumulus-build/common/steps/compile.py
