"""The configuration is taken whole or refused with every fault, its key and its line."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulusd.config import Config, ConfigError, load_config
from cumulusd.config_listen import is_loopback
from cumulusd.identity import Authenticator, Role
from cumulusd.protocol.limits import Limits

ROOT = Path(__file__).parents[3]
SECRET = "a-long-random-token-0123456789"


def load(folder: Path, text: str, **environ: str) -> Config:
    path = folder / "cumulusd.yaml"
    path.write_text(text)
    return load_config(path, environ)


def faults(folder: Path, text: str, **environ: str) -> list[tuple[int | None, str, str]]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **environ)
    assert len(str(caught.value).splitlines()) == len(caught.value.faults)
    return [(fault.line, fault.key, fault.message) for fault in caught.value.faults]


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, "# nothing\n")
    assert config.listen == ("tcp:50051:interface=127.0.0.1",)
    assert config.state_dir == tmp_path / "cumulusd-state"
    assert config.platform.type == "local"
    assert not config.platform.local.count_cpu_devices
    assert config.jobs.history_hours == 24
    assert config.tokens == ()


def test_every_value_is_taken(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    config = load(
        tmp_path,
        f"""
listen: ["tcp:8000:interface=0.0.0.0", "unix:/run/cumulus.sock"]
state_dir: ../state
platform:
  type: local
  local: {{python: {sys.executable}, count_cpu_devices: true, hostname: lab}}
jobs:
  image: cumulus-job:1
  history_hours: 48
  history_max_jobs: 5000
  history_max_bytes: 3000000
  min_free_bytes: 0
  max_queued: 500
  max_queued_per_owner: 50
  max_duration_s: 3600
  default_queue_timeout_s: 0
  journal_cap_bytes: 2000000
  package_max_bytes: 1000000
  environment: {{A: b}}
  ca_bundle: ca.pem
  index_url: https://packages.example/simple
chronos:
  tiers: [opencl, mig]
  prove_each_job: true
  backend: libchronos
  library: /opt/chronos/libchronos.so
  discovery_interval_s: 5
  discovery_timeout_s: 2.5
  gpu_reserve_fraction: 0.1
agent_grace_s: 5.5
log: {{level: debug, format: json}}
tokens:
  - {{name: ann, owner: ann, role: client, token_sha256: {"ab" * 32}}}
  - {{name: ops.1, owner: ops, role: admin, token_env: OPS}}
  - {{name: grafana-x, owner: ops, role: viewer}}
""",
        OPS=SECRET,
        CUMULUSD_TOKEN_GRAFANA_X=SECRET + "2",
    )
    assert config.state_dir == tmp_path.parent / "state"
    assert config.platform.local.python == Path(sys.executable)
    assert config.jobs.environment == {"A": "b"}
    assert config.jobs.ca_bundle == tmp_path / "ca.pem"
    assert config.jobs.default_queue_timeout_s == 0
    assert (config.jobs.history_max_bytes, config.jobs.min_free_bytes) == (3_000_000, 0)
    assert config.agent_grace_s == 5.5
    assert config.chronos.allowed_tiers == ("opencl", "mig")
    assert config.chronos.agent_options == {
        "chronos_backend": "libchronos",
        "chronos_library": "/opt/chronos/libchronos.so",
        "discovery_interval_s": 5,
        "discovery_timeout_s": 2.5,
        "prove_each_job": True,
        "gpu_reserve_fraction": 0.1,
        "cpu_reserve_fraction": 0.0,
    }
    doors = Authenticator(config.authenticator_tokens())
    who = doors.authenticate(SECRET)
    assert who is not None and (who.name, who.owner, who.role) == ("ops.1", "ops", Role.ADMIN)
    viewer = doors.authenticate(SECRET + "2")
    assert viewer is not None and viewer.role is Role.VIEWER
    assert doors.authenticate("other") is None
    assert SECRET not in repr(config)
    assert config.tokens[1].token_sha256 == hashlib.sha256(SECRET.encode()).hexdigest()


def test_every_fault_is_reported_at_once_with_line_and_key(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        """\
listen: ["tcp:50051"]
platfrom: {}
platform:
  type: kubernetes
  local:
    count_cpu_device: true
jobs:
  history_hours: 3
  max_queued: "many"
  environment: {"1A": x}
log: {level: loud}
agent_grace_s: true
""",
    )
    assert [(line, key) for line, key, _ in found] == [
        (1, "listen"),
        (2, "platfrom"),
        (4, "platform.type"),
        (6, "platform.local.count_cpu_device"),
        (8, "jobs.history_hours"),
        (9, "jobs.max_queued"),
        (10, "jobs.environment"),
        (11, "log.level"),
        (12, "agent_grace_s"),
    ]
    words = {key: message for _, key, message in found}
    assert "no tokens" in words["listen"] and "127.0.0.1" in words["listen"]
    assert words["platfrom"] == "unknown key; did you mean 'platform'?"
    assert "'count_cpu_devices'" in words["platform.local.count_cpu_device"]
    assert "24" in words["jobs.history_hours"] and "3" in words["jobs.history_hours"]
    assert "'many'" in words["jobs.max_queued"]


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("jobs:\n  xyzzy: 1\n", 2, "jobs.xyzzy", "known here: ca_bundle"),
        ("Log-: {level: info}\n", 1, "Log-", "did you mean 'log'?"),
        ("max_queued: 5\n", 1, "max_queued", "did you mean 'jobs.max_queued'?"),
        ("log:\n  endpoint: x\n", 2, "log.endpoint", "did you mean 'platform.swarm.endpoint'?"),
        ("log:\n  level: info\n  level: debug\n", 3, "log.level", "twice, first on line 2"),
        ("a: [1\n", 2, "", "no YAML"),
        ("- 1\n", None, "", "mapping"),
        ("1: 2\n", 1, "", "must be a string"),
        ("listen: &a [x]\nstate_dir: *a\n", None, "state_dir", "aliases"),
        ("listen: [bogus]\n", 1, "listen[0]", "no endpoint"),
        ("listen: []\n", 1, "listen", "at least 1"),
        ("listen: ['tcp:x:interface=127.0.0.1']\n", 1, "listen[0]", "no endpoint"),
        ("listen: tcp:1:interface=127.0.0.1\n", 1, "listen", "must be a list"),
        ("platform: {type: swarm}\n", 1, "platform", "needs the section `swarm`"),
        ("platform: {local: {python: nowhere}}\n", 1, "platform.local.python", "script/setup"),
        ("jobs: {ca_bundle: no.pem}\n", 1, "jobs.ca_bundle", "no file at"),
        ("jobs: {index_url: 'ftp://x'}\n", 1, "jobs.index_url", "match"),
        ("jobs: {environment: {CUMULUS_X: y}}\n", 1, "jobs.environment", "daemon's own"),
        ("jobs: {max_queued: 5, max_queued_per_owner: 6}\n", 1, "jobs", "is over max_queued"),
        ("jobs: {history_max_bytes: 2000000}\n", 1, "jobs", "is under journal_cap_bytes"),
        ("jobs: {outputs_history_max_bytes: 5}\n", 1, "jobs", "is under outputs_max_bytes"),
        ("jobs: {min_free_bytes: -1}\n", 1, "jobs.min_free_bytes", "greater than or equal to 0"),
        ("jobs: {journal_cap_bytes: 9}\n", 1, "jobs.journal_cap_bytes", "1048576"),
        ("agent_grace_s: .inf\n", 1, "agent_grace_s", "3600"),
        ("agent_grace_s: .nan\n", 1, "agent_grace_s", ""),
        ("state_dir: cumulusd.yaml\n", 1, "state_dir", "no folder"),
        ("? [a]\n: b\n", 1, "", "must be a string"),
        ("x: !!python/object/apply:os.system ['true']\n", 1, "", "no YAML"),
        ("a: b\x00c\n", None, "", "no YAML"),
    ],
)
def test_a_fault(tmp_path: Path, text: str, line: int | None, key: str, words: str) -> None:
    found = faults(tmp_path, text)
    assert len(found) == 1, found
    found_line, found_key, message = found[0]
    assert found_key == key
    assert words in message
    if line is not None:
        assert found_line == line


def test_each_listener_that_is_wrong_is_told(tmp_path: Path) -> None:
    found = faults(tmp_path, "listen:\n  - bogus\n  - tcp:1:interface=127.0.0.1\n  - tcp:x\n")
    assert [(line, key) for line, key, _ in found] == [(2, "listen[0]"), (4, "listen[2]")]


def test_a_value_of_several_types_is_named_by_its_key(tmp_path: Path) -> None:
    found = faults(tmp_path, "chronos: {tiers: [nvidia]}\n")
    assert {key for _, key, _ in found} == {"chronos.tiers", "chronos.tiers[0]"}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{name: a, owner: a, role: client}", "CUMULUSD_TOKEN_A is not set"),
        ("{name: a, owner: a, role: client, token_env: MISSING}", "MISSING is not set"),
        ("{name: a, owner: a, role: client, token_env: SHORT}", "too short"),
        ("{name: a, owner: a, role: client, token_sha256: beef}", "64 lowercase hex"),
        (f"{{name: a, owner: a, role: agent, token_sha256: {'a' * 64}}}", "'client', 'admin'"),
        (f"{{name: a, owner: cumulusd, role: admin, token_sha256: {'a' * 64}}}", "another owner"),
        (f"{{name: 'a b', owner: a, role: admin, token_sha256: {'a' * 64}}}", "letters, digits"),
        (
            f"{{name: a, owner: a, role: admin, token_sha256: {'a' * 64}, token_env: T}}",
            "not both",
        ),
        ("{owner: a, role: client, token_env: T}", "required"),
        (f"{{name: a, owner: a, role: client, token: {SECRET}}}", "unknown key"),
    ],
)
def test_a_fault_of_a_token(tmp_path: Path, entry: str, words: str) -> None:
    found = faults(tmp_path, f"tokens:\n  - {entry}\n", SHORT="tiny", T=SECRET)
    assert [line for line, _, _ in found] == [2]
    assert found[0][1].startswith("tokens[0]")
    assert words in found[0][2]
    assert SECRET not in found[0][2], "a secret must not be repeated in a message"


def test_an_unknown_key_deep_down_is_told_with_the_nearest(tmp_path: Path) -> None:
    text = "platform:\n  swarm:\n    tls:\n      ca-cert: x\ntokens:\n  - nmae: x\n"
    found = {key: (line, message) for line, key, message in faults(tmp_path, text)}
    assert found["platform.swarm.tls.ca-cert"] == (4, "unknown key; did you mean 'ca_cert'?")
    assert found["tokens[0].nmae"] == (6, "unknown key; did you mean 'name'?")


def test_tokens_must_differ(tmp_path: Path) -> None:
    one = f"{{name: a, owner: a, role: client, token_sha256: {'a' * 64}}}"
    other = f"{{name: b, owner: a, role: client, token_sha256: {'a' * 64}}}"
    assert "same token twice" in faults(tmp_path, f"tokens: [{one}, {other}]")[0][2]
    assert "same name twice" in faults(tmp_path, f"tokens: [{one}, {one}]")[0][2]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: can't be read: No such file"):
        load_config(tmp_path / "none.yaml", {})


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    assert "over 1048576 bytes" in faults(tmp_path, "#" * (1 << 21))[0][2]


def test_deep_nesting_is_a_fault_and_no_crash(tmp_path: Path) -> None:
    assert "no YAML" in faults(tmp_path, "[" * 5000)[0][2]


@given(st.text(max_size=200))
def test_any_text_gives_a_configuration_or_faults(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_text(text, encoding="utf-8", errors="replace")
        try:
            load_config(path, {})
        except ConfigError as error:
            assert error.faults and str(error)


@pytest.mark.parametrize(
    ("description", "loopback"),
    [
        ("tcp:50051:interface=127.0.0.1", True),
        ("tcp:50051:127.0.0.1", True),
        ("tcp:port=1:interface=127.8.9.1", True),
        ("tcp:50051", False),
        ("tcp:50051:interface=0.0.0.0", False),
        ("tcp:50051:interface=10.0.0.1", False),
        ("tcp:50051:interface=\\:\\:1", True),
        ("tcp6:50051:interface=\\:\\:1", True),
        ("tcp6:50051", False),
        ("unix:/run/x.sock", True),
        ("systemd:domain=INET:index=0", False),
        ("ssl:443:privateKey=k.pem:interface=127.0.0.1", True),
        ("ssl:443:privateKey=k.pem", False),
        ("haproxy:tcp:80:interface=127.0.0.1", False),
    ],
)
def test_what_counts_as_loopback(description: str, loopback: bool) -> None:
    assert is_loopback(description) is loopback


def test_open_to_others_with_a_token_is_fine(tmp_path: Path) -> None:
    token = f"{{name: a, owner: a, role: client, token_sha256: {'a' * 64}}}"
    assert load(tmp_path, f"listen: ['tcp:1']\ntokens: [{token}]\n").listen == ("tcp:1",)


def test_a_link_to_python_is_kept(tmp_path: Path) -> None:
    """A venv's interpreter is a link: resolved, it would be another interpreter."""
    (tmp_path / "python").symlink_to(sys.executable)
    config = load(tmp_path, "platform: {local: {python: python}}\n")
    assert config.platform.local.python == tmp_path / "python"


def test_the_routers_bounds_are_those_of_its_limits(tmp_path: Path) -> None:
    """Key by key, with the same defaults."""
    assert Limits(**load(tmp_path, "").router.model_dump()) == Limits()
    config = load(tmp_path, "router: {max_uri_chars: 300, max_messages_per_s: 0}\n")
    limits = Limits(**config.router.model_dump())
    assert (limits.max_uri_chars, limits.max_messages_per_s) == (300, 0)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{hard_cap_bytes: 1048576, high_watermark_bytes: 2097152}", "must be in that order"),
        ("{max_message_bytes: 5}", "greater than or equal to 1048576"),
        ("{max_connection: 5}", "did you mean 'max_connections'"),
        ("{ping_timeout_s: 0}", "greater than or equal to 0.1"),
    ],
)
def test_the_routers_bounds_are_bounded(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        load(tmp_path, f"router: {text}\n")


def test_loading_installs_no_reactor(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("log: {level: info}\n")
    code = (
        "import sys; from cumulusd.config import load_config; load_config(sys.argv[1], {});"
        "assert 'twisted.internet.reactor' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "c.yaml"], check=True, cwd=ROOT)


SWARM = """\
listen: ["tcp:50051:interface=127.0.0.1"]
platform:
  type: swarm
  swarm:
    agent_image: cumulus-agent:latest
    advertise_url: ws://10.0.0.1:50051
{swarm}
jobs:
  image: cumulus-job:latest
{jobs}
"""


def swarm(*lines: str, jobs: str = "") -> str:
    return SWARM.format(swarm="\n".join(f"    {line}" for line in lines), jobs=f"  {jobs}")


def test_the_swarm_platform(tmp_path: Path) -> None:
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("x")
    found = load(tmp_path, swarm()).platform.swarm
    assert found is not None
    assert found.endpoint == "unix:///var/run/docker.sock"
    assert found.worker_root == "/var/lib/cumulus"
    assert (found.tls, found.enroll, found.count_cpu_devices) == (None, (), False)
    text = swarm(
        "endpoint: tcp://manager:2376",
        "tls: {ca_cert: ca.pem, client_cert: cert.pem, client_key: key.pem}",
        "worker_root: /srv/cumulus",
        "enroll: [gpu-1, gpu-2]",
        "count_cpu_devices: true",
    )
    found = load(tmp_path, text.replace("ws://", "wss://")).platform.swarm
    assert found is not None and found.tls is not None
    assert found.tls.client_key == tmp_path / "key.pem"
    assert found.enroll == ("gpu-1", "gpu-2") and found.count_cpu_devices


@pytest.mark.parametrize(
    ("lines", "key", "words"),
    [
        (["endpoint: manager:2375"], "endpoint", "neither unix:///path nor tcp://host:port"),
        (["endpoint: unix://var/run/docker.sock"], "endpoint", "neither"),
        (["endpoint: tcp://manager"], "endpoint", "neither"),
        (["endpoint: tcp://manager:99999"], "endpoint", "neither"),
        (["tls: {ca_cert: no.pem}"], "tls.ca_cert", "no file at"),
        (["worker_root: cumulus"], "worker_root", "absolute"),
        (["worker_root: /var"], "worker_root", "below another"),
        (["worker_root: /var/../etc"], "worker_root", "absolute"),
        (["enroll: [gpu-1, gpu-1]"], "enroll", "twice"),
        (["enroll: ['gpu 1']"], "enroll", "no host name"),
        (["enrol: [gpu-1]"], "enrol", "did you mean 'enroll'"),
        (["count_cpu_devices: 1"], "count_cpu_devices", "boolean"),
        (["advertise_ca: ca.pem"], "", "advertise_ca goes with"),
    ],
)
def test_a_fault_of_the_swarm_platform(
    tmp_path: Path, lines: list[str], key: str, words: str
) -> None:
    (tmp_path / "ca.pem").write_text("x")
    found = faults(tmp_path, swarm(*lines))
    where = [one for one in found if one[1] == f"platform.swarm.{key}".rstrip(".")]
    assert where and words in where[0][2]
    assert where[0][0] == (7 if key else 4)


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("ws://10.0.0.1:50051", "http://10.0.0.1:50051", "advertise_url", "neither ws://"),
        ("ws://10.0.0.1:50051", "ws://10.0.0.1", "advertise_url", "neither ws://"),
        ("ws://10.0.0.1:50051", "ws://10.0.0.1:1/ws", "advertise_url", "scheme, host and port"),
        ("ws://10.0.0.1:50051", "ws://0.0.0.0:50051", "advertise_url", "no address"),
        ("cumulus-agent:latest", "'a b'", "agent_image", "no name of an image"),
    ],
)
def test_what_agents_need(tmp_path: Path, old: str, new: str, key: str, words: str) -> None:
    ((_, found_key, message),) = faults(tmp_path, swarm().replace(old, new))
    assert found_key == f"platform.swarm.{key}" and words in message


def test_the_swarm_platform_needs_a_job_image(tmp_path: Path) -> None:
    text = swarm().replace("  image: cumulus-job:latest\n", "  max_queued: 5000\n")
    assert faults(tmp_path, text) == [(8, "jobs.image", "is required by the swarm platform")]


def test_a_bundle_that_swarm_cannot_carry(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"x" * 600_000)
    ((line, key, message),) = faults(tmp_path, swarm(jobs="ca_bundle: ca.pem"))
    assert (line, key) == (10, "jobs.ca_bundle") and "500000 bytes" in message
    load(tmp_path, "jobs: {ca_bundle: ca.pem}\n")


S3_KEY = {"CUMULUSD_S3_ACCESS_KEY": "AKIA1", "CUMULUSD_S3_SECRET_KEY": "very-hidden"}


def test_s3_is_a_bucket_and_a_key_from_the_environment(tmp_path: Path) -> None:
    assert load(tmp_path, "").s3 is None
    s3 = load(tmp_path, "s3: {bucket: checkpoints}", **S3_KEY).s3
    assert s3 is not None
    assert (s3.bucket, s3.region, s3.endpoint_url, s3.prefix) == (
        *("checkpoints", "us-east-1", None),
        "cumulus/",
    )
    assert (s3.access_key, s3.secret_key) == ("AKIA1", "very-hidden")
    assert "hidden" not in repr(s3) + str(s3.model_dump())
    text = """
s3:
  bucket: checkpoints.lab
  region: eu-central-1
  endpoint_url: https://s3.lab:9000/
  prefix: a/b
  access_key_env: ID
  secret_key_env: KEY
"""
    s3 = load(tmp_path, text, ID="1", KEY="2").s3
    assert s3 is not None
    assert (s3.endpoint_url, s3.prefix, s3.secret_key) == ("https://s3.lab:9000", "a/b/", "2")


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("{bucket: Big_Bucket}", "s3.bucket", "is no bucket's name"),
        ("{bucket: abc, region: 'x y'}", "s3.region", "is no region's name"),
        ("{bucket: abc, endpoint_url: 's3.lab:9000'}", "s3.endpoint_url", "neither http://"),
        ("{bucket: abc, endpoint_url: 'http://s3/x'}", "s3.endpoint_url", "named apart"),
        ("{bucket: abc, prefix: '/a'}", "s3.prefix", "between slashes"),
        ("{bucket: abc, prefix: 'a/../b'}", "s3.prefix", "between slashes"),
        ("{bucket: abc, secret_key: x}", "s3.secret_key", "did you mean 'secret_key_env'?"),
        ("{bucket: abc, access_key_env: 'a b'}", "s3.access_key_env", "no name of an environment"),
    ],
)
def test_faults_of_s3_are_told(tmp_path: Path, text: str, key: str, message: str) -> None:
    [(line, where, what)] = faults(tmp_path, f"s3: {text}", **S3_KEY)
    assert (line, where) == (1, key) and message in what


def test_s3_without_its_key_is_refused(tmp_path: Path) -> None:
    [(_, key, message)] = faults(tmp_path, "s3: {bucket: abc}", CUMULUSD_S3_ACCESS_KEY="AKIA1")
    assert key == "s3" and "CUMULUSD_S3_SECRET_KEY, with S3's key, is not set" in message
