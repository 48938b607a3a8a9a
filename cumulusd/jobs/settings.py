"""Bounds and budgets of the jobs."""

import attrs


@attrs.frozen(kw_only=True)
class Settings:
    """All in seconds unless the name says otherwise."""

    cancel_grace_s: float = 0.5  #: between TERM and KILL when a user cancels
    stop_grace_s: float = 5.0  #: between TERM and KILL otherwise
    agent_grace_s: float = 60.0  #: how long an agent may be away before its jobs are given up
    start_timeout_s: float = 60.0  #: from the container's launch to the runner's first word
    runner_margin_s: float = 30.0  #: what a runner gets beyond its own bounds before it is forced
    launch_timeout_s: float = 60.0  #: how long an unreachable platform is asked again
    lull_wait_s: float = 60.0  #: what an ended job's container may wait for while others start
    watch_interval_s: float = 1.0  #: how often the platform is asked for its containers
    reap_interval_s: float = 60.0
    history_s: float = 24 * 3600.0
    history_max_jobs: int = 100_000  #: of those that have ended
    outputs_history_max_bytes: int = 20 << 30  #: for the outputs of all jobs
    history_max_bytes: int = 20 << 30  #: for the journals of jobs that have ended
