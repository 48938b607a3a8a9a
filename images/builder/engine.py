"""An image by `docker build`, from a registry's Debian."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from builder.archive import loaded_id
from builder.errors import BuildError
from builder.recipe import Recipe
from builder.wheels import Wheels

LOOK_TIMEOUT_S = 30
PULL_TIMEOUT_S = 300
BUILD_TIMEOUT_S = 3600


def missing_for_engine(base: str) -> str | None:
    """Why images can't be made this way here; None: they can, and the base image is there."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    if (fault := _try(["docker", "version"], LOOK_TIMEOUT_S)) is not None:
        return f"no Docker engine can be reached ({fault})"
    if _try(["docker", "image", "inspect", base], LOOK_TIMEOUT_S) is None:
        return None
    if (fault := _try(["docker", "pull", "--quiet", base], PULL_TIMEOUT_S)) is not None:
        return f"the base image {base} can't be had ({fault})"
    return None


def build_image(
    recipe: Recipe,
    *,
    content: str,
    base: str,
    context: Path,
    wheels: Wheels,
    target: Path,
    refresh: bool,
) -> str:
    """Builds with the engine and saves the image to `target`; its id. Raises BuildError."""
    wheels.copy(context)
    command = ["docker", "build", "--network", "host", "--build-arg", f"BASE={base}"]
    if recipe.image == "job":
        command += ["--build-arg", f"VARIANT={recipe.variant}"]
    command += ["--file", str(recipe.dockerfile), "--tag", recipe.tag]
    for name, value in recipe.labels(content).items():
        command += ["--label", f"{name}={value}"]
    if refresh:
        command.append("--no-cache")
    for argv, timeout_s in (
        ([*command, str(context)], BUILD_TIMEOUT_S),
        (["docker", "save", "--output", str(target), recipe.tag], PULL_TIMEOUT_S),
    ):
        if (fault := _try(argv, timeout_s, lines=25)) is not None:
            raise BuildError(f"{recipe.name}: {argv[0]} {argv[1]} failed: {fault}")
    target.chmod(0o644)  # as the other way writes it
    return loaded_id(target)


def _try(argv: Sequence[str], timeout_s: float, lines: int = 3) -> str | None:
    """The end of what a failed command said; None when it succeeded."""
    try:
        done = subprocess.run(
            argv,
            env=os.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:.0f} s"
    if done.returncode == 0:
        return None
    said = done.stdout.decode(errors="replace").strip().splitlines()
    return "\n".join(said[-lines:]) or f"exit code {done.returncode}"
