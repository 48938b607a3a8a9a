#!/bin/sh
# code.sh IMAGE: puts this checkout's packages for that image where its Python finds them.
set -eu
umask 022
target=$(python3 -c 'import site; print(site.getsitepackages()[0])')
mkdir -p "$target"
cp -r "/cumulus-build/$1/code/." "$target/"
chmod -R u=rwX,go=rX "$target"/cumulus*
python3 /cumulus-build/common/steps/compile.py
