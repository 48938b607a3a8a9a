#!/usr/bin/env bash
# provision/worker.sh: makes this machine (Debian 12/13, Ubuntu 22.04/24.04) a GPU worker of a pool.
#
#   curl -fsS URL/provision/worker.sh | bash -s -- --token T       (as root; --help shows all options)
#
# Safe to repeat: what is done already is not done again, and what failed is taken up where it ended.
# It uses what a minimal machine has, and installs curl, python3 (for JSON), iptables where missing.
set -euo pipefail

ORCHESTRATOR_URL=""  # filled in by the daemon that serves this script
ORCHESTRATOR_FINGERPRINT=""  # filled in by the daemon that serves this script

# Where Chronos is built from: pypi:NAME==VERSION (the source archive of a package index), a git URL with
# #tag or #commit, a .tar.gz (URL or file), a folder; or `none`; and what that archive must hash to.
# --chronos-source, then the daemon's configuration, go before it. Its licence is Apache-2.0.
readonly CHRONOS_SOURCE="pypi:chronos-gpu==1.1.0"
readonly CHRONOS_SHA256=00827ff83329e1c491eacde746c3b2c5e632ff2837f04ec394780febcd3ec524
# NVIDIA's packages for containers.
readonly NVIDIA_REPOSITORY="https://nvidia.github.io/libnvidia-container"

readonly UNITS_PER_DEVICE=10000 MIN_API=1.41 MAX_SKEW_S=300 READY_S=300
readonly MIN_FREE_MIB=4096 MIN_KERNEL=4.18

# Another root for all files, for tests.
readonly R=${CUMULUS_PROVISION_ROOT:-}
readonly CONFIG=$R/etc/cumulus STATE=$R/var/lib/cumulus-provision LIB=$R/usr/local/lib/cumulus
readonly LOG=$R/var/log/cumulus-worker.log SOCKET=$R/var/run/docker.sock
readonly DAEMON_JSON=$R/etc/docker/daemon.json
readonly DROP_IN=$R/etc/systemd/system/docker.service.d/cumulus.conf

STEPS=(machine packages orchestrator name nvidia engine_settings engine images pocl folder chronos
    devices engine_resources firewall swarm enrolment ready)

usage() {
    cat <<'END'
usage: worker.sh --orchestrator URL --token TOKEN [options]
       worker.sh --uninstall [--force] [--purge]

  --orchestrator URL       the daemon, https://host:port (filled in where the daemon served the script)
  --token TOKEN            the one-time token, of `cumulusd provision-token create`. It shows in the
                           list of processes; CUMULUS_PROVISION_TOKEN or --token-file FILE don't
  --fingerprint sha256//…  the daemon's public key, where its certificate isn't publicly trusted
  --ca-file FILE           or the certificates that it is known by (PEM)
  --allow-plain-token      send the token over plain http to another machine (a private network)
  --name NAME              this machine's host name from now on, which the pool shows
  --advertise-addr ADDR    the address (or link) by which the Swarm reaches this machine
  --peer CIDR              other workers, which the Swarm's ports are opened to beside the manager
  --cpu-opencl             install PoCL, and offer the CPU as a device where there is no GPU
  --no-nvidia              leave NVIDIA's GPUs alone
  --chronos-source SOURCE  build Chronos from pypi:NAME==VERSION, a git URL (#tag or #commit), a .tar.gz,
                           a folder; `none`: leave it out
  --chronos-sha256 HEX     what the archive of pypi:… or that .tar.gz must hash to
  --registry-mirror URL    a mirror for the engine to pull images from
  --remote-api FOLDER      serve the engine's API on port 2376, by TLS for clients with certificates
                           only; FOLDER has ca.pem, server-cert.pem and server-key.pem
  --dry-run                print every step and change nothing
  --uninstall              drain, leave the pool, take everything back; Docker stays
  --force                  with --uninstall: don't wait for jobs nor for a daemon that is away
  --purge                  with --uninstall: remove the packages that this script installed, too
  --help                   this

Proxies: curl, apt and pip take http_proxy, https_proxy and no_proxy from the environment; pip, which
fetches pypi:…, also PIP_INDEX_URL, PIP_CERT and its other variables.
Log: /var/log/cumulus-worker.log. Exit code 0: the worker is ready; 1: a step failed; 2: wrong usage.
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
    say "worker.sh: $1"
    [ -z "${2:-}" ] || say "    why: $2"
    [ -z "${3:-}" ] || say "    do:  $3"
    if [ -n "${logging:-}" ]; then
        say "    log: $LOG; run the same command again to go on from here"
    fi
    [ -z "${work:-}" ] || : >"$work/told"
    exit 1
}

wrong() {
    printf 'worker.sh: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf '    do:  %s\n' "$2" >&2
    exit 2
}

# --- options -------------------------------------------------------------------------------------

read_options() {
    url=$ORCHESTRATOR_URL fingerprint=$ORCHESTRATOR_FINGERPRINT
    token=${CUMULUS_PROVISION_TOKEN:-} ca_file='' host_name='' advertise='' chronos='' chronos_sha256=''
    mirror='' remote_api='' plain='' cpu='' nvidia=yes dry='' uninstall='' force='' purge='' peers=()
    unset CUMULUS_PROVISION_TOKEN # not for the programs that are called
    while [ $# -gt 0 ]; do
        case $1 in
            --orchestrator | --token | --token-file | --fingerprint | --ca-file | --name | --peer | \
                --advertise-addr | --chronos-source | --chronos-sha256 | --registry-mirror | --remote-api)
                if [ $# -lt 2 ] || [ -z "$2" ]; then wrong "$1 needs a value" "worker.sh --help"; fi
                ;;
        esac
        case $1 in
            --orchestrator) url=$2 ;;
            --token) token=$2 ;;
            --token-file)
                [ -r "$2" ] || wrong "--token-file: $2 can't be read"
                token=$(head -c 4096 -- "$2" | tr -d '[:space:]')
                ;;
            --fingerprint) fingerprint=$2 ;;
            --ca-file) ca_file=$2 ;;
            --name) host_name=$2 ;;
            --advertise-addr) advertise=$2 ;;
            --peer) peers+=("$2") ;;
            --chronos-source) chronos=$2 ;;
            --chronos-sha256) chronos_sha256=$2 ;;
            --registry-mirror) mirror=$2 ;;
            --remote-api) remote_api=$2 ;;
            --allow-plain-token) plain=yes ;;
            --cpu-opencl) cpu=yes ;;
            --no-nvidia) nvidia='' ;;
            --dry-run) dry=yes ;;
            --uninstall) uninstall=yes ;;
            --force) force=yes ;;
            --purge) purge=yes ;;
            --help | -h)
                usage
                exit 0
                ;;
            *) wrong "unknown option $1" "worker.sh --help" ;;
        esac
        case $1 in
            --allow-plain-token | --cpu-opencl | --no-nvidia | --dry-run | --uninstall | --force | --purge)
                shift
                ;;
            *) shift 2 ;;
        esac
    done
    if [ -z "$uninstall" ] && [ -n "$force$purge" ]; then
        wrong "--force and --purge go with --uninstall"
    fi
    # What an earlier run was told holds for what isn't said again.
    [ -n "$url" ] || url=$(kept URL)
    [ -n "$token" ] || token=$(kept TOKEN)
    [ -n "$fingerprint" ] || [ -n "$ca_file" ] || fingerprint=$(kept FINGERPRINT)
    [ -n "$ca_file" ] || ! [ -e "$CONFIG/daemon-ca.pem" ] || ca_file=$CONFIG/daemon-ca.pem
    [ -n "$plain" ] || plain=$(kept PLAIN)
    url=${url%/}
    # There may be nothing left to tell the daemon.
    if [ -z "$uninstall" ] || { [ -n "$url" ] && [ -n "$token" ]; }; then check_options; fi
}

check_options() {
    local host octet='(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])'
    [ -n "$url" ] || wrong "which daemon?" "--orchestrator https://host:port"
    [[ $url =~ ^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$ ]] ||
        wrong "--orchestrator takes https://host:port, not '$url'"
    host=${BASH_REMATCH[1]}
    [ -n "$token" ] ||
        wrong "the provisioning token is missing" \
            "make one with \`cumulusd provision-token create\` where the daemon runs; give it by --token, --token-file or CUMULUS_PROVISION_TOKEN"
    [[ $token =~ ^cpt_[A-Za-z0-9_-]{16,200}$ ]] ||
        wrong "that is no whole provisioning token: they begin with cpt_, and 43 characters follow" \
            "copy all of it, or make one with \`cumulusd provision-token create\`"
    [[ -z $fingerprint || $fingerprint =~ ^sha256//[A-Za-z0-9+/]{43}=$ ]] ||
        wrong "--fingerprint takes sha256//… as \`cumulusd provision-token create\` prints it, not '$fingerprint'"
    [ -z "$ca_file" ] || [ -r "$ca_file" ] || wrong "--ca-file: $ca_file can't be read"
    if [[ $url == http://* ]]; then
        if [[ -n $fingerprint ]]; then
            wrong "--fingerprint needs https, and the daemon's address is $url"
        fi
        if [ -z "$plain" ] && ! [[ $host =~ ^(localhost|127\.[0-9.]+|\[::1\])$ ]]; then
            wrong "$url is plain http: whoever is on the way could take the token" \
                "give the daemon TLS, or say --allow-plain-token on a network that you trust"
        fi
    fi
    [[ -z $host_name || $host_name =~ ^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$ ]] ||
        wrong "--name takes a host name (letters, digits, hyphens), not '$host_name'"
    [[ -z $advertise || $advertise =~ ^[A-Za-z0-9.:_-]{1,64}$ ]] ||
        wrong "--advertise-addr takes an address or a link's name, not '$advertise'"
    local peer
    for peer in ${peers[@]+"${peers[@]}"}; do
        [[ $peer =~ ^$octet\.$octet\.$octet\.$octet(/(3[0-2]|[12]?[0-9]))?$ ]] ||
            wrong "--peer takes an IPv4 network, for example 10.0.0.0/24; not '$peer'"
    done
    [[ -z $chronos_sha256 || $chronos_sha256 =~ ^[0-9a-f]{64}$ ]] ||
        wrong "--chronos-sha256 takes 64 hexadecimal digits"
    if [[ $chronos == pypi:* ]]; then
        local word='[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?'
        [[ $chronos =~ ^pypi:$word==[0-9]([A-Za-z0-9._+!-]*[A-Za-z0-9])?$ ]] ||
            wrong "--chronos-source takes pypi:NAME==VERSION, not '$chronos'"
    elif [ -n "$chronos" ] && [ "$chronos" != none ] && ! is_url "$chronos" && ! [ -e "$chronos" ]; then
        wrong "--chronos-source: there is no $chronos" "pypi:NAME==VERSION, a git URL, a .tar.gz, a folder, or none"
    fi
    [[ -z $mirror || $mirror =~ ^https?://[^[:space:]\"\\]+$ ]] ||
        wrong "--registry-mirror takes a URL, not '$mirror'"
    if [ -n "$remote_api" ]; then
        local file
        for file in ca.pem server-cert.pem server-key.pem; do
            [ -r "$remote_api/$file" ] ||
                wrong "--remote-api: $remote_api/$file can't be read" \
                    "the folder needs ca.pem, server-cert.pem and server-key.pem: the API is never served without TLS"
        done
        remote_api=$(cd -- "$remote_api" && pwd)
    fi
}

is_url() { [[ $1 == *://* || $1 == git@* ]]; }

# --- files ---------------------------------------------------------------------------------------

# kept KEY: what an earlier run put into worker.env.
kept() { [ ! -e "$CONFIG/worker.env" ] || sed -n "s/^$1=//p" "$CONFIG/worker.env" | tail -n 1; }

# keep KEY VALUE
keep() {
    local file=$CONFIG/worker.env
    mkdir -p "$CONFIG"
    rm -f "$file.new"
    # The token is in it, so it is nobody else's from its first moment on.
    (umask 077 && { [ ! -e "$file" ] || grep -v "^$1=" "$file" || true; printf '%s=%s\n' "$1" "$2"; } >"$file.new")
    mv "$file.new" "$file"
}

mark() { printf '%s\n' "${2:-done}" >"$STATE/$1"; }
marked() { [ -e "$STATE/$1" ] && [ "$(cat "$STATE/$1")" = "${2:-done}" ]; }

# Alone, whatever the environment says of Python.
py() { python3 -I -S "$@"; }

# Between attempts; tests don't wait.
pause_s() { sleep "$(($1 * ${CUMULUS_PROVISION_PACE:-1}))"; }

# json FILE PATH: the text at a.b.0.c, the elements of a list by line, nothing for null.
json() {
    py -c '
import json, sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2].split("."):
    if isinstance(value, list):
        value = value[int(key)] if int(key) < len(value) else None
    elif isinstance(value, dict):
        value = value.get(key)
    else:
        value = None
for one in value if isinstance(value, list) else [value]:
    if isinstance(one, (dict, list)):
        print(json.dumps(one))
    elif one is not None:
        print(str(one).lower() if isinstance(one, bool) else one)
' "$1" "$2"
}

# object [KEY=VALUE]...: a JSON object of texts; KEY:=VALUE takes JSON. Never secrets, which would
# show in the list of processes: {"token": …} is put in from the environment where `token` is asked.
object() {
    SECRET=$token py -c '
import json, os, sys
made = {}
for word in sys.argv[1:]:
    key, sign, text = word.partition("=")
    if word == "token":
        made["token"] = os.environ["SECRET"]
    elif key.endswith(":"):
        made[key[:-1]] = json.loads(text)
    else:
        made[key] = text
print(json.dumps(made))
' "$@"
}

# --- the daemon ----------------------------------------------------------------------------------

# The options of curl by which it knows the daemon.
trust() {
    tls=(--connect-timeout 10 --silent --show-error)
    if [ -n "$fingerprint" ]; then
        # The key that is pinned says who it is, not who signed it.
        tls+=(--insecure --pinnedpubkey "$fingerprint")
    elif [ -n "$ca_file" ]; then
        tls+=(--cacert "$ca_file")
    fi
}

# api METHOD PATH [WORDS OF object…]: asks; `$work/answer` has the answer, api_status its code.
# 1 when it isn't a good one: api_error says why.
api() {
    local method=$1 path=$2 words=()
    shift 2
    if [ $# -gt 0 ]; then
        object "$@" >"$work/body"
        words=(--header 'Content-Type: application/json' --data "@$work/body")
    fi
    api_error='' api_status=''
    : >"$work/answer"
    if ! api_status=$(curl "${tls[@]}" --max-time 90 --request "$method" ${words[@]+"${words[@]}"} \
        --output "$work/answer" --write-out '%{http_code}' "$url$path" 2>"$work/curl"); then
        api_status=000
        api_error=$(sed 's/^curl: //' "$work/curl" | head -n 1)
        rm -f "$work/body"
        return 1
    fi
    rm -f "$work/body"
    case $api_status in 2??) return 0 ;; esac
    api_error=$(py -c '
import json, sys
try:
    error = json.load(open(sys.argv[1]))
    print(error["message"] + (" (" + error["hint"] + ")" if error.get("hint") else ""))
except (ValueError, KeyError, TypeError):
    print("no answer of a Cumulus daemon")
' "$work/answer")
    api_error="$api_error [HTTP $api_status]"
    return 1
}

why_unreachable() {
    case $api_error in
        *pinned* | *'(90)'*)
            printf '%s' "the key of $url is not the one of --fingerprint: another daemon, or someone in between; compare with \`cumulusd provision-token create\`"
            ;;
        *'SSL certificate'* | *'(60)'*)
            printf '%s' "give --fingerprint (shown by \`cumulusd provision-token create\`) or --ca-file, if its certificate isn't publicly trusted; and look at this machine's clock"
            ;;
        *) printf '%s' "look whether the daemon runs, listens on that address, and no firewall is in between: curl -v $url/health/live" ;;
    esac
}

# --- the engine ----------------------------------------------------------------------------------

# engine METHOD PATH [FILE WITH JSON]: as `api`, of this machine's Docker. ENGINE_S bounds it.
engine() {
    local method=$1 path=$2 words=()
    [ -z "${3:-}" ] || words=(--header 'Content-Type: application/json' --data "@$3")
    engine_error='' engine_status=''
    : >"$work/engine"
    if ! engine_status=$(curl --silent --show-error --noproxy '*' --unix-socket "$SOCKET" \
        --max-time "${ENGINE_S:-60}" --request "$method" ${words[@]+"${words[@]}"} \
        --output "$work/engine" --write-out '%{http_code}' "http://docker$path" 2>"$work/curl"); then
        engine_status=000 engine_error=$(head -n 1 "$work/curl")
        return 1
    fi
    case $engine_status in 2?? | 304) return 0 ;; esac
    engine_error=$(json "$work/engine" message 2>/dev/null || true)
    engine_error="${engine_error:-no answer of a Docker engine} [HTTP $engine_status]"
    return 1
}

info() { engine GET /info && json "$work/engine" "$1"; }

has_systemd() { [ -d "$R/run/systemd/system" ]; }

# engine_service start|stop|restart
engine_service() {
    if has_systemd; then
        systemctl daemon-reload
        # After a few quick failures systemd would not try again.
        systemctl reset-failed docker.service 2>/dev/null || true
        [ "$1" = stop ] || systemctl enable docker.service
        systemctl "$1" docker.service
    else
        # Without the terminal and the lock, which it would hold.
        service docker "$1" 3>&- 9>&-
    fi
}

# What the engine says when it doesn't start.
engine_words() {
    if has_systemd; then
        journalctl -u docker.service -n 5 --no-pager -o cat 2>/dev/null || true
    else
        tail -n 5 "$R/var/log/docker.log" 2>/dev/null || true
    fi
}

wait_for_engine() {
    local tries
    for tries in $(seq 60); do
        if ENGINE_S=5 engine GET /_ping; then return; fi
        pause_s 1
    done
    echo "no answer after $tries tries: $engine_error"
    return 1
}

# Restarts the engine when daemon.json isn't the one that it runs with, or when it isn't up.
# A file that it doesn't start with is taken back.
start_engine() {
    local now
    now=$(sha256sum <"$DAEMON_JSON" | cut -d' ' -f1)
    if marked engine.sha256 "$now" && ENGINE_S=5 engine GET /_ping; then return; fi
    local running
    running=$(info ContainersRunning || true)
    [ "${running:-0}" = 0 ] || warn "the engine restarts; $running running container(s) restart or end with it"
    if ! engine_service restart || ! wait_for_engine; then
        local words
        words=$(engine_words | tr '\n' ' ')
        if [ -e "$STATE/daemon.json.last" ]; then
            cp "$STATE/daemon.json.last" "$DAEMON_JSON"
        else
            edit_daemon_json restore
        fi
        engine_service restart || true
        fail "Docker doesn't start with the settings that a worker needs" \
            "${words:-it said nothing}" \
            "$DAEMON_JSON is as it was before; look at \`journalctl -u docker\`, mend what it names, and run this again"
    fi
    cp "$DAEMON_JSON" "$STATE/daemon.json.last"
    mark engine.sha256 "$now"
}

# edit_daemon_json merge WANTED-FILE | restore: changes only what a worker needs, and notes what was
# there before. Prints what it leaves alone.
edit_daemon_json() {
    py - "$1" "$DAEMON_JSON" "$STATE/daemon.json.changes" "${2:-}" <<'END'
import json, os, shutil, sys

action, path, notes_path, wanted_path = sys.argv[1:5]
OURS = "cumulus_gpu"


def load(name, missing):
    try:
        with open(name, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return missing
    if not text.strip():
        return {}
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value


def save(name, value, mode):
    os.makedirs(os.path.dirname(name), exist_ok=True)
    with open(name + ".new", "w", encoding="utf-8") as file:
        json.dump(value, file, indent=4)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.chmod(name + ".new", mode)
    os.replace(name + ".new", name)


def combined(key, now, wanted):
    """What the key is to be, given what it is."""
    if key == "node-generic-resources":
        kept = [one for one in now or [] if not str(one).startswith(OURS)]
        return kept + wanted
    if key == "runtimes":
        return {**wanted, **(now or {})}
    if key == "registry-mirrors":
        return (now or []) + [one for one in wanted if one not in (now or [])]
    if key == "log-opts":
        if current.get("log-driver", "json-file") not in ("json-file", "local"):
            return now
        return {**wanted, **(now or {})}
    if key in ("log-driver", "metrics-addr") and now is not None:
        if now != wanted:
            print(f"{path}: {key} stays {now!r}")
        return now
    return wanted


try:
    current = load(path, None)
except ValueError as error:
    sys.exit(f"{path} is no JSON that Docker could read: {error}")
existed, current = current is not None, current or {}
notes = load(notes_path, {"existed": existed, "keys": {}})
keys = notes["keys"]
before = json.dumps([existed, current])
if action == "merge":
    if existed and not os.path.exists(path + ".before-cumulus") and not keys:
        shutil.copy2(path, path + ".before-cumulus")
    for key, wanted in load(wanted_path, {}).items():
        value = combined(key, current.get(key), wanted)
        if key in current and current[key] == value or value is None:
            continue
        note = keys.setdefault(key, {"had": key in current, "before": current.get(key)})
        note["set"] = current[key] = value
    save(notes_path, notes, 0o600)
else:
    for key, note in keys.items():
        if key in current and current[key] == note["set"]:
            if note["had"]:
                current[key] = note["before"]
            else:
                del current[key]
        elif key == "node-generic-resources" and key in current:
            current[key] = [one for one in current[key] if not str(one).startswith(OURS)]
        elif key in current:
            print(f"{path}: {key} was changed by someone else meanwhile and stays")
    if not current and not notes["existed"]:
        if existed:
            os.unlink(path)
        sys.exit(0)
if json.dumps([True, current]) != before:
    save(path, current, os.stat(path).st_mode & 0o777 if existed else 0o644)
END
}

# run_container NAME FILE WITH ITS JSON: its output on stdout, its exit code as result.
run_container() {
    local id code
    engine DELETE "/containers/$1?force=1" || true # one that an earlier run left
    engine POST "/containers/create?name=$1" "$2" || { echo "$engine_error"; return 125; }
    id=$(json "$work/engine" Id)
    if ! engine POST "/containers/$id/start"; then
        local why=$engine_error
        engine DELETE "/containers/$id?force=1" || true
        echo "$why"
        return 125
    fi
    if ENGINE_S=150 engine POST "/containers/$id/wait"; then
        code=$(json "$work/engine" StatusCode)
    else
        code=124 # it hangs
    fi
    engine GET "/containers/$id/logs?stdout=1&stderr=1&tail=200" && tr -d '\r' <"$work/engine"
    engine DELETE "/containers/$id?force=1" || true
    return "$code"
}

# --- packages ------------------------------------------------------------------------------------

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

apt() {
    # A fresh machine often updates itself just then: wait for it.
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        -o Dpkg::Options::=--force-confold "$@"
}

install_packages() {
    local package missing=()
    for package in "$@"; do is_installed "$package" || missing+=("$package"); done
    [ "${#missing[@]}" -gt 0 ] || return 0
    # What an earlier run was interrupted in.
    [ -z "$(dpkg --audit 2>/dev/null)" ] || dpkg --configure -a
    if ! [ -e "$work/apt-updated" ]; then
        apt update || fail "apt can't read its package lists" "$(apt_said)" \
            "look at /etc/apt/sources.list*, the network and the proxy (apt's own, or https_proxy)"
        : >"$work/apt-updated"
    fi
    # Before, with what they bring: a failure half-way is to be taken back by --purge too. What the
    # script itself needs stays: others have come to need it.
    if [ "${keeping:-}" = '' ]; then
        printf '%s\n' "${missing[@]}" >>"$STATE/packages"
        apt --simulate install --no-install-recommends "${missing[@]}" |
            sed -n 's/^Inst \([^ :]*\).*/\1/p' >>"$STATE/packages.brought"
    fi
    echo "installing ${missing[*]}"
    apt install --no-install-recommends "${missing[@]}" ||
        fail "apt can't install ${missing[*]}" "$(apt_said)" \
            "run \`apt-get install ${missing[*]}\` by hand, mend what it says, and run this again"
}

apt_said() { grep -E '^(E|W): ' "$LOG" | tail -n 3 | tr '\n' ' '; }

# --- the steps -----------------------------------------------------------------------------------
# Each has `title_`, `plan_` (what it does, for --dry-run), `done_` (true: nothing to do) and `do_`,
# which runs in a shell of its own with the log as its output.

title_machine() { echo "is this a machine that can be a worker"; }
plan_machine() { echo "looks at: root, release, container or VM, kernel, architecture, disk, memory"; }
done_machine() { false; }
do_machine() {
    [ "$(id -u)" = 0 ] || [ -n "$dry" ] || fail "this needs root" "this is user $(id -un)" "sudo bash worker.sh …"
    local release pretty
    release=$(os_release ID):$(os_release VERSION_ID) pretty=$(os_release PRETTY_NAME)
    case $release in
        debian:12 | debian:13 | ubuntu:22.04 | ubuntu:24.04) ;;
        *)
            fail "this release is not one that worker.sh sets up" "it is ${pretty:-of no name: there is no /etc/os-release}" \
                "take Debian 12 or 13, or Ubuntu 22.04 or 24.04; docs/swarm.md says what to do by hand elsewhere"
            ;;
    esac
    refuse_containers
    local architecture kernel free_mib memory_mib
    architecture=$(dpkg --print-architecture)
    case $architecture in
        amd64 | arm64) ;;
        *) fail "no images are made for $architecture" "" "take a machine with amd64 or arm64" ;;
    esac
    kernel=$(uname -r)
    [ "$(printf '%s\n' "$MIN_KERNEL" "$kernel" | sort -V | head -n 1)" = "$MIN_KERNEL" ] ||
        fail "the kernel is too old: $kernel" "containers need $MIN_KERNEL or newer" "upgrade it and reboot"
    free_mib=$(($(df -Pk -- "$R/var/lib" | awk 'NR == 2 {print $4}') / 1024))
    [ "$free_mib" -ge "$MIN_FREE_MIB" ] || marked images ||
        fail "there is too little room below /var/lib" \
            "$free_mib MiB are free, images and jobs need $MIN_FREE_MIB MiB or more" \
            "make room, or take a machine with a larger disk"
    memory_mib=$(($(awk '/^MemTotal:/ {print $2}' "$R/proc/meminfo") / 1024))
    [ "$memory_mib" -ge 1800 ] || warn "this machine has $memory_mib MiB of memory; jobs will hardly fit"
    echo "$pretty, $architecture, kernel $kernel, $free_mib MiB free, $memory_mib MiB of memory"
}

os_release() { { [ ! -e "$R/etc/os-release" ] || sed -n "s/^$1=//p" "$R/etc/os-release"; } | head -n 1 | tr -d "\"'"; }

# Which kind of container this is; nothing on a machine or a VM.
container_kind() {
    local kind=''
    if command -v systemd-detect-virt >/dev/null; then
        kind=$(systemd-detect-virt --container 2>/dev/null || true)
        [ "$kind" != none ] || kind=''
    fi
    [ -n "$kind" ] || ! [ -e "$R/.dockerenv" ] || kind=docker
    [ -n "$kind" ] || ! [ -e "$R/run/.containerenv" ] || kind=podman
    [ -n "$kind" ] || kind=$(first_environment container)
    printf '%s' "$kind"
}

# A variable of the first process, which a login by ssh doesn't have.
# Only root may look; nothing, else.
first_environment() {
    [ ! -r "$R/proc/1/environ" ] || { tr '\0' '\n' <"$R/proc/1/environ"; } 2>/dev/null | sed -n "s/^$1=//p" | head -n 1 || true
}

# Of the old hierarchies, the folder that holds them is read-only everywhere.
may_make_cgroups() {
    local folder
    for folder in "$R/sys/fs/cgroup" "$R"/sys/fs/cgroup/*/; do
        ! [ -w "$folder" ] || return 0
    done
    return 1
}

refuse_containers() {
    local kind label
    kind=$(container_kind)
    label=${VAST_CONTAINERLABEL:-$(first_environment VAST_CONTAINERLABEL)}
    [ -n "$label" ] || ! [ -e "$R/root/.vast_containerlabel" ] || label=$(cat "$R/root/.vast_containerlabel")
    [ -n "$kind" ] || return 0
    if [ -n "$label" ]; then
        fail "this is a container instance of Vast.ai ($label), which can't be a worker" \
            "Docker doesn't run inside of it, and Swarm's ports don't survive its port mapping" \
            "rent a VM instance instead (on Vast.ai: a template of the type VM), and run this there"
    fi
    if ! unshare --mount --net true 2>/dev/null || ! may_make_cgroups; then
        fail "this is a container ($kind) that can't run Docker" \
            "it may not make namespaces or control groups" \
            "run this on the machine itself or in a VM; or give the container those rights"
    fi
    warn "this is a container ($kind) with the rights that Docker needs: it is tried"
}

title_packages() { echo "what the script itself needs"; }
plan_packages() { echo "apt-get install, where missing: ${needed[*]}"; }
needed=(ca-certificates curl python3 iptables iproute2 tar)
done_packages() {
    local package
    for package in "${needed[@]}"; do is_installed "$package" || return 1; done
}
do_packages() {
    local keeping=yes
    install_packages "${needed[@]}"
}

title_orchestrator() { echo "the orchestrator, ${url}"; }
plan_orchestrator() {
    echo "asks $url to take this machine (its token is then this machine's alone), compares the"
    echo "clocks, looks whether the manager is reached on its port; keeps both in $CONFIG/worker.env"
}
done_orchestrator() { false; } # cheap, and its answer may have changed
do_orchestrator() {
    # A GET first: the token goes only to what answers as the daemon does.
    if ! api GET /health/live && [ "$api_status" = 000 ]; then
        fail "the orchestrator $url is not reached" "$api_error" "$(why_unreachable)"
    fi
    local skew_s
    skew_s=$(clock_skew_s)
    if [ -n "$skew_s" ]; then
        [ "${skew_s#-}" -le "$MAX_SKEW_S" ] ||
            fail "this machine's clock and the orchestrator's are $skew_s s apart" \
                "certificates would not hold" "set the clock: apt-get install systemd-timesyncd, or timedatectl set-ntp true"
        [ "${skew_s#-}" -le 30 ] || warn "this machine's clock is $skew_s s behind the orchestrator's"
    fi
    ask_to_join
    [ -z "$ca_file" ] || [ "$ca_file" = "$CONFIG/daemon-ca.pem" ] ||
        { mkdir -p "$CONFIG" && cp "$ca_file" "$CONFIG/daemon-ca.pem"; }
    keep URL "$url"
    keep TOKEN "$token"
    keep FINGERPRINT "$fingerprint"
    keep PLAIN "$plain"
    keep WORKER_ROOT "$(json "$STATE/plan.json" worker_root)"
    local address reached=''
    while read -r address; do
        # shellcheck disable=SC2016  # the inner bash has them
        if timeout 8 bash -c 'exec 4<>"/dev/tcp/$1/$2"' reach "${address%:*}" "${address##*:}" 2>/dev/null; then
            reached=$address
            break
        fi
    done < <(json "$STATE/plan.json" swarm.manager_addresses)
    [ -n "$reached" ] ||
        fail "the Swarm's manager is not reached" \
            "none of $(json "$STATE/plan.json" swarm.manager_addresses | tr '\n' ' ')takes connections from here" \
            "open port 2377/tcp (and 7946/tcp+udp, 4789/udp) on the manager to this machine; behind NAT use WireGuard: docs/provisioning.md"
    keep MANAGER "$reached"
    if [ -n "$(json "$STATE/plan.json" remote_api)" ] && [ -z "$remote_api" ]; then
        fail "the orchestrator wants the engine's API on port $(json "$STATE/plan.json" remote_api.port)" \
            "that needs certificates of this machine" "--remote-api FOLDER with ca.pem, server-cert.pem, server-key.pem"
    fi
}

# Redeems the token for this machine; plan.json has what it is told.
ask_to_join() {
    api POST /provision/join token "machine_id=$(machine_id)" "hostname=${host_name:-$(hostname)}" ||
        fail "the orchestrator doesn't take this machine" "$api_error" "$(what_to_do)"
    check_answer "$work/answer" || fail "the orchestrator's answer can't be used" \
        "$(tail -n 1 "$LOG")" "daemon and script must be of one version: fetch the script anew from $url/provision/worker.sh"
    (umask 077 && cp "$work/answer" "$STATE/plan.json")
}

what_to_do() {
    case $api_status in
        401) echo "make a new token with \`cumulusd provision-token create\`" ;;
        403) echo "the daemon takes tokens over TLS only, or not from this network" ;;
        404) echo "the daemon is too old for this script, or doesn't drive a Swarm (platform.type)" ;;
        409) echo "each machine needs a token of its own: \`cumulusd provision-token create\`" ;;
        000) why_unreachable ;;
        *) echo "look into the daemon's log" ;;
    esac
}

# Seconds by which the daemon's clock is ahead of this one; nothing where it doesn't say.
clock_skew_s() {
    local there
    there=$(curl "${tls[@]}" --max-time 20 --output /dev/null --dump-header - "$url/health/live" |
        tr -d '\r' | sed -n 's/^[Dd]ate: //p' | tail -n 1) || return 0
    [ -z "$there" ] || echo $(($(date -u -d "$there" +%s) - $(date -u +%s)))
}

machine_id() {
    local file=$R/etc/machine-id
    if ! [[ $(head -c 64 "$file" 2>/dev/null | tr -d '\n') =~ ^[0-9a-f]{32}$ ]]; then
        file=$STATE/machine-id
        [ -s "$file" ] || tr -d - <"$R/proc/sys/kernel/random/uuid" >"$file"
    fi
    cat "$file"
}

# Is what the daemon says of the kind that is used below? As root, nothing is taken as it comes.
check_answer() {
    py - "$1" <<'END'
import ipaddress, json, re, sys

plan = json.load(open(sys.argv[1]))


def text(value, pattern, what):
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        sys.exit(f"{what} is {value!r}")


def number(value, what):
    if type(value) is not int or not 0 <= value < 1 << 50:
        sys.exit(f"{what} is {value!r}")


def address(value, what):
    text(value, r"[0-9A-Za-z.\[\]:_-]+:[0-9]{1,5}", what)


if plan["swarm"]["join_token"] is not None:
    text(plan["swarm"]["join_token"], r"SWMTKN-[0-9A-Za-z-]+", "swarm.join_token")
assert plan["swarm"]["manager_addresses"], "no swarm.manager_addresses"
for one in plan["swarm"]["manager_addresses"]:
    address(one, "swarm.manager_addresses")
for one in plan["daemon"]["addresses"]:
    address(one, "daemon.addresses")
text(plan["worker_root"], r"(/[A-Za-z0-9._-]+)+", "worker_root")
if plan["worker_root"].count("/") < 2 or set(plan["worker_root"].split("/")) & {".", ".."}:
    sys.exit(f"worker_root is {plan['worker_root']}, which is no folder of its own")
assert plan["images"], "no images"
for image in plan["images"]:
    text(image["id"], r"sha256:[0-9a-f]{64}", "an image's id")
    text(image["name"], r"[A-Za-z0-9][A-Za-z0-9._:/@-]*", "an image's name")
    if image.get("registry_reference") is not None:
        text(image["registry_reference"], r"[A-Za-z0-9][A-Za-z0-9._:/@-]*", "registry_reference")
    number(image["size_bytes"], "an image's size_bytes")
for one in plan["deny"]:
    ipaddress.IPv4Network(one)
if plan.get("remote_api") is not None:
    number(plan["remote_api"]["port"], "remote_api.port")
source, sha256 = (plan.get("chronos") or {}).get("source"), (plan.get("chronos") or {}).get("sha256")
if sha256 is not None:
    text(sha256, r"[0-9a-f]{64}", "chronos.sha256")
if source is not None:
    word = r"[0-9A-Za-z](?:[0-9A-Za-z._-]*[0-9A-Za-z])?"
    pypi = rf"pypi:{word}==[0-9](?:[0-9A-Za-z._+!-]*[0-9A-Za-z])?"
    text(source, rf"none|/[!-~]+|https?://[0-9A-Za-z\[][!-~]*|{pypi}", "chronos.source")
END
}

title_name() { echo "its host name${host_name:+, $host_name}"; }
plan_name() { if [ -n "$host_name" ]; then echo "hostname $host_name"; else echo "stays $(hostname)"; fi; }
done_name() { [ -z "$host_name" ] || [ "$(hostname)" = "$host_name" ]; }
do_name() {
    [ -e "$STATE/hostname.before" ] || hostname >"$STATE/hostname.before"
    set_name "$host_name"
}
set_name() {
    printf '%s\n' "$1" >"$R/etc/hostname"
    grep -qsw -- "$1" "$R/etc/hosts" || printf '127.0.1.1\t%s\n' "$1" >>"$R/etc/hosts"
    hostname "$1"
}

title_nvidia() { echo "NVIDIA's driver and container toolkit"; }
plan_nvidia() {
    if has_gpu; then
        echo "checks the driver (nvidia-smi), installs nvidia-container-toolkit from $NVIDIA_REPOSITORY"
    else
        echo "nothing to do: no GPU of NVIDIA, or --no-nvidia"
    fi
}
has_gpu() {
    local device
    [ -n "$nvidia" ] || return 1
    for device in "$R"/sys/bus/pci/devices/*; do
        # A display controller, or a 3D controller as in servers.
        if [ "$(cat "$device/vendor" 2>/dev/null)" = 0x10de ] && [[ $(cat "$device/class") == 0x03* ]]; then
            return 0
        fi
    done
    return 1
}
done_nvidia() { ! has_gpu; }
do_nvidia() {
    local said
    said=$(nvidia-smi -L 2>&1 || true)
    [[ $said == *GPU* ]] ||
        fail "the GPU's driver doesn't work" "nvidia-smi: ${said:0:300}" \
            "install NVIDIA's driver and reboot (Ubuntu: ubuntu-drivers install --gpgpu; Debian: nvidia-driver of non-free; Vast.ai: a VM template that has it), or leave the GPU out: --no-nvidia"
    echo "$said"
    if command -v nvidia-container-runtime >/dev/null; then return; fi
    local key=$R/usr/share/keyrings/cumulus-nvidia.asc list=$R/etc/apt/sources.list.d/cumulus-nvidia.list
    # Another list of theirs, with another key, would make apt refuse both.
    if ! grep -rqs libnvidia-container "$R/etc/apt/sources.list.d" || [ -e "$list" ]; then
        curl --fail --silent --show-error --location --proto '=https' --retry 3 --max-time 60 --create-dirs \
            --output "$key" "$NVIDIA_REPOSITORY/gpgkey" ||
            fail "NVIDIA's package repository is not reached" "$(tail -n 1 "$LOG")" \
                "look at the network and at https_proxy, or install nvidia-container-toolkit yourself"
        mkdir -p "${list%/*}"
        # shellcheck disable=SC2016  # apt fills in $(ARCH)
        printf 'deb [signed-by=%s] %s/stable/deb/$(ARCH) /\n' "${key#"$R"}" "$NVIDIA_REPOSITORY" >"$list"
        rm -f "$work/apt-updated"
    fi
    install_packages nvidia-container-toolkit
    command -v nvidia-container-runtime >/dev/null ||
        fail "nvidia-container-toolkit has no nvidia-container-runtime" "" "look at its version: dpkg -l 'nvidia-container*'"
}

has_nvidia_runtime() { has_gpu && command -v nvidia-container-runtime >/dev/null; }

title_engine_settings() { echo "Docker's settings"; }
plan_engine_settings() {
    echo "merges into $DAEMON_JSON (what is there stays, and comes back with --uninstall):"
    wanted_settings | sed 's/^/  /'
}
# What a worker's engine is to be told; a fresh engine starts with it.
wanted_settings() {
    cat <<'END'
{
    "icc": false,
    "live-restore": false,
    "log-driver": "json-file",
    "log-opts": {"max-size": "10m", "max-file": "3"},
END
    if [ -n "$mirror" ]; then printf '    "registry-mirrors": ["%s"],\n' "$mirror"; fi
    if has_nvidia_runtime || { [ -n "$dry" ] && has_gpu; }; then
        printf '    "default-runtime": "nvidia",\n'
        printf '    "runtimes": {"nvidia": {"path": "nvidia-container-runtime", "runtimeArgs": []}},\n'
    fi
    if [ -n "$remote_api" ]; then
        printf '    "hosts": ["unix:///var/run/docker.sock", "tcp://0.0.0.0:2376"],\n'
        printf '    "tls": true,\n    "tlsverify": true,\n'
        printf '    "tlscacert": "%s/ca.pem",\n' "${CONFIG#"$R"}/engine-tls"
        printf '    "tlscert": "%s/server-cert.pem",\n' "${CONFIG#"$R"}/engine-tls"
        printf '    "tlskey": "%s/server-key.pem",\n' "${CONFIG#"$R"}/engine-tls"
    fi
    printf '    "metrics-addr": "127.0.0.1:9323"\n}\n'
}
done_engine_settings() { false; }
do_engine_settings() {
    case $(readlink -f -- "$(command -v dockerd || echo /)") in
        */snap/*) fail "Docker is here as a snap, which has its settings elsewhere" "" \
            "snap remove docker, and run this again: it installs Docker as a package" ;;
    esac
    if [ -n "$remote_api" ]; then
        mkdir -p "$CONFIG"
        install -d -m 700 "$CONFIG/engine-tls"
        cp "$remote_api/ca.pem" "$remote_api/server-cert.pem" "$remote_api/server-key.pem" "$CONFIG/engine-tls/"
    fi
    wanted_settings >"$work/wanted.json"
    merge_settings
}
merge_settings() {
    edit_daemon_json merge "$work/wanted.json" ||
        fail "$DAEMON_JSON can't be changed" "$(tail -n 1 "$LOG")" "mend or move it, and run this again"
}

title_engine() { echo "Docker Engine"; }
plan_engine() {
    if command -v dockerd >/dev/null; then
        echo "keeps $(dockerd --version 2>/dev/null || echo "the engine that is there")"
    else
        echo "apt-get install docker.io"
    fi
    echo "starts it anew where its settings changed"
}
done_engine() { false; }
do_engine() {
    if ! command -v dockerd >/dev/null; then
        local packages=(docker.io)
        # Its profile for containers can't be loaded without.
        [ "$(cat "$R/sys/module/apparmor/parameters/enabled" 2>/dev/null)" != Y ] || packages+=(apparmor)
        # Nobody else mounts them.
        has_systemd || grep -qs cgroup "$R/proc/mounts" || packages+=(cgroupfs-mount)
        install_packages "${packages[@]}"
        # A package of its own since Debian 13; only people need it.
        if ! command -v docker >/dev/null && apt-cache show docker-cli >/dev/null 2>&1; then
            install_packages docker-cli
        fi
    fi
    serve_remote_api
    start_engine
    engine GET /version || fail "Docker gives no answer" "$engine_error" "look at \`journalctl -u docker\`"
    local version api
    version=$(json "$work/engine" Version) api=$(json "$work/engine" ApiVersion)
    [ "$(printf '%s\n' "$MIN_API" "$api" | sort -V | head -n 1)" = "$MIN_API" ] ||
        fail "the engine that is here is too old: $version" "Cumulus needs 20.10 or newer" \
            "upgrade it, or remove it and run this again"
    ! info SecurityOptions | grep -q rootless ||
        fail "the engine that is here is rootless" "a Swarm's worker can't be" "stop it, and run this again"
    echo "Docker $version, API $api"
}

# Its unit says where to listen already, which the settings then may not.
serve_remote_api() {
    [ -n "$remote_api" ] && has_systemd || return 0
    local command
    command=$(systemctl cat docker.service | sed -n 's/^ExecStart=\(.\)/\1/p' | tail -n 1)
    [ -n "$command" ] || fail "docker.service can't be read" "" "systemctl cat docker.service"
    mkdir -p "${DROP_IN%/*}"
    printf '[Service]\nExecStart=\nExecStart=%s\n' \
        "$(sed -E 's/ (-H|--host)[ =]?[^ ]+//g' <<<"$command")" >"$DROP_IN"
}

title_images() { echo "the images of jobs and agent"; }
plan_images() { echo "from a registry where the orchestrator names one, else from $url/provision/images"; }
done_images() {
    local id
    [ -e "$STATE/plan.json" ] || return 1
    while read -r id; do
        engine GET "/images/$id/json" || return 1
    done < <(image_fields id)
}
image_fields() {
    py -c '
import json, sys
for image in json.load(open(sys.argv[1]))["images"]:
    print(*(image.get(key) or "-" for key in sys.argv[2:]))
' "$STATE/plan.json" "$@"
}
do_images() {
    local id name size_bytes reference needed_mib=0 free_mib
    while read -r id size_bytes; do
        engine GET "/images/$id/json" || needed_mib=$((needed_mib + size_bytes * 2 / 1048576 + 256))
    done < <(image_fields id size_bytes)
    free_mib=$(($(df -Pk -- "$R$(info DockerRootDir || echo /var/lib)" | awk 'NR == 2 {print $4}') / 1024))
    [ "$free_mib" -ge "$needed_mib" ] ||
        fail "there is too little room for the images" "they need $needed_mib MiB, $free_mib MiB are free" "make room on the disk of Docker's folder"
    while read -r id name size_bytes reference; do
        engine GET "/images/$id/json" || get_image "$id" "$name" "$size_bytes" "$reference"
        # Named, so that a prune of what has no name spares it.
        [[ $name == *@* || $name == sha256:* ]] || engine POST "/images/$id/tag?repo=$(repository_of "$name")&tag=$(tag_of "$name")" ||
            fail "the image $name can't be named" "$engine_error" "look at \`docker images\`"
    done < <(image_fields id name size_bytes registry_reference)
    done_images || fail "the images are not there, though they came" "$engine_error" "look at \`docker images\`"
    mark images
}
repository_of() { if [[ ${1##*/} == *:* ]]; then printf '%s' "${1%:*}"; else printf '%s' "$1"; fi; }
tag_of() { if [[ ${1##*/} == *:* ]]; then printf '%s' "${1##*:}"; else printf latest; fi; }

# get_image ID NAME SIZE REFERENCE
get_image() {
    local tries=0 waits=0
    printf '%s\n' "$1" >>"$STATE/images.loaded"
    if [ "$4" != - ]; then
        say "    $2 from the registry ($4)"
        if ENGINE_S=900 engine POST "/images/create?fromImage=$4" && engine GET "/images/$1/json"; then return; fi
        warn "the registry didn't give $2 as the orchestrator has it (${engine_error:-another image}): it is asked instead"
    fi
    say "    $2 from the orchestrator ($(($3 / 1048576)) MiB)"
    while [ "$tries" -lt 3 ] && [ "$waits" -lt 90 ]; do
        printf 'Authorization: Bearer %s\n' "$token" >"$work/header"
        # Straight through, so that it is not on the disk twice. What lacks its end, the engine refuses.
        # Its beginning takes as long as the manager's engine gathers it.
        if curl "${tls[@]}" --fail --max-time 3600 --speed-limit 1024 --speed-time 360 \
            --header "@$work/header" --write-out '%{stderr}orchestrator: HTTP %{http_code}, %{size_download} bytes\n' \
            "$url/provision/images/$1" 2>"$work/curl" |
            curl --silent --show-error --fail --noproxy '*' --unix-socket "$SOCKET" --max-time 3600 \
                --request POST --header 'Content-Type: application/x-tar' --header 'Expect:' \
                --upload-file - --output "$work/loaded" "http://docker/images/load?quiet=1" &&
            engine GET "/images/$1/json"; then
            rm -f "$work/header"
            return
        fi
        cat "$work/curl"
        if grep -q 'HTTP 429' "$work/curl"; then
            waits=$((waits + 1)) # others are being served
            pause_s 10
            continue
        fi
        tries=$((tries + 1))
        echo "attempt $tries: $(cat "$work/loaded" 2>/dev/null) $engine_error"
        pause_s "$tries"
    done
    rm -f "$work/header"
    fail "the image $2 doesn't come" \
        "$(grep -E '^(curl|orchestrator|attempt)' "$LOG" | tail -n 3 | tr '\n' ' ')" \
        "look into the daemon's log; or \`docker save\` it there and \`docker load\` it here, and run this again"
}

title_pocl() { echo "OpenCL on the CPU (PoCL)"; }
plan_pocl() { if [ -n "$cpu" ]; then echo "apt-get install pocl-opencl-icd"; else echo "not asked for (--cpu-opencl)"; fi; }
done_pocl() { [ -z "$cpu" ] || is_installed pocl-opencl-icd; }
do_pocl() { install_packages ocl-icd-libopencl1 pocl-opencl-icd; }

title_folder() { echo "the folder of jobs"; }
plan_folder() { echo "the folder that the orchestrator names (/var/lib/cumulus), of root"; }
worker_root() { printf '%s' "$R$(kept WORKER_ROOT)"; }
done_folder() { [ -e "$STATE/plan.json" ] && [ -d "$(worker_root)" ]; }
do_folder() {
    # By name: another run may be told another one, which was there before, and is not ours to remove.
    printf '%s\n' "$(worker_root)" >>"$STATE/folders.made"
    install -d -m 755 "$(worker_root)"
}

title_chronos() { echo "the Chronos library"; }
plan_chronos() {
    case ${chronos:-$CHRONOS_SOURCE} in
        none) echo "left out: --chronos-source none" ;;
        *) echo "builds ${chronos:-$CHRONOS_SOURCE, unless the orchestrator names another,} with cmake or make" ;;
    esac
}
# The source that counts, and what it must hash to.
chronos_source() {
    if [ -n "$chronos" ]; then
        printf '%s\n%s\n' "$chronos" "$chronos_sha256"
    elif [ -n "$(json "$STATE/plan.json" chronos.source)" ]; then
        printf '%s\n%s\n' "$(json "$STATE/plan.json" chronos.source)" "$(json "$STATE/plan.json" chronos.sha256)"
    else
        printf '%s\n%s\n' "$CHRONOS_SOURCE" "$CHRONOS_SHA256"
    fi
}
# What a build is of: the source, and what is in it where that may change.
chronos_key() {
    local source sha256
    { read -r source; read -r sha256; } < <(chronos_source)
    if [ -d "$source" ]; then
        sha256=$(cd -- "$source" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
    elif [ -f "$source" ]; then
        sha256=$(sha256sum <"$source" | cut -d' ' -f1)
    fi
    printf '%s %s' "$source" "$sha256"
}
# What is built runs as root: it comes by TLS, or is known by its hash. Only archives have one. pip sees
# to the TLS of package indexes itself.
refuse_unpinned() {
    case $1 in
        pypi:*) ;;
        *.tar.gz | *.tgz)
            [[ $1 != *://* || $1 == https://* || -n $2 ]] ||
                fail "Chronos from $1 could be anybody's" "that isn't https" "name its hash too, --chronos-sha256; $3"
            ;;
        *)
            [ -z "$2" ] ||
                fail "Chronos from $1 can't be held to its sha256" "only pypi:… and a .tar.gz have one" \
                    "name one; or a git URL with #commit, and no sha256"
            [[ ! $1 =~ ^(http|git|ftp):// ]] ||
                fail "Chronos from $1 could be anybody's" "git over http:// proves nothing" "take https:// or ssh://; $3"
            ;;
    esac
}
# fetch_from_index NAME==VERSION SHA256 FOLDER: the source archive that pip gets, by its own settings.
fetch_from_index() {
    local pip=(python3 -m pip)
    if ! "${pip[@]}" --version; then
        install_packages python3-venv
        python3 -m venv "$work/pip"
        pip=("$work/pip/bin/python" -m pip)
    fi
    mkdir -p "$3"
    printf '%s%s\n' "$1" "${2:+ --hash=sha256:$2}" >"$work/wanted.txt"
    # Only of itself: what pip needs to look into it may well come built.
    timeout 300 "${pip[@]}" download --no-input --no-deps --no-binary "${1%%==*}" ${2:+--require-hashes} \
        --dest "$3" --requirement "$work/wanted.txt"
}
done_chronos() {
    [ -e "$STATE/plan.json" ] || return 1
    [ "$(chronos_source | head -n 1)" = none ] ||
        { marked chronos "$(chronos_key)" && [ -e "$R/usr/local/lib/libchronos.so" ]; }
}
do_chronos() {
    local source sha256 ref='' tree=$work/chronos built archive=''
    { read -r source; read -r sha256; } < <(chronos_source)
    rm -rf "$tree"
    mkdir -p "$tree"
    local opt_out="or leave it out: --chronos-source none"
    refuse_unpinned "$source" "$sha256" "$opt_out"
    case $source in
        pypi:*)
            rm -rf "$work/index"
            fetch_from_index "${source#pypi:}" "$sha256" "$work/index" ||
                fail "Chronos is not to be had from $source" "$(grep -E 'ERROR|HASHES' "$LOG" | tail -n 2 | tr '\n' ' ')" \
                    "look at the network, https_proxy, PIP_INDEX_URL and PIP_CERT; name another by --chronos-source; $opt_out"
            archive=$(find "$work/index" -name '*.tar.gz' | head -n 1)
            [ -n "$archive" ] || fail "$source has no source archive" "" "name another by --chronos-source; $opt_out"
            ;;
        *.tar.gz | *.tgz)
            archive=$source
            if is_url "$source"; then
                archive=$work/chronos.tar.gz
                # No way back to plain http, unless the hash says what it is.
                local only='=https'
                [ -z "$sha256" ] || only='=http,https'
                curl --fail --silent --show-error --location --proto "$only" --retry 3 --max-time 300 --output "$archive" "$source" ||
                    fail "Chronos is not to be had from $source" "$(tail -n 1 "$LOG")" "name another by --chronos-source; $opt_out"
            fi
            ;;
        *)
            if [ -d "$source" ] && ! [ -d "$source/.git" ]; then
                cp -r -- "$source/." "$tree/"
            else
                install_packages git
                [[ $source != *'#'* ]] || { ref=${source##*'#'} source=${source%'#'*}; }
                GIT_TERMINAL_PROMPT=0 timeout 300 git clone --quiet -- "$source" "$tree" ||
                    fail "Chronos can't be fetched from $source" "$(tail -n 1 "$LOG")" \
                        "look at the network and at https_proxy; name another by --chronos-source; $opt_out"
                [ -z "$ref" ] || git -C "$tree" checkout --quiet --detach "$ref" -- ||
                    fail "there is no $ref in $source" "$(tail -n 1 "$LOG")" "name another by --chronos-source; $opt_out"
                git -C "$tree" log -1 --format='commit %H of %cI'
            fi
            ;;
    esac
    if [ -n "$archive" ]; then
        local found
        found=$(sha256sum <"$archive" | cut -d' ' -f1)
        [ -z "$sha256" ] || [ "$found" = "$sha256" ] ||
            fail "Chronos from $source is not what was pinned" "its sha256 is $found, not $sha256" "look at who changed it"
        tar -xzf "$archive" -C "$tree" --no-same-owner ||
            fail "$source is no .tar.gz" "$(tail -n 1 "$LOG")" "name another by --chronos-source; $opt_out"
    fi
    # An archive has its files in a folder, as a rule.
    if ! [ -e "$tree/CMakeLists.txt" ] && ! [ -e "$tree/Makefile" ]; then
        tree=$(find "$tree" -mindepth 2 -maxdepth 2 \( -name CMakeLists.txt -o -name Makefile \) -printf '%h\n' | head -n 1)
        [ -n "$tree" ] || fail "there is neither a CMakeLists.txt nor a Makefile in $source" "" "name another by --chronos-source; $opt_out"
    fi
    install_packages gcc g++ libc6-dev make ocl-icd-opencl-dev
    if [ -e "$tree/CMakeLists.txt" ]; then
        install_packages cmake
        # With its own C++ runtime, because the agent's image may have an older one; without yaml-cpp, which
        # that has not; and never without OpenCL, in whose place it would put a device that is none.
        cmake -S "$tree" -B "$tree/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTS=OFF -DBUILD_EXAMPLES=OFF \
            -DCMAKE_REQUIRE_FIND_PACKAGE_OpenCL=ON -DCMAKE_DISABLE_FIND_PACKAGE_yaml-cpp=ON \
            -DCMAKE_SHARED_LINKER_FLAGS='-static-libstdc++ -static-libgcc' &&
            timeout 600 cmake --build "$tree/build" -j "$(nproc)"
    else
        timeout 600 make -C "$tree" -j "$(nproc)"
    fi || fail "Chronos can't be built from $source" "$(grep -iE 'error' "$LOG" | tail -n 2 | tr '\n' ' ')" \
        "the whole of it is in the log; $opt_out"
    built=$(find "$tree" -name 'libchronos.so*' -type f -printf '%s %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-)
    [ -n "$built" ] || fail "the build of $source made no libchronos.so" "" "name another by --chronos-source; $opt_out"
    py - "$built" <<'END' || fail "$source makes a library that is not Chronos'" "$(tail -n 1 "$LOG")" "name another by --chronos-source; $opt_out"
import ctypes, sys

library = ctypes.CDLL(sys.argv[1])
for verb in ("partitioner_create", "partitioner_destroy", "create_partition", "release_partition",
             "list_partitions", "get_available_percentage", "get_last_error"):
    getattr(library, "chronos_" + verb)
END
    install -D -m 644 "$built" "$R/usr/local/lib/libchronos.so"
    ldconfig
    give_chronos_to_the_agent "$built"
    mark chronos "$(chronos_key)"
}

# Agents see the folder of jobs alone, and run on the libraries of their image.
give_chronos_to_the_agent() {
    local place said
    place=$(worker_root)/lib
    install -D -m 644 "$1" "$place/libchronos.so.new"
    AGENT=$(agent_image) PLACE=${place#"$R"} py -c '
import json, os
print(json.dumps({
    "Image": os.environ["AGENT"],
    "Cmd": ["python3", "-c", "import ctypes; ctypes.CDLL(\"/chronos/libchronos.so.new\")"],
    "Tty": True,
    "HostConfig": {"NetworkMode": "none", "ReadonlyRootfs": True,
                   "Binds": [os.environ["PLACE"] + ":/chronos:ro"]},
}))' >"$work/container.json"
    if said=$(run_container cumulus-chronos "$work/container.json"); then
        mv "$place/libchronos.so.new" "$place/libchronos.so"
    else
        rm -f "$place/libchronos.so.new"
        warn "Chronos is in /usr/local/lib, but the agent's image can't load it; agents book by their own ledger alone"
        say "    ($(tail -n 1 <<<"$said"))"
    fi
}

# The last one, after that of the jobs.
agent_image() {
    py -c '
import json, sys
images = json.load(open(sys.argv[1]))["images"]
print(images[-1]["id"])
' "$STATE/plan.json"
}

title_devices() { echo "the devices"; }
plan_devices() { echo "looks in the agent's image, so that they are numbered as the agent numbers them"; }
done_devices() { false; }
# What agents are told: which devices count. Only the daemon knows for sure.
agent_options() {
    CPU=$cpu py -c '
import json, os, sys
told = json.load(open(sys.argv[1])).get("agent_options")
print(json.dumps({"count_cpu_devices": bool(os.environ["CPU"])} if told is None else told))
' "$STATE/plan.json"
}
do_devices() {
    local said options number
    options=$(agent_options)
    if [ -n "$cpu" ] && [[ $options != *'"count_cpu_devices": true'* ]]; then
        fail "the orchestrator doesn't count CPUs as devices, so --cpu-opencl is of no use" "" \
            "set platform.swarm.count_cpu_devices in the daemon's configuration, or leave the option out"
    fi
    AGENT=$(agent_image) OPTIONS=$options py -c '
import json, os
print(json.dumps({
    "Image": os.environ["AGENT"],
    "Cmd": ["python3", "-m", "cumulusd.agent.show_devices"],
    "Env": ["CUMULUS_AGENT_OPTIONS=" + os.environ["OPTIONS"], "NVIDIA_VISIBLE_DEVICES=all",
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility", "HOME=/tmp"],
    "Tty": True,
    "HostConfig": {"NetworkMode": "none", "ReadonlyRootfs": True, "Init": True, "Tmpfs": {"/tmp": ""}},
}))' >"$work/container.json"
    said=$(run_container cumulus-devices "$work/container.json") ||
        fail "the devices can't be looked at" "$(tail -n 3 <<<"$said" | tr '\n' ' ')" \
            "look at the driver; an agent image without cumulusd.agent.show_devices is too old for this script"
    echo "$said"
    grep '^{"devices"' <<<"$said" | tail -n 1 >"$STATE/devices.json"
    number=$(resources | wc -l)
    [ "$number" -gt 0 ] ||
        fail "there is no device for jobs" "$(json "$STATE/devices.json" reason)" \
            "install the GPU's driver; or offer the CPU: --cpu-opencl, with platform.swarm.count_cpu_devices in the daemon's configuration"
    say "    $(py -c '
import json, sys
print("; ".join("%d: %s" % (one["index"], one["name"]) for one in json.load(open(sys.argv[1]))["devices"]))
' "$STATE/devices.json")"
}
# One line a device, as the engine is told of it.
resources() {
    py -c '
import json, sys
for one in json.load(open(sys.argv[1]))["devices"]:
    print("cumulus_gpu%d=%d" % (one["index"], int(sys.argv[2])))
' "$STATE/devices.json" "$UNITS_PER_DEVICE"
}

title_engine_resources() { echo "Docker's resources, of those devices"; }
plan_engine_resources() { echo "node-generic-resources: cumulus_gpu<n>=$UNITS_PER_DEVICE for each, in $DAEMON_JSON"; }
done_engine_resources() { false; }
do_engine_resources() {
    resources | py -c '
import json, sys
print(json.dumps({"node-generic-resources": sys.stdin.read().split()}))' >"$work/wanted.json"
    merge_settings
    start_engine
}

title_firewall() { echo "the firewall"; }
plan_firewall() {
    echo "firewall.sh install: jobs reach neither this machine, nor the manager, nor the daemon; Swarm's"
    echo "ports (7946/tcp+udp, 4789/udp) are open to the manager and to each --peer"
}
done_firewall() { false; }
do_firewall() {
    local words=() one
    if ! curl "${tls[@]}" --fail --max-time 60 --output "$work/firewall.sh" "$url/provision/firewall.sh" ||
        ! head -n 1 "$work/firewall.sh" | grep -q '^#!.*sh'; then
        fail "the orchestrator doesn't give firewall.sh" "$(tail -n 1 "$LOG")" "daemon and script must be of one version"
    fi
    while read -r one; do
        words+=(--daemon "$one")
    done < <(json "$STATE/plan.json" daemon.addresses | ipv4_with_port)
    while read -r one; do words+=(--deny "$one"); done < <(json "$STATE/plan.json" deny)
    while read -r one; do words+=(--dns "$one"); done < <(name_servers)
    # With a peer named, nobody else reaches those ports.
    while read -r one; do words+=(--peer "$one"); done < <(swarm_peers)
    bash "$work/firewall.sh" install ${words[@]+"${words[@]}"} ||
        fail "the firewall's rules can't be set" "$(tail -n 1 "$LOG")" "look at \`iptables -S\`; $LIB/firewall.sh status"
}
# Names become addresses, as the rules have them.
ipv4_with_port() {
    py -c '
import socket, sys
for line in sys.stdin:
    host, _, port = line.strip().rpartition(":")
    try:
        found = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        print(f"{host} has no IPv4 address: {error}", file=sys.stderr)
        continue
    for one in sorted({entry[4] for entry in found}):
        print("%s:%d" % one)
'
}
swarm_peers() {
    json "$STATE/plan.json" swarm.manager_addresses | ipv4_with_port | sed 's/:.*//'
    printf '%s\n' ${peers[@]+"${peers[@]}"} | sed '/^$/d'
}
# Those that containers are told of; systemd-resolved's own is not for them.
name_servers() {
    local file=$R/etc/resolv.conf
    if grep -qs '^nameserver 127\.0\.0\.53' "$file" && [ -e "$R/run/systemd/resolve/resolv.conf" ]; then
        file=$R/run/systemd/resolve/resolv.conf
    fi
    sed -nE 's/^nameserver +([0-9]+\.[0-9]+\.[0-9]+\.[0-9]+)$/\1/p' "$file" 2>/dev/null | grep -v '^127\.' | head -n 3 || true
}

title_swarm() { echo "joining the Swarm"; }
plan_swarm() { echo "joins as a worker, by the join token that the orchestrator gives${advertise:+, as $advertise}"; }
done_swarm() { false; }
do_swarm() {
    local state
    engine GET /info || fail "Docker gives no answer" "$engine_error" "look at \`journalctl -u docker\`"
    state=$(json "$work/engine" Swarm.LocalNodeState)
    case $state in
        active | pending | locked)
            if ! is_this_swarm; then
                fail "this machine is a node of another Swarm" \
                    "its managers are $(json "$work/engine" Swarm.RemoteManagers | tr '\n' ' ')" \
                    "if nothing needs it any more: docker swarm leave; then run this again"
            fi
            [ "$state" != locked ] || fail "the Swarm is locked on this machine" "it is a manager" "docker swarm unlock"
            ;;
        error | inactive)
            [ "$state" = inactive ] || engine POST '/swarm/leave?force=1' || true
            join_swarm
            ;;
    esac
    local tries
    for tries in $(seq 60); do
        if [ "$(info Swarm.LocalNodeState)" = active ]; then break; fi
        [ "$tries" -lt 60 ] ||
            fail "this machine doesn't become a node of the Swarm" "$(info Swarm.Error)" \
                "look whether ports 2377/tcp, 7946/tcp+udp and 4789/udp are open between it and the manager"
        pause_s 1
    done
    keep NODE_ID "$(json "$work/engine" Swarm.NodeID)"
}
is_this_swarm() {
    py - "$work/engine" "$STATE/plan.json" <<'END'
import json, sys

info, plan = (json.load(open(name)) for name in sys.argv[1:3])
swarm = info["Swarm"]
cluster = (swarm.get("Cluster") or {}).get("ID")
if cluster:
    sys.exit(cluster != plan["swarm"].get("swarm_id"))
managers = {one.get("Addr") for one in swarm.get("RemoteManagers") or ()}
sys.exit(not managers & set(plan["swarm"]["manager_addresses"]))
END
}
join_swarm() {
    local manager tries why
    manager=$(kept MANAGER)
    [ -n "$advertise" ] || advertise=$(address_towards "$manager")
    for tries in 1 2 3; do
        [ -n "$(json "$STATE/plan.json" swarm.join_token)" ] ||
            fail "this token was used to join the Swarm already, and this machine is not in it any more" "" \
                "make a new one with \`cumulusd provision-token create\`"
        write_join
        mark swarm.joined
        if ENGINE_S=90 engine POST /swarm/join "$work/join.json"; then break; fi
        why=$engine_error
        case $why in
            *'join token'*)
                # Another machine has been enrolled meanwhile, which makes the token void.
                echo "attempt $tries: $why"
                ask_to_join
                ;;
            *imeout*) break ;; # the engine goes on by itself
            *)
                fail "this machine can't join the Swarm" "$why" \
                    "look whether port 2377/tcp of $manager is open; an address of this machine may be named by --advertise-addr"
                ;;
        esac
    done
    rm -f "$work/join.json"
}
# From file to file: the token is not to show in the list of processes.
write_join() {
    (umask 077 && ADDRESS=$advertise py - "$STATE/plan.json" >"$work/join.json" <<'END'
import json, os, sys

swarm = json.load(open(sys.argv[1]))["swarm"]
print(json.dumps({
    "ListenAddr": "0.0.0.0:2377",
    "AdvertiseAddr": os.environ["ADDRESS"],
    "RemoteAddrs": swarm["manager_addresses"],
    "JoinToken": swarm["join_token"],
}))
END
    )
}
# The address that this machine has on the way to address:port.
address_towards() {
    py - "$1" <<'END'
import socket, sys

host, _, port = sys.argv[1].rpartition(":")
family, kind, _, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
with socket.socket(family, kind) as probe:
    probe.connect(where)
    print(probe.getsockname()[0])
END
}

title_enrolment() { echo "enrolment"; }
plan_enrolment() { echo "posts the token and this node's id to $url/provision/enroll"; }
done_enrolment() { false; }
do_enrolment() {
    local tries
    for tries in 1 2 3 4 5; do
        if api POST /provision/enroll token "node_id=$(kept NODE_ID)"; then return; fi
        # The manager may not have heard of the node yet; a busy daemon says so.
        case $api_status in 404 | 429 | 503 | 000) pause_s "$((tries * 2))" ;; *) break ;; esac
    done
    fail "the orchestrator doesn't enrol this node" "$api_error" "$(what_to_do)"
}

title_ready() { echo "a first job on this worker"; }
plan_ready() { echo "waits until the orchestrator has run a job here (at most $READY_S s)"; }
done_ready() { false; }
do_ready() {
    local state='' message='' shown='' retry=() began=$SECONDS lost=0
    ! [ -e "$STATE/ready.failed" ] || retry=(retry:=true)
    while [ $((SECONDS - began)) -lt "$READY_S" ]; do
        if api POST /provision/status token "node_id=$(kept NODE_ID)" ${retry[@]+"${retry[@]}"}; then
            retry=() lost=0
            state=$(json "$work/answer" state) message=$(json "$work/answer" message)
            [ "$state: $message" = "$shown" ] || say "    $state: $message"
            shown="$state: $message"
            case $state in
                ready)
                    rm -f "$STATE/ready.failed"
                    # It holds the Swarm's join token.
                    rm -f "$STATE/plan.json"
                    return
                    ;;
                failed)
                    : >"$STATE/ready.failed"
                    fail "the first job on this worker failed" "$message" "mend that, and run this again; \`cumulus workers\` shows the worker"
                    ;;
            esac
        else
            lost=$((lost + 1))
            case $api_status in 000 | 429 | 5??) ;; *) lost=100 ;; esac
            [ "$lost" -lt 20 ] || fail "the orchestrator doesn't say how the worker does" "$api_error" "$(what_to_do)"
        fi
        pause_s 2
    done
    fail "the worker isn't ready after $READY_S s" "${shown:-no word of it}" \
        "look at \`cumulus workers\` and at the agent: docker ps, docker logs"
}

# --- taking it back ------------------------------------------------------------------------------

UNDO=(drain leave_swarm settings firewall_off files packages_off)

title_drain() { echo "leaving the pool"; }
plan_drain() { echo "asks the orchestrator to give this node no more jobs and to forget it"; }
do_drain() {
    local node_id
    node_id=$(kept NODE_ID)
    if [ -z "$node_id" ] || [ -z "$token" ]; then
        echo "it was never enrolled"
        return
    fi
    if api POST /provision/leave token "node_id=$node_id" "force:=$(if [ -n "$force" ]; then echo true; else echo false; fi)"; then return; fi
    case $api_status in
        401 | 404) warn "the orchestrator doesn't know this node any more: $api_error" ;;
        409) [ -n "$force" ] || fail "jobs run on this worker" "$api_error" "wait for them or cancel them, or say --force: they are lost then" ;;
        *)
            [ -n "$force" ] || fail "the orchestrator doesn't let this worker go" "$api_error" \
                "$(what_to_do); or say --force, and remove the node there by \`docker node rm --force $node_id\`"
            warn "the orchestrator doesn't answer ($api_error): remove the node there by \`docker node rm --force $node_id\`"
            ;;
    esac
}

title_leave_swarm() { echo "leaving the Swarm"; }
plan_leave_swarm() { echo "leaves the Swarm that worker.sh joined"; }
do_leave_swarm() {
    if ! marked swarm.joined || ! ENGINE_S=10 engine GET /_ping; then return 0; fi
    if [ "$(info Swarm.LocalNodeState)" != inactive ]; then
        ENGINE_S=120 engine POST /swarm/leave || ENGINE_S=120 engine POST '/swarm/leave?force=1' ||
            fail "this machine can't leave the Swarm" "$engine_error" "docker swarm leave --force"
    fi
    rm -f "$STATE/swarm.joined"
    # The daemon forgets the node once it is gone; when it doesn't answer it does so by itself.
    api POST /provision/leave token "node_id=$(kept NODE_ID)" force:=true || echo "$api_error"
}

title_settings() { echo "Docker's settings as they were"; }
plan_settings() { echo "takes back what was merged into $DAEMON_JSON, and restarts Docker"; }
do_settings() {
    local id
    if ENGINE_S=10 engine GET /_ping && [ -e "$STATE/images.loaded" ]; then
        while read -r id; do
            ENGINE_S=120 engine DELETE "/images/$id?force=1" || echo "$id stays: $engine_error"
        done < <(sort -u "$STATE/images.loaded")
    fi
    if [ -e "$STATE/daemon.json.changes" ]; then
        edit_daemon_json restore || fail "$DAEMON_JSON can't be taken back" "$(tail -n 1 "$LOG")" "mend it by hand; it was $DAEMON_JSON.before-cumulus"
        rm -f "$DAEMON_JSON.before-cumulus" "$DROP_IN"
        rmdir "${DROP_IN%/*}" 2>/dev/null || true
        if command -v dockerd >/dev/null; then
            if ! engine_service restart || ! wait_for_engine; then
                fail "Docker doesn't start with its earlier settings" "$(engine_words | tr '\n' ' ')" "look at $DAEMON_JSON"
            fi
        fi
        rm -f "$STATE/daemon.json.changes"
    fi
}

title_firewall_off() { echo "the firewall's rules"; }
plan_firewall_off() { echo "firewall.sh uninstall"; }
do_firewall_off() {
    [ -e "$LIB/firewall.sh" ] || return 0
    bash "$LIB/firewall.sh" uninstall ||
        fail "the firewall's rules can't be taken back" "$(tail -n 1 "$LOG")" "iptables -S | grep CUMULUS shows them"
}

title_files() { echo "files"; }
plan_files() { echo "removes $LIB, $CONFIG, the folder of jobs, Chronos; the host name as it was"; }
do_files() {
    local root
    if [ -e "$STATE/hostname.before" ] && [ "$(hostname)" != "$(cat "$STATE/hostname.before")" ]; then
        set_name "$(cat "$STATE/hostname.before")"
    fi
    if [ -e "$STATE/chronos" ]; then
        rm -f "$R/usr/local/lib/libchronos.so"
        ldconfig
    fi
    if [ -e "$STATE/folders.made" ]; then
        while read -r root; do
            rm -rf --one-file-system -- "$root" || warn "$root is not empty: something is mounted there"
        done < <(sort -u "$STATE/folders.made")
    fi
    rm -rf -- "$LIB" "$CONFIG/worker.env" "$CONFIG/daemon-ca.pem" "$CONFIG/engine-tls"
    rmdir "$CONFIG" 2>/dev/null || true
}

title_packages_off() { echo "packages"; }
plan_packages_off() { if [ -n "$purge" ]; then echo "apt-get purge of what worker.sh installed"; else echo "stay (--purge removes those that worker.sh installed)"; fi; }
do_packages_off() {
    local gone=()
    if [ -n "$purge" ] && [ -e "$STATE/packages" ]; then
        # Of what came by this script, what nothing else needs now.
        sort -u "$STATE/packages" | while read -r name; do
            ! is_installed "$name" || apt-mark auto "$name"
        done
        mapfile -t gone < <(
            apt --simulate -o APT::AutoRemove::RecommendsImportant=false \
                -o APT::AutoRemove::SuggestsImportant=false autoremove |
                sed -n 's/^Remv \([^ :]*\).*/\1/p' | sort -u |
                comm -12 - <(sort -u "$STATE/packages" "$STATE/packages.brought")
        )
        if [ "${#gone[@]}" -gt 0 ]; then
            if command -v dockerd >/dev/null && printf '%s\n' "${gone[@]}" | grep -qx docker.io; then
                engine_service stop || true
            fi
            apt purge "${gone[@]}" || fail "apt can't remove ${gone[*]}" "$(apt_said)" "apt-get purge ${gone[*]}"
        fi
        # What an engine that is gone has left there: its own key.
        if ! command -v dockerd >/dev/null; then
            rm -f "$R/etc/docker/key.json"
            rmdir "$R/etc/docker" 2>/dev/null || true
        fi
        rm -f "$R/etc/apt/sources.list.d/cumulus-nvidia.list" "$R/usr/share/keyrings/cumulus-nvidia.asc"
    fi
    rm -rf -- "$STATE"
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
            (fail "failed: $("title_$name") (exit code $code)" "$(tail -n 3 "$LOG" | tr '\n' ' ')" "look at the log") || true
        exit 1
    fi
    say "        done ($((SECONDS - began)) s)"
}

show_steps() {
    local name number=0
    say "worker.sh --dry-run: nothing is changed"
    for name in "$@"; do
        number=$((number + 1))
        if [ -z "$uninstall" ] && "done_$name" >/dev/null 2>&1; then
            say "[$number/$#] $("title_$name"): already so"
        else
            say "[$number/$#] $("title_$name")"
            # Looks only, and says what stands in the way.
            [ "$name" != machine ] || do_machine >/dev/null
            "plan_$name" | while IFS= read -r line; do say "        $line"; done
        fi
    done
}

main() {
    local name number=0 steps
    exec 3>&2
    umask 022
    api_error='' api_status='' engine_error=''
    read_options "$@"
    trust
    if [ -n "$uninstall" ]; then steps=("${UNDO[@]}"); else steps=("${STEPS[@]}"); fi
    work=$(mktemp -d)
    trap 'rm -rf -- "$work"' EXIT
    trap 'say "worker.sh: interrupted; run the same command again to go on"; exit 130' INT TERM HUP
    if [ -n "$dry" ]; then
        show_steps "${steps[@]}"
        return
    fi
    [ "$(id -u)" = 0 ] || fail "this needs root" "this is user $(id -un)" "sudo bash worker.sh …"
    mkdir -p "$STATE" "${LOG%/*}"
    chmod 700 "$STATE"
    exec 9>"$STATE/lock"
    flock -n 9 || fail "another worker.sh runs on this machine" "" "wait for it, or end it"
    (umask 077 && : >>"$LOG")
    logging=yes
    printf '\n%s worker.sh %s%s\n' "$(date -u +%FT%TZ)" "${uninstall:+--uninstall }" "$url" >>"$LOG"
    for name in "${steps[@]}"; do
        number=$((number + 1))
        run_step "$name" "$number" "${#steps[@]}"
    done
    if [ -n "$uninstall" ]; then
        say "this machine is no worker any more ($SECONDS s)"
    else
        say "this machine is a worker of $url: node $(kept NODE_ID) ($SECONDS s)"
    fi
}

# All of it is read before anything runs, from a pipe or a file that changes meanwhile; and no
# program reads the script as its input.
{
    main "$@" </dev/null
    exit
}
