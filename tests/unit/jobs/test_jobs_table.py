"""The table of jobs tells who looks on."""

from job_values import record

from cumulusd.jobs.table import JobTable


def test_who_watches_is_told_of_changes_and_of_what_is_forgotten() -> None:
    table = JobTable()
    told: list[str] = []
    table.watch(lambda before, after: told.append(f"{after.job_id} {before is None}"))
    table.watch_forgotten(lambda job_id: told.append(f"{job_id} {job_id in table}"))
    table.put(record("a"))
    table.put(record("a"))
    table.forget("a")
    assert told == ["a True", "a False", "a False"]
