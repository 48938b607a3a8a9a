#!/bin/sh
# layer.sh IMAGE: builds the OpenCL layer and puts it into every process of that image. The clang that
# PoCL brings compiles it; make and the headers are unpacked beside the image and go with the step.
set -eu
umask 022
. /cumulus-build/common/settings/environment
settings=/cumulus-build/common/settings
export LC_ALL=C.UTF-8 APT_CONFIG="$settings/apt.conf"
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial" "$folder/root"

# Lists and packages of its own: the image keeps none.
set -- "$1" -qq -o APT::Update::Error-Mode=any -o APT::Sandbox::User=root \
    -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache"
if [ -s "$settings/sources.list" ]; then
    set -- "$@" -o "Dir::Etc::sourcelist=$settings/sources.list" -o Dir::Etc::sourceparts=-
fi
image=$1
shift
apt-get "$@" update
(cd "$folder" && apt-get "$@" download libc6-dev linux-libc-dev make opencl-c-headers)
for package in "$folder"/*.deb; do
    dpkg-deb -x "$package" "$folder/root"
done

include=$folder/root/usr/include
machine=$(basename "$(dirname "$(find "$include" -path '*-linux-gnu/bits' -prune)")")
compiler=$(find /usr/bin -name 'clang-[0-9]*' | sort | tail -n 1)
target=/usr/local/lib/cumulus
"$folder/root/usr/bin/make" --directory="/cumulus-build/$image/opencl_layer" --silent \
    OUT="$folder/build" CC="$compiler" CFLAGS="-O2 -isystem $include -isystem $include/$machine"
mkdir -p "$target" /etc/OpenCL/layers
cp "$folder/build/libcumulus_opencl.so" "$target/"
# Newer loaders read the layers here, older ones a variable that the preloaded layer answers for.
echo "$target/libcumulus_opencl.so" >/etc/OpenCL/layers/cumulus.lay
echo "$target/libcumulus_opencl.so" >/etc/ld.so.preload
said=$(/bin/true 2>&1)
[ -z "$said" ] || {
    echo "layer.sh: the layer can't be preloaded: $said" >&2
    exit 1
}
