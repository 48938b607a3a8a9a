"""`provision/firewall.sh` where the rules can't be applied: after an `install` Docker, which
doesn't start without them at a boot, goes on as it did, unless they were in force before; `restore`
tries again."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SCRIPT = Path(__file__).parents[2] / "provision/firewall.sh"
#: Notes its calls, and applies nothing; `enabled` beside it is whether the unit is.
SYSTEMCTL = """#!/bin/bash
here=${0%/*}
echo "$*" >>"$here/calls"
case " $* " in
    *" is-enabled "*) [ -e "$here/enabled" ] ;;
    *" enable "*) touch "$here/enabled" ;;
    *" disable "*) rm -f "$here/enabled" ;;
    *" reload-or-restart "*) exit 1 ;;
esac
"""
#: All that the script writes is in file systems of its own.
INSIDE = """
for folder in /etc /usr/local/lib /run; do mount -t tmpfs none "$folder"; done
mkdir -p /run/systemd/system
bash "$1" install --deny 10.0.0.0/8
"""


def run(
    folder: Path, commands: Mapping[str, str], inside: str
) -> "subprocess.CompletedProcess[str]":
    """`inside` with the script, and with these commands in place of the machine's."""
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "bash", "-ec", inside, "_", SCRIPT],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("enabled_before", [False, True])
def test_install_leaves_docker_as_it_was(tmp_path: Path, enabled_before: bool) -> None:
    if enabled_before:
        (tmp_path / "enabled").touch()
    commands = {"systemctl": SYSTEMCTL, "iptables": "#!/bin/sh\n"}
    done = run(tmp_path, commands, INSIDE)
    assert done.returncode == 1, done.stderr
    assert "the rules could not be applied" in done.stderr
    calls = (tmp_path / "calls").read_text()
    assert "reload-or-restart cumulus-firewall.service" in calls
    assert (tmp_path / "enabled").exists() is enabled_before


#: Fails as often as `failures` beside it says, and changes nothing.
RESTORE = """#!/bin/bash
cat >/dev/null
here=${0%/*}
left=$(cat "$here/failures")
[ "$left" != 0 ] || exit 0
echo $((left - 1)) >"$here/failures"
exit 4
"""
#: Nothing is there, and there is nothing of IPv6.
IPTABLES = """#!/bin/bash
case " $* " in *" -S "*) exit 1 ;; esac
"""
RESTORED = """
mount -t tmpfs none /etc
mkdir -p /etc/cumulus
printf -- '--deny\n10.0.0.0/8\n' >/etc/cumulus/firewall.options
bash "$1" restore
"""


@pytest.mark.parametrize(("failures", "exit_code"), [(2, 0), (4, 4)])
def test_restore_tries_four_times(tmp_path: Path, failures: int, exit_code: int) -> None:
    commands = {
        "sleep": "#!/bin/sh\n",
        "iptables": IPTABLES,
        "iptables-restore": RESTORE,
        "ip6tables": "#!/bin/sh\nexit 1\n",
    }
    (tmp_path / "failures").write_text(f"{failures}\n")
    done = run(tmp_path, commands, RESTORED)
    assert done.returncode == exit_code, done.stderr
    assert done.stderr.count("trying again in") == min(failures, 3)
    assert ("applied: job containers reach" in done.stderr) is (exit_code == 0)
    assert (tmp_path / "failures").read_text() == "0\n"
