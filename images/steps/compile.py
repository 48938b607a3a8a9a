"""Runs inside the image: byte code for what has none yet.

By hash, unchecked: images are written with times of their own, and a job's root is read-only, so
that byte code bound to the time of its source would be thrown away at each start.
"""

import importlib.util
import os
import py_compile
import site
import sys


def main() -> None:
    for top in site.getsitepackages():
        for folder, _, names in os.walk(top):
            for name in names:
                source = os.path.join(folder, name)
                if not name.endswith(".py"):
                    continue
                if os.path.exists(importlib.util.cache_from_source(source)):
                    continue
                try:
                    py_compile.compile(
                        source,
                        doraise=True,
                        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
                    )
                except py_compile.PyCompileError as error:
                    # A template, or code for another Python: nothing imports it.
                    print(f"not compiled: {source}: {error.exc_type_name}", file=sys.stderr)


main()
