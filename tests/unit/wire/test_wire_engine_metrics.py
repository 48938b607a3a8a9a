"""Lines of an engine's metrics: known families only, each line whole, nothing that would break or
mislabel the page they come to."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cumulus_wire.engine_metrics import FAMILIES, MAX_LINES, quoted, read, samples

GOOD = [
    "engine_daemon_engine_cpus_cpus 8",
    "engine_daemon_engine_memory_bytes 1.6702664704e+10",
    'engine_daemon_engine_info{architecture="x86_64",commit="a",kernel="6.1",version="26.1"} 1',
    'engine_daemon_container_actions_seconds_bucket{action="start",le="0.005"} 1',
    'engine_daemon_container_actions_seconds_bucket{action="start",le="+Inf"} 2',
    'engine_daemon_container_actions_seconds_sum{action="start"} 0.25',
    'engine_daemon_container_actions_seconds_count{action="start"} 2',
    "engine_daemon_events_total 31",
    'swarm_manager_nodes{state="ready"} 3',
    'swarm_node_info{node_id="n",swarm_id="s",} 1',
    "process_open_fds NaN",
    'swarm_manager_tasks_total{state="a\\\\\\"\\nb"} 0 1395066363000',
]
BAD = [
    "",
    "# TYPE process_open_fds gauge",
    "go_gc_duration_seconds 1",
    "cumulus_part_ok 1",
    "process_open_fds",
    "process_open_fds 1 2 3",
    "process_open_fds one",
    "process_open_fds 1\r",
    "process_open_fds{} 1\nprocess_max_fds 2",
    'process_open_fds{a="\ud800"} 1',
    'process_open_fds{a="\x1b[2J"} 1',
    'process_open_fds{worker="another"} 1',
    'process_open_fds{__name__="cumulus_jobs"} 1',
    'process_open_fds{a="1",a="2"} 1',
    'process_open_fds{a="1"b="2"} 1',
    'process_open_fds{a="\\x"} 1',
    'process_open_fds{a="' + "x" * 2000 + '"} 1',
    'process_open_fds{le="1"} 1',
    "engine_daemon_container_actions_seconds 1",
    "engine_daemon_container_actions_seconds_bucket 1",
    "engine_daemon_container_actions_seconds_total 1",
    "process_open_fds_sum 1",
]


@pytest.mark.parametrize("line", GOOD)
def test_a_good_line_is_handed_on_under_its_worker(line: str) -> None:
    sample = read(line)
    assert sample is not None and sample.family in FAMILIES
    (family,) = text_string_to_metric_families(sample.line('worker="g\\"1"') + "\n")
    (parsed,) = family.samples
    (before,) = next(iter(text_string_to_metric_families(line + "\n"))).samples
    assert parsed.labels == {"worker": 'g"1', **before.labels}
    assert parsed.value == before.value or before.value != before.value
    assert read(sample.line()) is not None


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_what_is_none_or_of_no_known_family_is_left_out(line: str) -> None:
    assert read(line) is None


def test_a_series_comes_once_however_its_labels_are_ordered() -> None:
    lines = [
        'swarm_node_info{node_id="n",swarm_id="s"} 1',
        'swarm_node_info{swarm_id="s",node_id="n"} 2',
        "process_open_fds 1",
        "process_open_fds 2",
    ]
    assert [sample.value for sample in samples(lines)] == ["1", "1"]


def test_they_are_bounded() -> None:
    lines = (f'swarm_manager_nodes{{state="{n}"}} 1' for n in range(10**9))
    assert len(list(samples(lines))) == MAX_LINES


@pytest.mark.parametrize("name", ['a"b', "a\\", "a\nb", '"} 1\nx 2'])
def test_a_label_survives_its_quotes(name: str) -> None:
    sample = read("process_open_fds 1")
    assert sample is not None
    (family,) = text_string_to_metric_families(sample.line(f'worker="{quoted(name)}"') + "\n")
    assert family.samples[0].labels == {"worker": name}
