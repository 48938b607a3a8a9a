#!/usr/bin/env bash
# provision/manager.sh: makes this machine (Debian 12/13, Ubuntu 22.04/24.04) a Swarm manager with
# the Cumulus daemon.
#
#   provision/manager.sh                    (as root, in a checkout; --help shows all options)
#
# Safe to repeat, with other options or a newer --source too: what is so already is left, what failed
# is taken up where it ended. docs/provisioning.md has the whole.
# shellcheck disable=SC2317  # steps are called by their names
set -euo pipefail

ORCHESTRATOR_URL=""  # filled in by the daemon that serves this script
ORCHESTRATOR_FINGERPRINT=""  # filled in by the daemon that serves this script

# Another root for all files, for tests.
readonly R=${CUMULUS_PROVISION_ROOT:-}
readonly CONFIG=$R/etc/cumulus STATE=$R/var/lib/cumulus-manager LIB=$R/usr/local/lib/cumulus
readonly VENV=$R/opt/cumulus/venv DATA=$R/var/lib/cumulusd UNITS=$R/etc/systemd/system
readonly LOG=$R/var/log/cumulus-manager.log
readonly SWARM_PORT=2377 HEALTH_S=${CUMULUS_PROVISION_HEALTH_S:-90} DAYS_CA=3650 DAYS=825 RENEW_DAYS=30
readonly MIN_PYTHON=11 # of 3.x

STEPS=(machine packages engine swarm user code images tls configuration units firewall daemon)
UNDO=(daemon_off swarm_off firewall_off files_off)

usage() {
    cat <<'END'
usage: manager.sh [options]
       manager.sh --uninstall [--purge]

  --source PATH            Cumulus: a checkout, an archive of one (.tar.gz, .zip) or a wheel; without it
                           the checkout that this script lies in
  --port PORT              where the daemon listens (50051)
  --advertise-addr A[:P]   by which address the other nodes reach the Swarm here; without it
                           PUBLIC_IPADDR with VAST_TCP_PORT_2377 where they are set (Vast.ai), else this
                           machine's own address
  --daemon-addr HOST[:P]   by which workers and clients reach the daemon; without it PUBLIC_IPADDR with
                           VAST_TCP_PORT_<port>, else the host of --advertise-addr
  --load FILE              an image archive (docker save, images/build) to load; may be repeated
  --job-image NAME         of job containers (cumulus-job:latest); pulled where it isn't here
  --agent-image NAME       of the workers' agents (cumulus-agent:latest); pulled where it isn't here.
                           Images that are neither here, loaded nor named are built from the checkout
  --tls-cert FILE          the daemon's certificate with its chain, PEM, with --tls-key FILE; and
                           --tls-ca FILE where it isn't publicly trusted. Without them a CA and a
                           certificate are made
  --plain                  no TLS: tokens can be read on the way. For a network that you trust
  --count-cpu-devices      CPUs (PoCL) count as devices
  --peer CIDR              who reaches Swarm's ports here; may be repeated. Without it port 2377 is open
                           to all: Swarm's own TLS and join tokens guard it
  --forget                 what earlier runs were told doesn't hold any more; without it, it holds for
                           what isn't said again (but for --source and --load)
  --dry-run                print every step and change nothing
  --uninstall              takes daemon, Swarm (where this script made it), firewall and code back;
                           Docker, images, configuration and state stay
  --purge                  with --uninstall: configuration and state, jobs' history too, go as well
  --help                   this

Proxies and pip's settings are taken from the environment. Log: /var/log/cumulus-manager.log.
Exit code 0: the daemon is healthy; 1: a step failed; 2: wrong usage.
END
}

# --- words ---------------------------------------------------------------------------------------

# To the terminal and to the log. Descriptor 3 is the terminal; steps have the log as their own.
say() {
    printf '%s\n' "$*" >&3
    [ -z "${logging:-}" ] || printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" >>"$LOG"
}
warn() { say "    warning: $*"; }

# fail WHAT [WHY] [WHAT TO DO]
fail() {
    say "manager.sh: $1"
    [ -z "${2:-}" ] || say "    why: $2"
    [ -z "${3:-}" ] || say "    do:  $3"
    [ -z "${logging:-}" ] || say "    log: $LOG; run the same command again to go on from here"
    [ -z "${work:-}" ] || : >"$work/told"
    exit 1
}

wrong() {
    printf 'manager.sh: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf '    do:  %s\n' "$2" >&2
    exit 2
}

# The last $1 lines that programs put into the log.
said_last() { grep -Ev '^[0-9-]+T[0-9:]+Z |^$' "$LOG" | tail -n "$1" | tr '\n' ' '; }

# --- options -------------------------------------------------------------------------------------

read_options() {
    source='' port=50051 advertise='' daemon='' job_image=cumulus-job:latest
    agent_image=cumulus-agent:latest tls_cert='' tls_key='' tls_ca='' plain='' cpu='' dry='' uninstall=''
    purge='' archives=() peers=()
    local words=() earlier=()
    if [ -r "$STATE/options" ]; then mapfile -t words <"$STATE/options"; fi
    case " $* " in *" --forget "*) words=() ;; esac
    parse_options ${words[@]+"${words[@]}"}
    earlier=(${peers[@]+"${peers[@]}"}) peers=()
    parse_options "$@"
    [ "${#peers[@]}" -gt 0 ] || peers=(${earlier[@]+"${earlier[@]}"})
    if [ -n "$purge" ] && [ -z "$uninstall" ]; then wrong "--purge goes with --uninstall"; fi
    [ -n "$uninstall" ] || check_options
}

# What holds for the next run too, a word a line.
options_to_keep() {
    local peer
    printf '%s\n' --port "$port" --job-image "$job_image" --agent-image "$agent_image"
    [ -z "$advertise" ] || printf '%s\n' --advertise-addr "$advertise"
    [ -z "$daemon" ] || printf '%s\n' --daemon-addr "$daemon"
    [ -z "$tls_cert" ] || printf '%s\n' --tls-cert "$tls_cert" --tls-key "$tls_key"
    [ -z "$tls_ca" ] || printf '%s\n' --tls-ca "$tls_ca"
    [ -z "$plain" ] || printf '%s\n' --plain
    [ -z "$cpu" ] || printf '%s\n' --count-cpu-devices
    for peer in ${peers[@]+"${peers[@]}"}; do printf '%s\n' --peer "$peer"; done
}

parse_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --forget) ;; # has been looked for before all others
            --plain) plain=yes ;;
            --count-cpu-devices) cpu=yes ;;
            --dry-run) dry=yes ;;
            --uninstall) uninstall=yes ;;
            --purge) purge=yes ;;
            --help | -h)
                usage
                exit 0
                ;;
            --source | --port | --advertise-addr | --daemon-addr | --load | --job-image | --agent-image | \
                --tls-cert | --tls-key | --tls-ca | --peer)
                if [ $# -lt 2 ] || [ -z "$2" ]; then wrong "$1 needs a value" "manager.sh --help"; fi
                case $1 in
                    --source) source=$2 ;;
                    --port) port=$2 ;;
                    --advertise-addr) advertise=$2 ;;
                    --daemon-addr) daemon=$2 ;;
                    --load) archives+=("$2") ;;
                    --job-image) job_image=$2 ;;
                    --agent-image) agent_image=$2 ;;
                    --tls-cert) tls_cert=$2 ;;
                    --tls-key) tls_key=$2 ;;
                    --tls-ca) tls_ca=$2 ;;
                    --peer) peers+=("$2") ;;
                esac
                shift
                ;;
            *) wrong "unknown option $1" "manager.sh --help" ;;
        esac
        shift
    done
}

is_port() { [[ $1 =~ ^[0-9]{1,5}$ ]] && ((10#$1 >= 1 && 10#$1 <= 65535)); }

check_options() {
    local octet='(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])' peer file
    local ip="$octet\\.$octet\\.$octet\\.$octet"
    is_port "$port" || wrong "--port takes a port, not '$port'"
    [ "$port" != "$SWARM_PORT" ] || wrong "port $SWARM_PORT is Swarm's; choose another for the daemon"
    [[ -z $advertise || ($advertise =~ ^$ip(:[0-9]{1,5})?$) ]] ||
        wrong "--advertise-addr takes an IPv4 address, or one with a port, not '$advertise'"
    [[ -z $daemon || $daemon =~ ^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$ ]] ||
        wrong "--daemon-addr takes a host name or an IPv4 address, or one with a port, not '$daemon'"
    for file in "$advertise" "$daemon"; do
        if [[ $file == *:* ]] && ! is_port "${file##*:}"; then wrong "'${file##*:}' is no port"; fi
    done
    for file in "$job_image" "$agent_image"; do
        [[ $file =~ ^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}$ ]] || wrong "'$file' is no image's name"
    done
    for peer in ${peers[@]+"${peers[@]}"}; do
        [[ $peer =~ ^$ip(/(3[0-2]|[12]?[0-9]))?$ ]] ||
            wrong "--peer takes an IPv4 network, for example 10.0.0.0/24; not '$peer'"
    done
    for file in ${archives[@]+"${archives[@]}"} "$tls_cert" "$tls_key" "$tls_ca"; do
        [ -z "$file" ] || [ -r "$file" ] || wrong "$file can't be read"
    done
    if [ -n "$tls_cert$tls_key$tls_ca" ]; then
        if [ -z "$tls_cert" ] || [ -z "$tls_key" ]; then
            wrong "--tls-cert and --tls-key go together"
        fi
        [ -z "$plain" ] || wrong "--plain is without TLS, and --tls-cert with it: which?"
    fi
    if [ -z "$source" ]; then
        source=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]:-/}")")")
        [ -e "$source/pyproject.toml" ] ||
            wrong "this script lies in no checkout of Cumulus: what is to be installed?" \
                "--source CHECKOUT, ARCHIVE or WHEEL"
    fi
    [ -e "$source" ] || wrong "--source: there is no $source"
    source=$(readlink -f -- "$source")
    if [ -d "$source" ] && ! [ -e "$source/pyproject.toml" ]; then
        wrong "--source: $source has no pyproject.toml, so it is no checkout of Cumulus"
    fi
}

# --- addresses -----------------------------------------------------------------------------------

# A variable that Vast.ai sets: from the environment (sudo drops it), else from /etc/environment.
vast() {
    local text=${!1:-}
    [ -n "$text" ] || text=$(sed -n "s/^\(export \)\?$1=[\"']\?\([^\"']*\)[\"']\?$/\2/p" "$R/etc/environment" 2>/dev/null | tail -n 1)
    printf '%s' "$text"
}

own_addresses() { ip -4 -o addr show scope global 2>/dev/null | awk '{sub("/.*", "", $4); print $4}'; }

# This machine's address on its way out; without one the first that it has.
own_address() {
    local address
    address=$(ip -4 -o route get 198.51.100.1 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p')
    [ -n "$address" ] || address=$(own_addresses | head -n 1)
    printf '%s' "$address"
}

# Fills in what the options left open.
find_addresses() {
    local public mapped own
    public=$(vast PUBLIC_IPADDR)
    own=$(own_address)
    if [ -z "$advertise" ]; then
        mapped=$(vast "VAST_TCP_PORT_$SWARM_PORT")
        if [ -n "$public" ] && is_port "$mapped"; then advertise=$public:$mapped; else advertise=$own; fi
        [ -n "$advertise" ] || fail "this machine has no IPv4 address" "" "name one: --advertise-addr"
    fi
    [[ $advertise == *:* ]] || advertise=$advertise:$SWARM_PORT
    if [ -z "$daemon" ]; then
        mapped=$(vast "VAST_TCP_PORT_$port")
        if [ -n "$public" ] && is_port "$mapped"; then
            daemon=$public:$mapped
        else
            daemon=${advertise%:*}:$port
        fi
    fi
    [[ $daemon == *:* ]] || daemon=$daemon:$port
}

is_own() { own_addresses | grep -qxF -- "$1"; }

# Of an address behind a mapping: what doesn't pass.
warn_of_mapping() {
    is_own "${advertise%:*}" && return
    warn "the Swarm is advertised as $advertise, which is none of this machine's own addresses ($(own_addresses | tr '\n' ' '))"
    warn "through such a mapping only TCP 2377 passes; Swarm's 7946 (TCP, UDP) and 4789 (UDP) can't be reached there"
    warn "jobs don't need them, but overlay networks and clean node states do: put WireGuard between the nodes, docs/provisioning.md"
}

# --- files ---------------------------------------------------------------------------------------

mark() { printf '%s\n' "${2:-done}" >"$STATE/$1"; }
marked() { [ -e "$STATE/$1" ] && [ "$(cat "$STATE/$1")" = "${2:-done}" ]; }

# write_file PATH MODE GROUP: from stdin, all of it or nothing.
write_file() {
    mkdir -p -- "${1%/*}"
    (umask 077 && cat >"$1.new")
    chgrp "$3" "$1.new"
    chmod "$2" "$1.new"
    mv -f -- "$1.new" "$1"
}

hash_of() { sha256sum -- "$1" | cut -d ' ' -f 1; }

# --- the steps -----------------------------------------------------------------------------------

title_machine() { echo "this machine"; }
plan_machine() {
    echo "looks at release, init and Docker; the Swarm: $advertise, the daemon: $(url)"
    warn_of_mapping
}
done_machine() { false; }
do_machine() {
    local id='' version='' name=''
    # shellcheck disable=SC1091
    [ ! -r "$R/etc/os-release" ] || { . "$R/etc/os-release" && id=${ID:-} version=${VERSION_ID:-} name=${PRETTY_NAME:-}; }
    case $id:$version in
        debian:12 | debian:13 | ubuntu:22.04 | ubuntu:24.04) ;;
        *) fail "this system isn't supported: ${name:-unknown}" "" "use Debian 12 or 13, or Ubuntu 22.04 or 24.04" ;;
    esac
    if ! [ -d "$R/run/systemd/system" ]; then
        if [ -n "$(vast CONTAINER_ID)$(vast VAST_CONTAINERLABEL)" ] || [ -e "$R/.dockerenv" ]; then
            fail "this is a container, in which no Docker engine can run" \
                "a Vast.ai container instance, say: it has no systemd and not the rights that an engine needs" \
                "rent a VM instance, or take any virtual machine; docs/provisioning.md"
        fi
        fail "systemd doesn't run on this machine" "the daemon is a systemd service" "take a machine that boots by systemd"
    fi
    warn_of_mapping
    if [ -n "$plain" ]; then warn "--plain: tokens can be read on the way to $(url)"; fi
}

packages=(docker.io iptables iproute2 openssl curl ca-certificates)
is_installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q '^install ok installed$'; }
# Docker's own packages serve as well as the distribution's.
has_package() { is_installed "$1" || { [ "$1" = docker.io ] && command -v dockerd >/dev/null; }; }
missing_packages() {
    local package
    for package in "${packages[@]}"; do has_package "$package" || echo "$package"; done
    if [ -z "$(find_python)" ]; then
        # Ubuntu 22.04's own is too old, and it has another beside.
        if grep -q '^VERSION_ID="22.04"' "$R/etc/os-release"; then
            printf '%s\n' python3.11 python3.11-venv
        else
            printf '%s\n' python3 python3-venv
        fi
    fi
}
find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, $MIN_PYTHON))" >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
}
apt() { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -y -q "$@"; }

title_packages() { echo "packages"; }
plan_packages() { echo "apt-get install --no-install-recommends $(missing_packages | tr '\n' ' ')"; }
done_packages() { [ -z "$(missing_packages)" ]; }
do_packages() {
    local missing
    mapfile -t missing < <(missing_packages)
    apt update || fail "apt can't get the lists of packages" "$(said_last 2)" "look at network, proxy and /etc/apt/sources.list"
    apt install --no-install-recommends "${missing[@]}" ||
        fail "apt can't install ${missing[*]}" "$(said_last 2)" "mend that (dpkg --configure -a, apt-get -f install)"
    [ -n "$(find_python)" ] || fail "there is no Python 3.$MIN_PYTHON or newer" "" "install one, with its venv"
}

info() { docker info --format "{{$1}}" 2>/dev/null; }

title_engine() { echo "Docker"; }
plan_engine() { echo "systemctl enable --now docker"; }
done_engine() { systemctl is-enabled --quiet docker && [ -n "$(info .ServerVersion)" ]; }
do_engine() {
    systemctl enable --now docker || true
    local tries
    for tries in $(seq 60); do
        [ -z "$(info .ServerVersion)" ] || return 0
        sleep 1
    done
    fail "Docker doesn't answer after $tries s" "$(journalctl -u docker -n 3 --no-pager -o cat 2>/dev/null | tr '\n' ' ')" "journalctl -u docker"
}

title_swarm() { echo "the Swarm"; }
plan_swarm() { echo "docker swarm init --advertise-addr $advertise --listen-addr 0.0.0.0:$SWARM_PORT --data-path-addr $(own_address)"; }
done_swarm() { [ "$(info .Swarm.ControlAvailable)" = true ]; }
do_swarm() {
    local state said
    state=$(info .Swarm.LocalNodeState)
    [ "$state" = inactive ] ||
        fail "this machine is in a Swarm already, and no manager of it (state: $state)" "" \
            "promote it there (docker node promote), or leave: docker swarm leave"
    [ "$(info .LiveRestoreEnabled)" != true ] ||
        fail "Docker's live-restore is on, which Swarm doesn't bear" "" "take it out of /etc/docker/daemon.json, and restart Docker"
    mark swarm.made
    said=$(docker swarm init --advertise-addr "$advertise" --listen-addr "0.0.0.0:$SWARM_PORT" --data-path-addr "$(own_address)" 2>&1) ||
        { rm -f "$STATE/swarm.made" && fail "the Swarm can't be made" "$said" "is port $SWARM_PORT free? is --advertise-addr right?"; }
}

title_user() { echo "user and folders"; }
plan_user() { echo "the system user cumulusd; $CONFIG, $DATA"; }
done_user() { id -u cumulusd >/dev/null 2>&1 && [ -d "$CONFIG" ] && [ -d "$DATA" ]; }
do_user() {
    id -u cumulusd >/dev/null 2>&1 ||
        useradd --system --user-group --home-dir /var/lib/cumulusd --no-create-home --shell /usr/sbin/nologin cumulusd
    install -d -m 750 -o root -g cumulusd "$CONFIG"
    install -d -m 700 -o cumulusd -g cumulusd "$DATA"
}

title_code() { echo "Cumulus in $VENV"; }
plan_code() { echo "pip install the extra 'daemon' of $source"; }
done_code() { false; }
do_code() {
    local wheel digest
    mkdir -p "$STATE/wheel"
    rm -f "$STATE"/wheel/*
    [ -x "$VENV/bin/python" ] || "$(find_python)" -m venv "$VENV" ||
        fail "no virtual environment can be made in $VENV" "$(said_last 1)" "is python3-venv there, and room on the disk?"
    if [[ $source == *.whl ]]; then
        cp -- "$source" "$STATE/wheel/"
    else
        "$VENV/bin/python" -m pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir "$STATE/wheel" "$source" ||
            fail "$source can't be built" "$(said_last 2)" "is it a whole checkout, and does pip reach its index?"
    fi
    wheel=$(find "$STATE/wheel" -name '*.whl')
    digest=$(hash_of "$wheel")
    if marked code "$digest" && [ -x "$VENV/bin/cumulusd" ]; then
        say "        this version is there already"
        return
    fi
    rm -f "$STATE/code"
    # The second time for a version that is there already, in another build.
    if ! "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet "${wheel}[daemon]" ||
        ! "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --force-reinstall "$wheel"; then
        fail "Cumulus can't be installed" "$(said_last 2)" "does pip reach its index? PIP_INDEX_URL, PIP_CERT and proxies are honoured"
    fi
    mark code "$digest"
    : >"$STATE/restart"
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }
# Which images are to be built: those of our own names that nothing else brought.
to_build() {
    local one
    [ -d "$source" ] || return 0
    [ "${#archives[@]}" = 0 ] || return 0
    for one in job agent; do
        case $job_image:$agent_image: in *"cumulus-$one:latest:"*) ;; *) continue ;; esac
        if [ -e "$STATE/images.built" ] || ! has_image "cumulus-$one:latest"; then echo "$one"; fi
    done
}
# What images are built from: the code, and their recipe.
recipe() { echo "$(cat "$STATE/code" 2>/dev/null) $(cd -- "$source/images" && find . -type f ! -name '*.pyc' -exec sha256sum {} + | sort | sha256sum)"; }

title_images() { echo "images"; }
plan_images() {
    local one
    for one in ${archives[@]+"${archives[@]}"}; do echo "docker load --input $one"; done
    for one in $(to_build); do echo "$source/images/build $one; docker load"; done
    for one in "$job_image" "$agent_image"; do echo "$one: pulled where it isn't here"; done
}
done_images() { [ "${#archives[@]}" = 0 ] && has_image "$job_image" && has_image "$agent_image" && { [ -z "$(to_build)" ] || marked images.built "$(recipe)"; }; }
do_images() {
    local one said built
    built=$(to_build)
    for one in ${archives[@]+"${archives[@]}"}; do
        docker load --input "$one" || fail "the image archive $one can't be loaded" "$(said_last 1)" "is it whole, and is there room on the disk?"
    done
    for one in $built; do
        PYTHON=$(find_python) "$(find_python)" "$source/images/build" "$one" --output "$STATE/images" ||
            fail "the $one image can't be built" "$(said_last 2)" "images/README.md; or load one: --load FILE"
        docker load --input "$STATE/images/cumulus-$one.tar" || fail "the $one image can't be loaded" "$(said_last 1)" "is there room on the disk?"
        rm -f "$STATE/images/cumulus-$one.tar"
    done
    for one in "$job_image" "$agent_image"; do
        has_image "$one" || said=$(docker pull --quiet "$one" 2>&1) ||
            fail "there is no image $one" "$said" "--load FILE, or the name of one that this machine can pull"
    done
    [ -z "$built" ] || mark images.built "$(recipe)"
    : >"$STATE/restart" # names may stand for other images now
}

san() {
    local name
    for name in "${daemon%:*}" "${advertise%:*}" "$(own_address)" 127.0.0.1; do
        if [[ $name =~ ^[0-9.]+$ ]]; then echo "IP:$name"; else echo "DNS:$name"; fi
    done | sort -u
    printf 'DNS:%s\n' localhost "$(hostname)"
}
openssl_san() { san | awk '!seen[$0]++' | paste -sd , -; }

title_tls() { echo "TLS"; }
plan_tls() {
    if [ -n "$plain" ]; then
        echo "none (--plain)"
    elif [ -n "$tls_cert" ]; then
        echo "takes over $tls_cert and $tls_key"
    else
        echo "a CA of its own, and a certificate for $(openssl_san), in $CONFIG/tls"
    fi
}
done_tls() {
    [ -z "$plain" ] || return 0
    [ -z "$tls_cert" ] && marked tls "$(openssl_san)" &&
        openssl x509 -in "$CONFIG/tls/cert.pem" -noout -checkend $((RENEW_DAYS * 86400))
}
do_tls() {
    local folder=$CONFIG/tls
    install -d -m 750 -o root -g cumulusd "$folder"
    if [ -n "$tls_cert" ]; then
        [ "$(openssl x509 -in "$tls_cert" -noout -pubkey)" = "$(openssl pkey -in "$tls_key" -pubout)" ] ||
            fail "$tls_key is not the key of $tls_cert" "" "name the two that belong together"
        write_file "$folder/cert.pem" 640 cumulusd <"$tls_cert"
        write_file "$folder/key.pem" 640 cumulusd <"$tls_key"
        rm -f "$folder/ca.pem"
        [ -z "$tls_ca" ] || write_file "$folder/ca.pem" 644 cumulusd <"$tls_ca"
        mark tls given
        return
    fi
    if ! [ -e "$folder/ca.key" ]; then
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "$DAYS_CA" \
            -subj "/CN=Cumulus CA of $(hostname)" -addext basicConstraints=critical,CA:TRUE,pathlen:0 \
            -addext keyUsage=critical,keyCertSign,cRLSign -keyout "$work/ca.key" -out "$work/ca.pem"
        write_file "$folder/ca.pem" 644 cumulusd <"$work/ca.pem"
        write_file "$folder/ca.key" 600 root <"$work/ca.key"
    fi
    # The key stays when the certificate is renewed: workers know the daemon by it.
    if ! [ -e "$folder/key.pem" ] || marked tls given; then
        openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/key.pem"
        write_file "$folder/key.pem" 640 cumulusd <"$work/key.pem"
    fi
    openssl req -new -key "$folder/key.pem" -subj "/CN=Cumulus" -out "$work/request.pem"
    printf '%s\n' "subjectAltName=$(openssl_san)" basicConstraints=critical,CA:FALSE \
        keyUsage=critical,digitalSignature extendedKeyUsage=serverAuth >"$work/extensions"
    openssl x509 -req -in "$work/request.pem" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" \
        -set_serial "0x$(openssl rand -hex 16)" -days "$DAYS" -extfile "$work/extensions" -out "$work/cert.pem"
    cat "$work/cert.pem" "$folder/ca.pem" | write_file "$folder/cert.pem" 640 cumulusd
    mark tls "$(openssl_san)"
    : >"$STATE/restart"
}

url() { if [ -n "$plain" ]; then echo "http://$daemon"; else echo "https://$daemon"; fi; }

# $1: the SHA-256 of the first administrator's token.
configuration() {
    local scheme=wss ca=null
    [ ! -e "$CONFIG/tls/ca.pem" ] && [ -n "$tls_cert" ] && [ -z "$tls_ca" ] || ca=/etc/cumulus/tls/ca.pem
    echo "# Made by provision/manager.sh, which leaves it alone once it has been changed by hand."
    echo "listen:"
    if [ -n "$plain" ]; then
        scheme=ws ca=null
        echo "  - tcp:$port"
        echo "allow_plain_tokens: true   # --plain"
    else
        echo "  - ssl:$port:privateKey=/etc/cumulus/tls/key.pem:certKey=/etc/cumulus/tls/cert.pem"
    fi
    cat <<END
state_dir: /var/lib/cumulusd
platform:
  type: swarm
  swarm:
    endpoint: unix:///var/run/docker.sock
    agent_image: $agent_image
    advertise_url: $scheme://$daemon
    advertise_ca: $ca
    worker_root: /var/lib/cumulus
    count_cpu_devices: $(if [ -n "$cpu" ]; then echo true; else echo false; fi)
jobs:
  image: $job_image
tokens:
  - {name: admin, owner: admin, role: admin, token_sha256: $1}
END
}

title_configuration() { echo "configuration"; }
plan_configuration() {
    echo "writes $CONFIG/cumulusd.yaml:"
    configuration "(of $CONFIG/admin.token, made once)" | sed 's/^/    /'
}
done_configuration() { false; }
do_configuration() {
    local file=$CONFIG/cumulusd.yaml said
    [ -e "$CONFIG/admin.token" ] || openssl rand -hex 32 | write_file "$CONFIG/admin.token" 600 root
    configuration "$(tr -d '\n' <"$CONFIG/admin.token" | sha256sum | cut -d ' ' -f 1)" >"$work/cumulusd.yaml"
    if [ -e "$file" ] && ! marked configuration "$(hash_of "$file")"; then
        cmp -s "$file" "$work/cumulusd.yaml" || warn "$file was changed by hand, and is left as it is; what this run would write: $STATE/cumulusd.yaml.new"
        write_file "$STATE/cumulusd.yaml.new" 600 root <"$work/cumulusd.yaml"
    elif ! cmp -s "$file" "$work/cumulusd.yaml"; then
        write_file "$file" 640 cumulusd <"$work/cumulusd.yaml"
        mark configuration "$(hash_of "$file")"
        : >"$STATE/restart"
    fi
    said=$(as_daemon check-config "$CONFIG/cumulusd.yaml" 2>&1) || fail "the configuration has faults" "$said" "mend $file"
    echo "$said"
}

as_daemon() { runuser -u cumulusd -- "$VENV/bin/cumulusd" "$@"; }

# units_folder: of the checkout, else of the installed package.
units_folder() {
    if [ -e "$source/systemd/cumulusd.service" ]; then
        echo "$source/systemd"
    else
        "$VENV/bin/python" -c 'import cumulusd, pathlib; print(pathlib.Path(cumulusd.__file__).parent / "systemd")'
    fi
}

title_units() { echo "systemd units"; }
plan_units() { echo "cumulusd.service with the drop-in for Swarm; systemctl enable cumulusd"; }
done_units() { false; }
do_units() {
    local folder
    folder=$(units_folder)
    [ -r "$folder/cumulusd.service" ] || fail "Cumulus came without its systemd units" "$folder has no cumulusd.service" "take a whole checkout, or a released wheel"
    for name in "cumulusd.service:cumulusd.service" "dropins/swarm.conf:cumulusd.service.d/swarm.conf"; do
        if ! cmp -s "$folder/${name%%:*}" "$UNITS/${name##*:}"; then
            write_file "$UNITS/${name##*:}" 644 root <"$folder/${name%%:*}"
            : >"$STATE/restart"
        fi
    done
    systemctl daemon-reload
    systemctl --quiet enable cumulusd.service
}

# The rules' own script: beside this one, of the daemon that served this one, of the package.
firewall_script() {
    local beside packaged
    beside=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]:-/}")")/firewall.sh
    packaged=$("$VENV/bin/python" -c 'import cumulusd, pathlib; print(pathlib.Path(cumulusd.__file__).parent / "provision/firewall.sh")')
    if [ -r "$beside" ]; then
        echo "$beside"
    elif [ -r "$source/provision/firewall.sh" ]; then
        echo "$source/provision/firewall.sh"
    elif [ -r "$packaged" ]; then
        echo "$packaged"
    elif [ -n "$ORCHESTRATOR_URL" ]; then
        local pin=()
        [ -z "$ORCHESTRATOR_FINGERPRINT" ] || pin=(--insecure --pinnedpubkey "$ORCHESTRATOR_FINGERPRINT")
        curl -fsS --max-time 60 ${pin[@]+"${pin[@]}"} -o "$work/firewall.sh" "$ORCHESTRATOR_URL/provision/firewall.sh" && echo "$work/firewall.sh"
    fi
}
firewall_options() {
    local peer
    printf '%s\n' --open "$port"
    if [ "${#peers[@]}" = 0 ]; then printf '%s\n' --open "$SWARM_PORT"; fi
    for peer in ${peers[@]+"${peers[@]}"}; do printf '%s\n' --peer "$peer"; done
}

title_firewall() { echo "firewall"; }
plan_firewall() { echo "firewall.sh install $(firewall_options | tr '\n' ' ')"; }
done_firewall() { false; }
do_firewall() {
    local script options
    script=$(firewall_script)
    [ -n "$script" ] || fail "provision/firewall.sh is missing" "" "take a whole checkout as --source"
    mapfile -t options < <(firewall_options)
    bash "$script" install "${options[@]}" || fail "the firewall's rules can't be applied" "$(said_last 1)" "iptables -S; is another firewall in the way?"
}

title_daemon() { echo "the daemon"; }
plan_daemon() { echo "systemctl restart cumulusd where something changed; waits until it is healthy (at most $HEALTH_S s)"; }
done_daemon() { false; }
do_daemon() {
    local began=$SECONDS scheme=https answer=''
    [ -z "$plain" ] || scheme=http
    # Its answers are told below; a unit that fails at once is seen there too.
    if [ -e "$STATE/restart" ]; then systemctl restart cumulusd.service || true; else systemctl start cumulusd.service || true; fi
    while [ $((SECONDS - began)) -lt "$HEALTH_S" ]; do
        # This machine itself answers there: its certificate may be made out to other names.
        if answer=$(curl --silent --insecure --max-time 10 --write-out '\n%{http_code}' "$scheme://127.0.0.1:$port/health") && [ "${answer##*$'\n'}" = 200 ]; then
            rm -f "$STATE/restart"
            return
        fi
        ! systemctl is-failed --quiet cumulusd.service || break
        sleep 1
    done
    case $answer in
        '' | *000) answer="it doesn't answer: $(journalctl -u cumulusd -n 5 --no-pager -o cat 2>/dev/null | tr '\n' ' ')" ;;
    esac
    fail "the daemon isn't healthy" "$answer" "journalctl -u cumulusd"
}

# --- taking it back ------------------------------------------------------------------------------

title_daemon_off() { echo "the daemon"; }
plan_daemon_off() { echo "systemctl disable --now cumulusd; removes its units"; }
do_daemon_off() {
    if [ -e "$UNITS/cumulusd.service" ]; then
        systemctl disable --now cumulusd.service || fail "the daemon can't be stopped" "$(said_last 1)" "systemctl status cumulusd"
    fi
    rm -rf -- "$UNITS/cumulusd.service" "$UNITS/cumulusd.service.d"
    systemctl daemon-reload
}

title_swarm_off() { echo "the Swarm"; }
plan_swarm_off() { if [ -e "$STATE/swarm.made" ]; then echo "docker swarm leave --force"; else echo "stays: manager.sh did not make it"; fi; }
do_swarm_off() {
    marked swarm.made || return 0
    local others
    if [ "$(info .Swarm.ControlAvailable)" = true ]; then
        others=$(docker node ls --format '{{.Self}} {{.Status}} {{.Hostname}}' | awk '$1 == "false" && $2 == "Ready" {print $3}' | tr '\n' ' ')
        [ -z "${others// /}" ] || fail "nodes are in the Swarm still: $others" "" "\`worker.sh --uninstall\` there, or \`docker node rm --force NAME\` here"
        docker swarm leave --force || fail "the Swarm can't be left" "$(said_last 1)" "docker swarm leave --force"
    fi
    rm -f "$STATE/swarm.made"
}

title_firewall_off() { echo "firewall"; }
plan_firewall_off() { echo "firewall.sh uninstall"; }
do_firewall_off() {
    [ -e "$LIB/firewall.sh" ] || return 0
    bash "$LIB/firewall.sh" uninstall || fail "the firewall's rules can't be taken back" "$(said_last 1)" "iptables -S | grep CUMULUS shows them"
}

title_files_off() { echo "files"; }
plan_files_off() { echo "removes $VENV${purge:+, $CONFIG, $DATA and the user cumulusd}"; }
do_files_off() {
    rm -rf -- "$VENV"
    rmdir -- "${VENV%/*}" 2>/dev/null || true # others' files may be in there
    if [ -n "$purge" ]; then
        rm -rf -- "$CONFIG" "$DATA"
        ! id -u cumulusd >/dev/null 2>&1 || userdel cumulusd
        rm -rf -- "$STATE"
    else
        rm -rf -- "$STATE/code" "$STATE/wheel" "$STATE/images"
    fi
}

# --- one after the other -------------------------------------------------------------------------

run_step() {
    local name=$1 number=$2 of=$3 began=$SECONDS code
    if [ -z "$uninstall" ] && "done_$name" >>"$LOG" 2>&1; then
        say "[$number/$of] $("title_$name"): already so"
        return
    fi
    say "[$number/$of] $("title_$name")"
    rm -f "$work/told"
    set +e
    (
        set -e
        "do_$name"
    ) >>"$LOG" 2>&1
    code=$?
    set -e
    if [ "$code" != 0 ]; then
        [ -e "$work/told" ] ||
            (fail "failed: $("title_$name") (exit code $code)" "$(said_last 3)" "look at the log") || true
        exit 1
    fi
    say "        done ($((SECONDS - began)) s)"
}

show_steps() {
    local name number=0
    say "manager.sh --dry-run: nothing is changed"
    for name in "$@"; do
        number=$((number + 1))
        if [ -z "$uninstall" ] && "done_$name" >/dev/null 2>&1; then
            say "[$number/$#] $("title_$name"): already so"
        else
            say "[$number/$#] $("title_$name")"
            "plan_$name" | while IFS= read -r line; do say "        $line"; done
        fi
    done
}

main() {
    local name number=0 steps keep
    exec 3>&2
    umask 022
    read_options "$@"
    if [ -n "$uninstall" ]; then steps=("${UNDO[@]}"); else steps=("${STEPS[@]}"); fi
    work=$(mktemp -d)
    trap 'rm -rf -- "$work"' EXIT
    trap 'say "manager.sh: interrupted; run the same command again to go on"; exit 130' INT TERM HUP
    keep=$(options_to_keep)
    if [ -z "$uninstall" ]; then find_addresses; fi
    if [ -n "$dry" ]; then
        show_steps "${steps[@]}"
        return
    fi
    [ "$(id -u)" = 0 ] || fail "this needs root" "this is user $(id -un)" "sudo -E provision/manager.sh …"
    mkdir -p "$STATE" "${LOG%/*}"
    chmod 700 "$STATE"
    exec 9>"$STATE/lock"
    flock -n 9 || fail "another manager.sh runs on this machine" "" "wait for it, or end it"
    (umask 077 && : >>"$LOG")
    logging=yes
    printf '\n%s manager.sh %s\n' "$(date -u +%FT%TZ)" "${uninstall:+--uninstall}" >>"$LOG"
    [ -n "$uninstall" ] || (umask 077 && printf '%s\n' "$keep" >"$STATE/options")
    for name in "${steps[@]}"; do
        number=$((number + 1))
        run_step "$name" "$number" "${#steps[@]}"
    done
    if [ -n "$uninstall" ]; then
        say "the daemon is gone from this machine ($SECONDS s); Docker and its images stay"
        [ -n "$purge" ] || say "configuration and state stay: $CONFIG, $DATA (--purge removes them)"
        return
    fi
    say "the daemon is up: $(url) ($SECONDS s)"
    say "    the administrator's token: $CONFIG/admin.token; clients' tokens: cumulusd token create, docs/operations.md"
    [ ! -e "$CONFIG/tls/ca.pem" ] || [ -n "$plain" ] || say "    clients know it by $CONFIG/tls/ca.pem"
    say "    a worker's token and its command: sudo -u cumulusd $VENV/bin/cumulusd provision-token create --config $CONFIG/cumulusd.yaml"
}

# All of it is read before anything runs, also from a pipe; and no program reads the script as input.
main "$@" </dev/null
exit
