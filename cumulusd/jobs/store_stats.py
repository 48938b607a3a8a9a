"""What the job store tells of its work."""

import attrs


@attrs.frozen(kw_only=True)
class StoreStats:
    """What metrics want to know."""

    commits: int  #: transactions on disk since the start
    failures: int  #: transactions that failed
    last_commit_s: float | None  #: how long the last one took
    waiting: int  #: jobs whose change is not on disk yet
