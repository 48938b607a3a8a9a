#!/bin/sh
# python.sh [--exact] FILE...: installs the Python packages listed there into the image's own Python,
# from wheels only. --exact: those alone, and they must be all that they need. The pip that does it
# leaves with the build.
set -eu
exact=
if [ "$1" = --exact ]; then
    exact=--no-deps
    shift
fi
# A variant that has nothing of its own.
[ -n "$(cd /cumulus-build && cat -- "$@")" ] || exit 0
. /cumulus-build/common/settings/environment
export LC_ALL=C.UTF-8 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/pip"
for list in "$@"; do
    # Debian's Python keeps what is installed here apart from its own packages: /usr/local.
    "$folder/pip/bin/pip" --python /usr/bin/python3 install --quiet --break-system-packages \
        --root-user-action=ignore --no-cache-dir --no-compile --only-binary :all: \
        ${exact:+"$exact"} \
        --requirement "/cumulus-build/$list"
done
[ -z "$exact" ] || "$folder/pip/bin/pip" --python /usr/bin/python3 check
# The runner, given no PATH of its own, looks in the system's folders only.
[ ! -e /usr/local/bin/uv ] || [ -e /usr/bin/uv ] || ln -s ../local/bin/uv /usr/bin/uv
python3 /cumulus-build/common/steps/compile.py
