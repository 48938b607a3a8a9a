"""The labels on Swarm's services, secrets and nodes that say what is whose."""

INSTANCE = "cumulus.instance"  #: the daemon's instance id: nobody else touches what has it
JOB = "cumulus.job"
ATTEMPT = "cumulus.attempt"
AGENT = "cumulus.agent"  #: the node id whose agent it is
KIND = "cumulus.kind"  #: on services: what is asked for in one look, whoever's
KIND_AGENT = "agent"
FILE = "cumulus.file"  #: a secret that all agents share: the file's name
SPEC = "cumulus.spec"  #: hash of the payload the service was made of
WORKER = "cumulus.worker"  #: on a node: "true", it is enrolled
