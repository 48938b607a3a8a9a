"""Names on the wire: the WAMP realm, procedures, topics and error URIs."""

REALM = "cumulus"

PACKAGE_CHECK = "cumulus.package.check"
PACKAGE_PUT = "cumulus.package.put"
PACKAGE_COMMIT = "cumulus.package.commit"

JOB_SUBMIT = "cumulus.job.submit"
JOB_ATTACH = "cumulus.job.attach"
JOB_GET = "cumulus.job.get"
JOB_LIST = "cumulus.job.list"
JOB_SEARCH = "cumulus.job.search"
JOB_CANCEL = "cumulus.job.cancel"
JOB_RESULT = "cumulus.job.result"
JOB_PAUSE = "cumulus.job.pause"
JOB_RESUME = "cumulus.job.resume"
JOB_CHECKPOINTS = "cumulus.job.checkpoints"
JOB_DELETE = "cumulus.job.delete"
JOB_OUTPUTS = "cumulus.job.outputs"
JOB_OUTPUT = "cumulus.job.output"

WORKER_LIST = "cumulus.worker.list"
SERVER_INFO = "cumulus.server.info"

TOPIC_JOBS = "cumulus.jobs"
TOPIC_WORKERS = "cumulus.workers"

ERROR_PREFIX = "cumulus.error."

#: What an agent registers, each under `cumulus.agent.<node id>.`: with all of these it is present.
AGENT_VERBS = ("prepare", "release", "partitions", "devices", "journals", "command")
#: With those that agents, or daemons, of earlier versions don't know and do without.
ALL_AGENT_VERBS = (*AGENT_VERBS, "metrics")


def job_status_topic(job_id: str) -> str:
    """Topic of one job's state changes."""
    return f"cumulus.job.{job_id}.status"


def agent_procedure(node_id: str, verb: str) -> str:
    """Procedure of one agent. `verb` is one of ALL_AGENT_VERBS."""
    return f"cumulus.agent.{node_id}.{verb}"
