#!/bin/sh
# Runs as root inside the image that is being made: Debian packages, the jobs' user.
set -eu
build=/cumulus-build/common
. "$build/settings/environment"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

# Neither manuals nor translations are wanted; licences stay. PoCL depends on the whole of clang, of
# which it uses libraries and the linker only: no headers, static or 32-bit libraries, sanitizers.
mkdir -p /etc/dpkg/dpkg.cfg.d
cat >/etc/dpkg/dpkg.cfg.d/cumulus-slim <<'END'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/include/*
path-exclude /usr/lib32/*
path-exclude /usr/libx32/*
path-exclude /usr/lib/llvm-*/lib/*.a
path-exclude /usr/lib/llvm-*/lib/LLVMPolly.so
path-exclude /usr/lib/llvm-*/lib/clang/*/lib/*
path-exclude /usr/lib/gcc/*/libasan*
path-exclude /usr/lib/gcc/*/liblsan*
path-exclude /usr/lib/gcc/*/libstdc++*.a
path-exclude /usr/lib/gcc/*/libtsan*
path-exclude /usr/lib/gcc/*/libubsan*
path-exclude /usr/lib/*-linux-gnu/lib?san.so*
path-exclude /usr/lib/*-linux-gnu/libhwasan.so*
path-exclude /usr/lib/*-linux-gnu/libubsan.so*
path-exclude /usr/lib/*-linux-gnu/libc.a
path-exclude /usr/lib/*-linux-gnu/libm-*.a
path-exclude /usr/lib/*-linux-gnu/libclang-[0-9]*.so*
END

set -- -o Dpkg::Use-Pty=0 -o APT::Install-Recommends=0 -o APT::Update::Error-Mode=any
if [ -s "$build/settings/sources.list" ]; then
    set -- "$@" -o "Dir::Etc::sourcelist=$build/settings/sources.list" -o Dir::Etc::sourceparts=-
fi
export APT_CONFIG="$build/settings/apt.conf"
apt-get "$@" -qq update
apt-get "$@" -qq -y --no-install-recommends upgrade
# shellcheck disable=SC2046  # a list
apt-get "$@" -qq -y --no-install-recommends install $(sed 's/#.*//' "$build/packages.apt")
apt-get "$@" -qq clean
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "system.sh: the base has $(python3 --version): 3.11 or newer is needed, take a newer base" >&2
    exit 1
}

if [ -d "$build/settings/install-ca" ]; then
    # Those that Debian has already would stand twice.
    for file in "$build"/settings/install-ca/*.crt; do
        python3 - "$file" /etc/ssl/certs/ca-certificates.crt <<'END' ||
import sys
wanted, known = ("".join(open(name).read().split()) for name in sys.argv[1:])
sys.exit(wanted not in known)
END
            cp "$file" /usr/local/share/ca-certificates/
    done
    update-ca-certificates >/dev/null
fi

getent passwd 1000 >/dev/null || {
    groupadd --gid 1000 cumulus
    useradd --uid 1000 --gid 1000 --no-log-init --create-home --shell /bin/sh cumulus
}

find /usr/share/doc -depth -type f ! -name copyright -delete
find /usr/share/doc -depth -type d -empty -delete
# What only says when and where this was built, and where packages came from.
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old \
    /var/cache/ldconfig/aux-cache /var/log/*.log /var/log/apt/* /usr/share/man/* \
    /usr/share/info/* /usr/share/locale/* /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- \
    /etc/subuid- /etc/subgid-
# Where the base's own sources are used, later steps need them too.
[ ! -s "$build/settings/sources.list" ] || rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
