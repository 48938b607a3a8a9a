"""An owner's folder of environments on a worker: what its runners and its agent agree on.

==================  ==============================================================================
`<key>/`            a whole environment. Who uses it holds a shared flock on the folder itself, who
                    takes it away an exclusive one, and renames it before letting go
`<key>.lock`        who builds that environment holds an exclusive flock on it
`.<key>.<number>/`  being built, by the holder of `<key>.lock`; a rest of a dead one otherwise
`.stale.<number>/`  one that was replaced, while somebody may still use it: locked like `<key>/`
`.uv-cache/`        uv's own. Who builds holds a shared flock on the folder
`.base-<hash>`      what an interpreter has said of itself
==================  ==============================================================================

After taking a lock, whoever took it looks whether the path still leads to what it locked.
"""

#: In each whole environment, written last; its time of modification is that of the last use.
MARKER = "cumulus_complete.json"
LOCK_SUFFIX = ".lock"
UV_CACHE = ".uv-cache"
STALE_PREFIX = ".stale."
BASE_PREFIX = ".base-"


def key_of_rough(name: str) -> str | None:
    """The key of an environment that is being built under that name; None: it is none."""
    parts = name.split(".")
    if len(parts) == 3 and not parts[0] and parts[1] and parts[2].isdigit():
        return None if name.startswith(STALE_PREFIX) else parts[1]
    return None
