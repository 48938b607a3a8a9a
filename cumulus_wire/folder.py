"""A job's folder on its worker: the names in it, shared by agent and runner.

==================  ==========  ====================================================
name                written by  holds
==================  ==========  ====================================================
job.json            agent       the runner's orders, see docs/protocol.md
package.zip         agent       the code package, its hash checked
secrets.json        agent       {name: value}, for the job's user only; the runner deletes it
                                as the code begins
agent.sock          agent       unix socket: commands in, pokes out (JSON lines)
lock                runner      `flock`ed by the runner and inherited by its children
journal/            runner      segments `<first offset, 20 digits>.seg`
work/               runner      the unpacked package; the code's working directory
scratch/            runner      HOME and TMPDIR
==================  ==========  ====================================================

Beside the attempts' folders stands `kept/<job id>/`, which lives as long as the job: made by the
agent, for the code's `checkpoints/`, `artifacts/` and `outputs/`.
"""

ORDERS = "job.json"
PACKAGE = "package.zip"
SECRETS = "secrets.json"
SOCKET = "agent.sock"
LOCK = "lock"
JOURNAL = "journal"
WORK = "work"
SCRATCH = "scratch"

CHECKPOINTS = "checkpoints"
ARTIFACTS = "artifacts"
OUTPUTS = "outputs"
#: What is in a job's kept folder, by the variable that tells the code where.
KEPT_VARIABLES = {
    "CUMULUS_CHECKPOINT_DIR": CHECKPOINTS,
    "CUMULUS_ARTIFACT_DIR": ARTIFACTS,
    "CUMULUS_OUTPUT_DIR": OUTPUTS,
}

#: What a process is called that runs the code, where it is a copy of the runner (15 bytes).
CODE_NAME = "cumulus-code"
#: The package's own description, inside the zip.
MANIFEST = "cumulus_package.json"
#: What a zip of the old SDK holds instead: its program, what is to be installed for it, and where
#: the program leaves its value or its error, in its working directory.
LEGACY_MAIN = "main.py"
LEGACY_REQUIREMENTS = "requirements.txt"
LEGACY_RESULT = "result.json"
LEGACY_ERROR = "error.json"
#: Of the old SDK, which need torch: the job gets ours under these names.
LEGACY_REPLACED = ("runtime.py", "distributed_checkpointer.py")

SEGMENT_SUFFIX = ".seg"


def segment_name(offset: int) -> str:
    """File name of the segment that begins at `offset`."""
    return f"{offset:020d}{SEGMENT_SUFFIX}"


def segment_offset(name: str) -> int | None:
    """Where the segment of that name begins, or None when it is no segment's name."""
    stem = name.removesuffix(SEGMENT_SUFFIX)
    if stem == name or len(stem) != 20 or not (stem.isascii() and stem.isdigit()):
        return None
    return int(stem)
