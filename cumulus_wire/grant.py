"""Where a job's container finds what holds it to its share: agent, runner and layer agree on this.

==============================  =======  ==========================================================
in the container                mode     what it is
==============================  =======  ==========================================================
`/run/cumulus/grant`            ro       files that the agent made of the grant, root's
`/run/cumulus/grant/opencl`     ro       what the OpenCL layer enforces; without it, it is inert
`/run/cumulus/grant/proven`     ro       with what the layer is known to be in force here
`/run/cumulus/usage`            rw       a folder of root's: what is in it can't be replaced
`/run/cumulus/usage/opencl`     rw       the layer's accounting, shared by the job's processes
==============================  =======  ==========================================================
"""

from cumulus_wire.enums import StrEnum

GRANT = "/run/cumulus/grant"
USAGE = "/run/cumulus/usage"
OPENCL = "opencl"  #: name of the file in both

#: In the grant: fingerprints with which the layer was proven on this worker, one a line.
PROVEN = "proven"
MAX_PROVEN = 64
FINGERPRINT_DIGITS = 64  #: hexadecimal ones
#: The container's variable that says what it is made of: an image's id or digest.
IMAGE_VARIABLE = "CUMULUS_IMAGE"

#: Version of the OpenCL file's content: `key=value` lines, the first `version=1`.
OPENCL_VERSION = 1
#: Size of the layer's accounting, which the agent makes of zeros; any other size is refused.
OPENCL_USAGE_BYTES = 256 << 10
#: The layer in the job image.
OPENCL_LAYER = "/usr/local/lib/cumulus/libcumulus_opencl.so"
#: The variable by which loaders find it; where it is in force it sets this as a process starts.
OPENCL_LAYERS_VARIABLE = "OPENCL_LAYERS"


class Tier(StrEnum):
    """What holds a job to its share, the strongest first."""

    MIG = "mig"  #: the GPU itself: the job has a whole slice
    MPS = "mps"  #: CUDA's multi-process service
    HAMI = "hami"  #: HAMi-core, preloaded
    OPENCL = "opencl"  #: the OpenCL layer of the job image
    ADVISORY = "advisory"  #: nothing: the share is booked, and frameworks are told of it
