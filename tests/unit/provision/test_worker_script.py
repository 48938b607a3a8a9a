"""worker.sh as a whole: a machine joins, once more, after failures, and leaves again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.provision.bare import DOUBLE, Bare, bad, good
from tests.unit.provision.certificate import self_signed
from tests.unit.provision.fake_servers import (
    AGENT_IMAGE,
    JOB_IMAGE,
    JOIN_TOKEN,
    NODE_ID,
    TOKEN,
    FakeOrchestrator,
    error,
)


def test_a_fresh_machine_becomes_a_worker_and_leaves_no_trace(bare: Bare) -> None:
    before = bare.files()
    said = good(bare.join())
    assert f"node {NODE_ID}" in said and "a job ran here" in said
    engine, asked = bare.engine, bare.orchestrator.asked

    assert json.loads(bare.daemon_json.read_text()) == engine.settings
    assert engine.settings == {
        "icc": False,
        "live-restore": False,
        "log-driver": "json-file",
        "log-opts": {"max-size": "10m", "max-file": "3"},
        "metrics-addr": "127.0.0.1:9323",
        "node-generic-resources": ["cumulus_gpu0=10000", "cumulus_gpu1=10000"],
    }
    assert engine.images == {
        JOB_IMAGE: ["cumulus-job:latest"],
        AGENT_IMAGE: ["cumulus-agent:latest"],
    }
    assert engine.joins == [
        {
            "ListenAddr": "0.0.0.0:2377",
            "AdvertiseAddr": "127.0.0.1",
            "RemoteAddrs": bare.orchestrator.plan["swarm"]["manager_addresses"],
            "JoinToken": JOIN_TOKEN,
        }
    ]
    [looked] = [one for one in engine.containers if "Env" in one]
    assert looked["Image"] == AGENT_IMAGE
    assert 'CUMULUS_AGENT_OPTIONS={"count_cpu_devices": true}' in looked["Env"]
    assert asked("/provision/join") == [
        {"token": TOKEN, "machine_id": "0123456789abcdef" * 2, "hostname": "bare"}
    ]
    assert asked("/provision/enroll") == [{"token": TOKEN, "node_id": NODE_ID}]
    assert bare.orchestrator.tokens_in_headers == [f"Bearer {TOKEN}"] * 2
    assert bare.called("firewall.sh") == [
        "firewall.sh install --daemon 127.0.0.1:50051 --deny 10.7.0.0/16 --dns 10.7.0.1"
        " --peer 127.0.0.1"
    ]
    assert (bare.root / "var/lib/cumulus").is_dir()
    # Secrets are root's, and in no log nor list of processes.
    kept = bare.root / "etc/cumulus/worker.env"
    assert kept.stat().st_mode & 0o777 == 0o600 and TOKEN in kept.read_text()
    assert not (bare.root / "var/lib/cumulus-provision/plan.json").exists()
    everything = bare.log.read_text() + said + "\n".join(bare.calls)
    assert TOKEN not in everything and JOIN_TOKEN not in everything

    said = good(bare.run("--uninstall"))
    assert "no worker any more" in said
    assert asked("/provision/leave")[0] == {"token": TOKEN, "node_id": NODE_ID, "force": False}
    assert engine.swarm == "inactive" and engine.images == {} and engine.running
    assert bare.called("firewall.sh")[1:] == ["firewall.sh uninstall"]
    assert bare.called("apt-get")[-1].endswith("docker.io"), "Docker stays"
    left = bare.files()
    del left["var/log/cumulus-worker.log"]
    assert left == before
    assert not (bare.root / "var/lib/cumulus").exists()
    assert not list((bare.root / "tmp").iterdir())


def test_once_more_changes_nothing_and_needs_no_options(bare: Bare) -> None:
    good(bare.join())
    bare.orchestrator.plan["swarm"]["join_token"] = None  # it is told only once
    starts, calls = bare.engine.starts, len(bare.calls)
    good(bare.run())
    assert bare.engine.starts == starts and len(bare.engine.joins) == 1
    assert [one for one in bare.calls[calls:] if not one.startswith("firewall.sh install")] == []


def test_a_dry_run_prints_every_step_and_changes_nothing(bare: Bare) -> None:
    bare.user(1000)
    bare.gpu()
    before = bare.files()
    said = good(bare.join("--dry-run", "--name", "worker-1", "--cpu-opencl"))
    assert bare.files() == before and bare.calls == [] and bare.orchestrator.requests == []
    assert not list((bare.root / "tmp").iterdir())
    for word in ("[17/17]", "docker.io", "nvidia-container-toolkit", "pocl-opencl-icd"):
        assert word in said
    assert '"default-runtime": "nvidia"' in said and "hostname worker-1" in said
    assert TOKEN not in said


def test_a_dry_run_says_what_stands_in_the_way(bare: Bare) -> None:
    bare.release("fedora", "41")
    bad(bare.join("--dry-run"), "Fedora 41", "Debian 12 or 13")
    assert bare.calls == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_it_goes_on_where_it_failed(bare: Bare) -> None:
    """Each step fails once; what was done before it is not done again."""
    engine, daemon, fails = bare.engine, bare.orchestrator, bare.fake / "apt-fails"

    bare.gpu("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver")
    devices = engine.devices
    engine.devices = {"devices": [], "reason": "the drivers show no device"}
    engine.join_error = "rpc error: code = PermissionDenied"
    engine.starts_with = lambda settings: "node-generic-resources" not in settings
    daemon.answers = {
        "/provision/join": (401, error("the token has expired", "make a new one")),
        f"/provision/images/{JOB_IMAGE}": (503, error("no room")),
        "/provision/enroll": (409, error("redeemed by another node")),
        "/provision/status": (200, {"state": "failed", "message": "no share", "job_id": "j"}),
    }
    fails.write_text("iptables\n")
    (bare.fake / "firewall-fails").touch()
    bad_chronos = bare.root / "chronos"
    bare.write("chronos/Makefile", "all:\n\t@echo error: no compiler; exit 1\n")

    def mend_engine() -> None:
        engine.starts_with = lambda settings: True

    def mend_devices() -> None:
        engine.devices = devices

    def mend_join() -> None:
        engine.join_error = None

    mends: list[tuple[tuple[str, ...], Callable[[], object]]] = [
        (("apt can't install iptables", "E: Unable to locate"), fails.unlink),
        (("has expired", "HTTP 401", "make a new token"), lambda: None),
        (("GPU's driver", "communicate"), lambda: bare.gpu()),
        (("cumulus-job:latest doesn't come", "HTTP 503"), lambda: None),
        (("can't be built", "no compiler", "--chronos-source none"), lambda: None),
        (("no device for jobs", "drivers show no device", "--cpu-opencl"), mend_devices),
        (("Docker doesn't start", "it said why", "as it was before"), mend_engine),
        (("firewall's rules", "iptables said no"), (bare.fake / "firewall-fails").unlink),
        (("can't join the Swarm", "PermissionDenied"), mend_join),
        (("doesn't enrol", "redeemed by another node"), lambda: None),
        (("first job", "no share"), lambda: None),
    ]
    answers = {1: "/provision/join", 3: f"/provision/images/{JOB_IMAGE}"} | {
        9: "/provision/enroll",
        10: "/provision/status",
    }
    steps = []
    for number, (words, mend) in enumerate(mends):
        said = bad(bare.join("--chronos-source", str(bad_chronos)), *words)
        assert "    log: " in said and "go on from here" in said
        steps.append(int(said.split("worker.sh: ")[0].rpartition("[")[2].partition("/")[0]))
        mend()
        daemon.answers.pop(answers.get(number, ""), None)
        if number == 4:
            (bad_chronos / "Makefile").write_text(f"all:\n\tgcc -shared -o libchronos.so {DOUBLE}")
        if number == 6:
            assert "node-generic-resources" not in json.loads(bare.daemon_json.read_text())
            assert engine.running, "with the settings that it had"
    assert steps == sorted(steps) and len(set(steps)) == len(steps), steps
    good(bare.join("--chronos-source", str(bad_chronos)))
    assert daemon.asked("/provision/status")[-2] == {
        "token": TOKEN,
        "node_id": NODE_ID,
        "retry": True,
    }
    installs = [one for one in bare.called("apt-get") if " install " in one]
    assert len(installs) == len({*installs}) + 1, "only what failed is done again"
    assert len(engine.joins) == 1
    assert engine.settings["default-runtime"] == "nvidia"
    assert (bare.root / "var/lib/cumulus/lib/libchronos.so").exists()


@pytest.mark.slow
def test_leaving_waits_for_jobs_and_goes_on_without_a_daemon(bare: Bare) -> None:
    with (bare.fake / "installed").open("a") as file:
        file.write("somebodys\n")
    bare.write("fake/auto", "somebodys\n")  # nothing needs it any more, but it isn't ours
    good(bare.join())
    leave = "/provision/leave"
    bare.orchestrator.answers[leave] = (409, error("job-7 runs there", "cancel it"))
    bad(bare.run("--uninstall"), "jobs run on this worker", "job-7", "--force")
    assert bare.engine.swarm == "active"
    bare.orchestrator.answers[leave] = None
    bad(bare.run("--uninstall"), "doesn't let this worker go", "docker node rm")
    assert bare.engine.swarm == "active"
    said = good(bare.run("--uninstall", "--force", "--purge"))
    assert f"docker node rm --force {NODE_ID}" in said
    assert bare.orchestrator.asked(leave)[-2]["force"] is True
    assert bare.engine.swarm == "inactive" and not bare.engine.running
    installed = (bare.fake / "installed").read_text().split()
    assert {"docker.io", "containerd"}.isdisjoint(installed), "with what it brought"
    assert {"iptables", "somebodys"} <= {*installed}, "what others need, and what is not ours"
    again = bare.run("--uninstall", "--orchestrator", bare.orchestrator.url)
    assert good(again), "nothing to take back is no fault"


def test_the_settings_of_an_engine_that_was_there_are_kept_and_come_back(bare: Bare) -> None:
    own = {
        "icc": True,
        "live-restore": True,
        "log-driver": "journald",
        "metrics-addr": "127.0.0.1:9999",
        "node-generic-resources": ["FPGA=1"],
        "dns": ["10.0.0.1"],
        "registry-mirrors": ["https://first.example"],
    }
    text = json.dumps(own)
    bare.write("etc/docker/daemon.json", text)
    bare.write("fake/bin/dockerd", "#!/bin/sh\necho Docker version 26.1.5\n").chmod(0o755)
    bare.engine.version = {"Version": "26.1.5", "ApiVersion": "1.45"}
    good(bare.join("--registry-mirror", "https://second.example"))
    assert not any("docker.io" in one for one in bare.calls)
    assert bare.engine.settings == {
        "icc": False,
        "live-restore": False,
        "log-driver": "journald",
        "metrics-addr": "127.0.0.1:9999",
        "node-generic-resources": ["FPGA=1", "cumulus_gpu0=10000", "cumulus_gpu1=10000"],
        "dns": ["10.0.0.1"],
        "registry-mirrors": ["https://first.example", "https://second.example"],
    }
    # What its owner changes meanwhile is the owner's.
    changed = {**bare.engine.settings, "dns": ["10.0.0.2"], "icc": True}
    bare.daemon_json.write_text(json.dumps(changed))
    good(bare.run("--uninstall"))
    assert json.loads(bare.daemon_json.read_text()) == {**own, "dns": ["10.0.0.2"]}


def test_a_daemon_json_that_docker_could_not_read_is_left_alone(bare: Bare) -> None:
    bare.write("etc/docker/daemon.json", '{"icc": tru')
    bad(bare.join(), "daemon.json can't be changed", "no JSON")
    assert bare.daemon_json.read_text() == '{"icc": tru'


@pytest.mark.slow
def test_images_come_from_a_registry_where_there_is_one(bare: Bare) -> None:
    jobs, agents = bare.orchestrator.plan["images"]
    jobs["registry_reference"] = "registry.example/job@sha256:" + "1" * 64
    agents["registry_reference"] = "registry.example/agent@sha256:" + "2" * 64
    bare.engine.registry = {
        jobs["registry_reference"]: JOB_IMAGE,
        agents["registry_reference"]: "sha256:" + "e" * 64,
    }
    said = good(bare.join())
    assert "the registry didn't give cumulus-agent:latest as the orchestrator has it" in said
    fetched = [path for _, path, _ in bare.orchestrator.requests if "/images/" in path]
    assert fetched == [f"/provision/images/{AGENT_IMAGE}"]


@pytest.mark.slow
def test_a_join_token_that_was_changed_meanwhile_is_asked_for_anew(bare: Bare) -> None:
    bare.engine.old_token, new = JOIN_TOKEN, JOIN_TOKEN + "2"
    swarm = bare.orchestrator.plan["swarm"]
    bare.engine.when_refused = lambda: swarm.update(join_token=new)
    good(bare.join())
    assert [one["JoinToken"] for one in bare.engine.joins] == [new]
    assert len(bare.orchestrator.asked("/provision/join")) == 2


@pytest.mark.slow
def test_images_are_waited_for_while_others_are_served(bare: Bare) -> None:
    path = f"/provision/images/{JOB_IMAGE}"
    bare.orchestrator.answers[path] = (429, error("4 workers are getting images now"))
    bare.orchestrator.busy = 5
    good(bare.join())
    assert len([one for _, one, _ in bare.orchestrator.requests if one == path]) == 6


@pytest.mark.slow
def test_the_host_gets_its_name_before_docker_reads_it(bare: Bare) -> None:
    good(bare.join("--name", "gpu-7", "--peer", "10.9.0.0/16", "--advertise-addr", "wg0"))
    assert bare.orchestrator.asked("/provision/join")[0]["hostname"] == "gpu-7"
    assert (bare.root / "etc/hostname").read_text() == "gpu-7\n"
    assert bare.engine.joins[0]["AdvertiseAddr"] == "wg0"
    assert bare.called("firewall.sh")[0].endswith("--peer 127.0.0.1 --peer 10.9.0.0/16")
    good(bare.run("--uninstall"))
    assert (bare.fake / "hostname").read_text() == "bare\n"


def test_the_remote_api_is_served_by_tls_only(bare: Bare) -> None:
    for name in ("ca.pem", "server-cert.pem", "server-key.pem"):
        bare.write(f"tls/{name}", name)
    bare.orchestrator.plan["remote_api"] = {"port": 2376}
    bad(bare.join(), "wants the engine's API on port 2376", "--remote-api FOLDER")
    good(bare.join("--remote-api", str(bare.root / "tls")))
    settings = bare.engine.settings
    assert settings["hosts"] == ["unix:///var/run/docker.sock", "tcp://0.0.0.0:2376"]
    assert settings["tls"] is True and settings["tlsverify"] is True
    assert settings["tlskey"] == "/etc/cumulus/engine-tls/server-key.pem"
    key = bare.root / "etc/cumulus/engine-tls"
    assert key.stat().st_mode & 0o777 == 0o700
    drop_in = bare.root / "etc/systemd/system/docker.service.d/cumulus.conf"
    # Where it listens must stand in one place only.
    assert drop_in.read_text().splitlines() == [
        "[Service]",
        "ExecStart=",
        "ExecStart=/usr/sbin/dockerd --containerd=/run/containerd/containerd.sock",
    ]
    good(bare.run("--uninstall"))
    assert not drop_in.exists() and not key.exists() and "hosts" not in bare.engine.settings


@pytest.mark.slow
def test_without_systemd_docker_is_a_service_all_the_same(bare: Bare) -> None:
    (bare.root / "run/systemd/system").rmdir()
    good(bare.join())
    assert bare.called("service") == ["service docker restart"] * 2
    assert any("cgroupfs-mount" in one for one in bare.called("apt-get"))


@pytest.mark.slow
def test_a_library_that_agents_cannot_load_is_said_and_kept_from_them(bare: Bare) -> None:
    bare.write("chronos/Makefile", f"all:\n\tgcc -shared -o libchronos.so {DOUBLE}\n")
    bare.engine.chronos_loads = False
    said = good(bare.join("--chronos-source", str(bare.root / "chronos")))
    assert "the agent's image can't load it" in said and "GLIBC_2.99" in said
    assert (bare.root / "usr/local/lib/libchronos.so").exists()
    assert list((bare.root / "var/lib/cumulus/lib").iterdir()) == []


def test_a_folder_that_was_there_before_is_never_removed(bare: Bare) -> None:
    """Also where an earlier run made another one."""
    good(bare.join())
    kept = bare.write("srv/data/important", "years of work")
    bare.orchestrator.plan["worker_root"] = "/srv/data"
    good(bare.join())
    good(bare.run("--uninstall"))
    assert kept.read_text() == "years of work"
    assert not (bare.root / "var/lib/cumulus").exists()


def test_the_file_with_the_token_is_roots_from_its_first_moment(bare: Bare) -> None:
    note = 'new=$CUMULUS_PROVISION_ROOT/etc/cumulus/worker.env.new; [ ! -e "$new" ] || '
    looks = f'{note}{shutil.which("stat")} -c %a "$new" >>"$FAKE/modes"\n'
    bare.program("grep", f'{looks}exec {shutil.which("grep")} "$@"\n')
    good(bare.join())
    assert set((bare.fake / "modes").read_text().split()) == {"600"}


@pytest.mark.slow
def test_another_daemon_than_the_pinned_one_gets_no_token(
    bare: Bare, tmp_path: Path, orchestrator: FakeOrchestrator
) -> None:
    pem, pin = self_signed(tmp_path)
    with FakeOrchestrator(pem) as serving:
        serving.plan["swarm"]["manager_addresses"] = [f"127.0.0.1:{orchestrator.port}"]
        words = ("--orchestrator", serving.url, "--token", TOKEN)
        bad(bare.run(*words), "is not reached", "--fingerprint")
        bad(bare.run(*words, "--fingerprint", "sha256//" + "A" * 43 + "="), "is not the one of")
        assert serving.requests == []
        good(bare.run(*words, "--fingerprint", pin))
        # It is kept, and firewall and images came by it too.
        good(bare.run())
        good(bare.run("--uninstall"))
