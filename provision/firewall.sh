#!/usr/bin/env bash
# provision/firewall.sh: what job containers of this node may reach, and who reaches Swarm's ports.
#
#   install [OPTION]...  applies, and again at each boot and each start of Docker: copies itself to
#                        /usr/local/lib/cumulus, keeps the options in /etc/cumulus/firewall.options
#   uninstall            takes rules, options, unit and copy back
#   apply [OPTION]...    applies now; the rules don't outlive a reboot
#   restore              applies with the options that `install` kept; tries it four times
#   remove               takes the rules back
#   status               shows the rules; exit code 0 when they are in force, 1 when not
#   unit                 prints the systemd unit that `install` writes
#
# Options, each as often as needed:
#   --daemon ADDR:PORT  the Cumulus daemon: jobs don't reach it (agents, on the host's network, do)
#   --deny CIDR         addresses that jobs don't reach: the private ones of manager and workers, say
#   --dns ADDR          a name server that jobs reach although it lies in what is denied, or on this host
#   --bridge NAME       a further bridge of job containers (NAME+ for all that begin so); always there
#                       are docker0, docker_gwbridge and br-+
#   --peer CIDR         who reaches this host's ports of Swarm and Docker; with one, nobody else does
#   --open PORT         a TCP port of this host that all reach, whoever the peers are
#
# From those bridges nothing reaches this host itself nor, on any host, the ports of Docker and Swarm
# (2375, 2376, 2377, 4789, 7946). What else is not denied goes: the package index, for example.
# Answers to connections that others opened go too. Over IPv6, for which nothing can be named here, jobs
# open no connection to anybody; Docker gives containers none unless it is told to. Safe to repeat: apply
# replaces what it made before.
# A provider's own firewall stands before this one, and is to let the same in.
set -euo pipefail

readonly FORWARD=CUMULUS-FORWARD INPUT=CUMULUS-INPUT JOB_OUT=CUMULUS-JOB-OUT JOB_HOST=CUMULUS-JOB-HOST

say() { printf 'firewall: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 2
}
usage() { fail "usage: firewall.sh install|apply [--daemon ADDR:PORT] [--deny CIDR] [--dns ADDR] [--bridge NAME] [--peer CIDR] [--open PORT] | restore | uninstall | remove | status | unit"; }

readonly COPY=/usr/local/lib/cumulus/firewall.sh OPTIONS=/etc/cumulus/firewall.options
readonly UNIT=/etc/systemd/system/cumulus-firewall.service

[ $# -ge 1 ] || usage
action=$1
shift
if [ "$action" = restore ]; then
    [ $# = 0 ] || usage
    [ -r "$OPTIONS" ] || fail "$OPTIONS is not there: \`firewall.sh install\` writes it"
    mapfile -t kept <"$OPTIONS"
    # At a boot Docker stays down without them, and others change rules as well: not by one failure.
    for pause_s in 1 3 9; do
        ! bash -- "${BASH_SOURCE[0]}" apply ${kept[@]+"${kept[@]}"} || exit 0
        say "the rules could not be applied; trying again in $pause_s s"
        sleep "$pause_s"
    done
    set -- ${kept[@]+"${kept[@]}"}
    action=apply
fi
given=("$@")
daemons=() denied=() servers=() bridges=(docker0 docker_gwbridge br-+) peers=() opened=()

octet='(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])'
address="$octet\\.$octet\\.$octet\\.$octet"

is_port() { [[ $1 =~ ^[0-9]{1,5}$ ]] && ((10#$1 >= 1 && 10#$1 <= 65535)); }

while [ $# -gt 0 ]; do
    case $action in apply | install) [ $# -ge 2 ] || usage ;; *) usage ;; esac
    case $1 in
        --daemon)
            if ! [[ ${2%:*} =~ ^$address$ && $2 == *:* ]] || ! is_port "${2##*:}"; then
                fail "--daemon takes an IPv4 address and a port, for example 10.0.0.5:50051; not '$2'"
            fi
            daemons+=("$2")
            ;;
        --deny)
            [[ $2 =~ ^$address(/(3[0-2]|[12]?[0-9]))?$ ]] ||
                fail "--deny takes an IPv4 network, for example 10.0.0.0/24; not '$2'"
            denied+=("$2")
            ;;
        --dns)
            [[ $2 =~ ^$address$ ]] || fail "--dns takes an IPv4 address, not '$2'"
            servers+=("$2")
            ;;
        --bridge)
            [[ $2 =~ ^[A-Za-z0-9_.-]{1,15}\+?$ ]] || fail "--bridge takes a link's name, not '$2'"
            bridges+=("$2")
            ;;
        --peer)
            [[ $2 =~ ^$address(/(3[0-2]|[12]?[0-9]))?$ ]] ||
                fail "--peer takes an IPv4 network or address, for example 10.0.0.0/24; not '$2'"
            peers+=("$2")
            ;;
        --open)
            is_port "$2" || fail "--open takes a TCP port, for example 50051; not '$2'"
            opened+=("$2")
            ;;
        *) usage ;;
    esac
    shift 2
done

# Text of the systemd unit; systemd/cumulus-firewall.service is the same.
unit() {
    cat <<'END'
# Before Docker, whose containers' jobs it holds off; and again with each of Docker's starts. Docker
# doesn't start where the rules can't be applied.
# Written by provision/firewall.sh install.
[Unit]
Description=What Cumulus' job containers may reach, and who reaches Swarm
After=network-pre.target nftables.service ufw.service firewalld.service
Before=docker.service
PartOf=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/lib/cumulus/firewall.sh restore
# A restart would be one of Docker, too, and the end of what runs in its containers.
ExecReload=/usr/local/lib/cumulus/firewall.sh restore
TimeoutStartSec=120

[Install]
WantedBy=multi-user.target
RequiredBy=docker.service
END
}

if [ "$action" = unit ]; then
    unit
    exit 0
fi

[ "$(id -u)" = 0 ] || fail "this needs root"
command -v iptables >/dev/null || fail "iptables is not installed; on Debian: apt-get install iptables"

# Waits for others who change rules.
v4() { iptables -w 20 "$@"; }
v6() { ip6tables -w 20 "$@"; }
# Is there IPv6, and a tool for its rules?
has_v6() { [ -e /proc/net/if_inet6 ] && command -v ip6tables >/dev/null && v6 -S INPUT >/dev/null 2>&1; }

has_chain() { "$1" -S "$2" >/dev/null 2>&1; }

# The rules of our own chains, as iptables-restore reads them; $1 is v4 or v6. Naming a chain empties
# it, and all of it takes effect at once.
own_chains() {
    local bridge server daemon network protocol port
    printf '%s\n' '*filter' ":$INPUT - [0:0]" ":$JOB_HOST - [0:0]" ":$FORWARD - [0:0]" ":$JOB_OUT - [0:0]"
    for bridge in "${bridges[@]}"; do
        printf -- '-A %s -i %s -g %s\n' "$INPUT" "$bridge" "$JOB_HOST"
        printf -- '-A %s -i %s -g %s\n' "$FORWARD" "$bridge" "$JOB_OUT"
    done

    # To this host, from others: Swarm's and Docker's ports.
    for port in ${opened[@]+"${opened[@]}"}; do
        printf -- '-A %s -p tcp --dport %s -j ACCEPT\n' "$INPUT" "$port"
    done
    if [ "${#peers[@]}" -gt 0 ]; then
        printf -- '-A %s -i lo -j RETURN\n' "$INPUT"
        if [ "$1" = v4 ]; then
            for network in "${peers[@]}"; do
                printf -- '-A %s -s %s -p tcp -m multiport --dports 2376,2377,7946 -j ACCEPT\n' "$INPUT" "$network"
                printf -- '-A %s -s %s -p udp -m multiport --dports 4789,7946 -j ACCEPT\n' "$INPUT" "$network"
            done
        fi
        printf -- '-A %s -p tcp -m multiport --dports 2375,2376,2377,7946 -j DROP\n' "$INPUT"
        printf -- '-A %s -p udp -m multiport --dports 4789,7946 -j DROP\n' "$INPUT"
    fi

    # To this host, from jobs: answers and names.
    printf -- '-A %s -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\n' "$JOB_HOST"
    if [ "$1" = v4 ]; then
        for server in ${servers[@]+"${servers[@]}"}; do
            for protocol in udp tcp; do
                printf -- '-A %s -d %s -p %s --dport 53 -j RETURN\n' "$JOB_HOST" "$server" "$protocol"
            done
        done
    fi
    printf -- '-A %s -j DROP\n' "$JOB_HOST"

    # Through this host to others.
    printf -- '-A %s -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\n' "$JOB_OUT"
    if [ "$1" = v6 ]; then
        printf -- '-A %s -j DROP\n' "$JOB_OUT"
    else
        for server in ${servers[@]+"${servers[@]}"}; do
            for protocol in udp tcp; do
                printf -- '-A %s -d %s -p %s --dport 53 -j RETURN\n' "$JOB_OUT" "$server" "$protocol"
            done
        done
        printf -- '-A %s -p tcp -m multiport --dports 2375,2376,2377,7946 -j DROP\n' "$JOB_OUT"
        printf -- '-A %s -p udp -m multiport --dports 4789,7946 -j DROP\n' "$JOB_OUT"
        for daemon in ${daemons[@]+"${daemons[@]}"}; do
            printf -- '-A %s -d %s -p tcp --dport %s -j DROP\n' "$JOB_OUT" "${daemon%:*}" "${daemon##*:}"
        done
        for network in ${denied[@]+"${denied[@]}"}; do
            printf -- '-A %s -d %s -j DROP\n' "$JOB_OUT" "$network"
        done
    fi
    printf 'COMMIT\n'
}

# Has chain $2 its jump to $3 as its first rule? $1 is v4 or v6.
is_first() { [ "$("$1" -S "$2" 2>/dev/null | grep -m 1 '^-A')" = "-A $2 -j $3" ]; }

# Makes it so: first the new jump, then the old ones go, so that there is always one.
jump_first() {
    local number
    is_first "$@" && return
    "$1" -I "$2" 1 -j "$3"
    while number=$("$1" -L "$2" -n --line-numbers | awk -v chain="$3" '$2 == chain && $1 > 1 {print $1; exit}') &&
        [ -n "$number" ]; do
        "$1" -D "$2" "$number"
    done
}

unjump() {
    while "$1" -C "$2" -j "$3" 2>/dev/null; do
        "$1" -D "$2" -j "$3"
    done
}

remove_chains() {
    local tool=$1 chain
    shift
    for chain in "$@"; do
        ! has_chain "$tool" "$chain" || "$tool" -F "$chain"
    done
    for chain in "$@"; do
        ! has_chain "$tool" "$chain" || "$tool" -X "$chain"
    done
}

apply() {
    own_chains v4 | iptables-restore -w 20 --noflush
    # Docker takes over this chain where it is there, and never changes what is in it.
    has_chain v4 DOCKER-USER || v4 -N DOCKER-USER
    jump_first v4 DOCKER-USER "$FORWARD"
    jump_first v4 INPUT "$INPUT"
    if has_v6; then
        own_chains v6 | ip6tables-restore -w 20 --noflush
        jump_first v6 INPUT "$INPUT"
        # By both: only where Docker filters IPv6 it goes through DOCKER-USER, which then comes first.
        has_chain v6 DOCKER-USER || v6 -N DOCKER-USER
        jump_first v6 DOCKER-USER "$FORWARD"
        jump_first v6 FORWARD "$FORWARD"
    fi
    say "applied: job containers reach neither this host nor ${daemons[*]:-(no daemon given)} ${denied[*]:-}"
}

# Takes DOCKER-USER away when it is ours, and there is no Docker that uses it. $1 is v4 or v6.
remove_docker_user() {
    if has_chain "$1" DOCKER-USER && ! "$1" -S | grep -q -- '-j DOCKER-USER$' &&
        ! "$1" -S DOCKER-USER | grep -q '^-A'; then
        "$1" -X DOCKER-USER
    fi
}

remove() {
    unjump v4 INPUT "$INPUT"
    ! has_chain v4 DOCKER-USER || unjump v4 DOCKER-USER "$FORWARD"
    remove_chains v4 "$INPUT" "$FORWARD" "$JOB_HOST" "$JOB_OUT"
    remove_docker_user v4
    if has_v6; then
        unjump v6 INPUT "$INPUT"
        unjump v6 FORWARD "$FORWARD"
        ! has_chain v6 DOCKER-USER || unjump v6 DOCKER-USER "$FORWARD"
        remove_chains v6 "$INPUT" "$FORWARD" "$JOB_HOST" "$JOB_OUT"
        remove_docker_user v6
    fi
    say "removed"
}

status() {
    local in_force=0
    if ! is_first v4 INPUT "$INPUT"; then
        say "not in force: INPUT doesn't begin with a jump to $INPUT"
        in_force=1
    fi
    if ! is_first v4 DOCKER-USER "$FORWARD"; then
        say "not in force: DOCKER-USER doesn't begin with a jump to $FORWARD"
        in_force=1
    elif ! v4 -S FORWARD | grep -q -- '^-A FORWARD -j DOCKER-USER$'; then
        say "not in force: FORWARD has no jump to DOCKER-USER; Docker makes it when it starts"
        in_force=1
    fi
    if has_v6 && ! is_first v6 INPUT "$INPUT"; then
        say "not in force: INPUT of IPv6 doesn't begin with a jump to $INPUT"
        in_force=1
    fi
    if has_v6 && ! is_first v6 DOCKER-USER "$FORWARD"; then
        say "not in force: DOCKER-USER of IPv6 doesn't begin with a jump to $FORWARD"
        in_force=1
    fi
    # Only that it is there: Docker, where it filters IPv6, puts its own before it at each start.
    if has_v6 && ! v6 -C FORWARD -j "$FORWARD" 2>/dev/null; then
        say "not in force: FORWARD of IPv6 has no jump to $FORWARD"
        in_force=1
    fi
    v4 -S | grep -E -- "CUMULUS-" || true
    return "$in_force"
}

has_systemd() { [ -d /run/systemd/system ] && command -v systemctl >/dev/null; }

# Writes $1 from stdin, all of it or nothing, with mode $2.
write_file() {
    mkdir -p -- "${1%/*}"
    cat >"$1.new"
    chmod "$2" "$1.new"
    mv -f -- "$1.new" "$1"
}

install_all() {
    local source was_enabled=
    source=$(readlink -f -- "${BASH_SOURCE[0]}")
    [ "$source" = "$COPY" ] || write_file "$COPY" 755 <"$source"
    printf '%s\n' ${given[@]+"${given[@]}"} | sed '/^$/d' | write_file "$OPTIONS" 600
    if has_systemd; then
        ! systemctl --quiet is-enabled cumulus-firewall.service || was_enabled=yes
        unit | write_file "$UNIT" 644
        systemctl daemon-reload
        systemctl --quiet enable cumulus-firewall.service
        # Not only started: the options may be others than before.
        if ! systemctl reload-or-restart cumulus-firewall.service; then
            say "the rules could not be applied; see: journalctl -u cumulus-firewall"
            # What never was in force here is not to keep Docker from its next start.
            [ "$was_enabled" ] || systemctl --quiet disable cumulus-firewall.service
            exit 1
        fi
        say "installed: cumulus-firewall.service applies the rules at each boot"
    else
        apply
        say "this machine has no systemd: have \`$COPY restore\` run at each boot, before Docker starts"
    fi
}

uninstall_all() {
    if has_systemd && [ -e "$UNIT" ]; then
        # First nothing may require it: Docker would be stopped with it.
        systemctl --quiet disable cumulus-firewall.service || say "the unit could not be disabled; removing it"
        systemctl daemon-reload
        systemctl stop cumulus-firewall.service || say "the unit could not be stopped"
        rm -f -- "$UNIT"
        systemctl daemon-reload
    fi
    remove
    rm -f -- "$OPTIONS" "$COPY"
    rmdir -- "${COPY%/*}" "${OPTIONS%/*}" 2>/dev/null || true # others' files may be in there
    say "uninstalled"
}

case $action in
    apply | remove | status) "$action" ;;
    install) install_all ;;
    uninstall) uninstall_all ;;
    *) usage ;;
esac
