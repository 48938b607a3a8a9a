"""What an image is made of: its Dockerfile's steps, the lists, the code; and its name by content.

The Dockerfile is the recipe of both ways. Only what this reader knows may stand in it.
"""

import hashlib
import json
import platform
import re
import shutil
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildError

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = REPOSITORY / "images"
SUITE = "bookworm"
DEFAULT_BASE = f"debian:{SUITE}-slim"
#: Of the extra `agent`, what jobs have as well: in the layers that both images share.
COMMON_PYTHON = ("numpy", "pyopencl", "uv")
#: What only the client needs of the base install.
CLIENT_PYTHON = ("cloudpickle", "pathspec")
#: Image -> the packages of this checkout in it.
CODE = {"job": ("cumulus_runner", "cumulus_wire"), "agent": ("cumulusd", "cumulus_wire")}
NAMES = tuple(CODE)
#: What the job image may hold beyond the layers that all images share: nothing, frameworks of
#: machine learning for CPUs, and those for CUDA. `frameworks.txt` lists them.
SLIM, ML, CUDA = VARIANTS = ("slim", "ml", "ml-cuda")
#: Where steps find the build context.
MOUNT = "/cumulus-build"
#: In the build context: this machine's folders of packages.
WHEELS = "wheels"
#: Part of each layer's key: raise it when layers are written differently.
LAYOUT = 1
_STEP = re.compile(rf"sh {MOUNT}/common/(steps/[a-z]+\.sh)((?: [a-z./-]+)*)")
#: In a step: the variant, as an engine is told it by `--build-arg`.
_VARIANT = "${VARIANT}"
#: How an engine brings in and clears away what is mounted, or told from before, without one.
_FOR_ENGINES = (
    f"RUN touch {MOUNT}/began",
    f"RUN find /usr/local -type f ! -cnewer {MOUNT}/began -delete",
    f"RUN rm -rf {MOUNT}",
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture() -> str:
    """This machine's, in Debian's and Docker's words."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise BuildError(f"images are made on {' and '.join(_ARCHITECTURES)} only, not {machine}")
    return _ARCHITECTURES[machine]


@dataclass(frozen=True)
class Step:
    """One script run inside the image, with its arguments."""

    script: str
    arguments: tuple[str, ...]

    def inputs(self, context: Path) -> list[Path]:
        """What decides its outcome, in the build context."""
        found = [context / "common" / self.script]
        if self.script == "steps/system.sh":
            found.append(context / "common" / "packages.apt")
            found += sorted((context / "common" / "settings" / "install-ca").glob("*"))
            return found
        if self.script == "steps/layer.sh":
            sources = context / self.arguments[0] / "opencl_layer"
            return found + sorted(path for path in sources.rglob("*") if path.is_file())
        found.append(context / "common" / "steps" / "compile.py")
        if self.script == "steps/code.sh":
            code = context / self.arguments[0] / "code"
            found += sorted(path for path in code.rglob("*") if path.is_file())
        else:
            found += [context / one for one in self.arguments if not one.startswith("--")]
        return found


@dataclass(frozen=True)
class Recipe:
    """One image's Dockerfile, read for one of its variants."""

    image: str
    variant: str
    steps: tuple[Step, ...]
    environment: tuple[str, ...]
    user: str
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its archive, and in messages: `job`, `job-ml`."""
        return self.image if self.variant == SLIM else f"{self.image}-{self.variant}"

    @property
    def tag(self) -> str:
        return f"cumulus-{self.image}:{'latest' if self.variant == SLIM else self.variant}"

    @property
    def dockerfile(self) -> Path:
        return IMAGES / self.image / "Dockerfile"

    def layer_keys(self, context: Path) -> list[str]:
        """Each step's layer by what it is made from: all before it, its script, its inputs."""
        keys = []
        above = _digest([LAYOUT, SUITE, architecture()])
        for step in self.steps:
            contents = [
                [str(path.relative_to(context)), hashlib.sha256(path.read_bytes()).hexdigest()]
                for path in step.inputs(context)
            ]
            above = _digest([above, step.script, step.arguments, contents])
            keys.append(above)
        return keys

    def content(self, context: Path) -> str:
        """The image by what it is made from, whichever way."""
        dockerfile = hashlib.sha256(self.dockerfile.read_bytes()).hexdigest()
        return _digest([version(), dockerfile, self.layer_keys(context)])

    def labels(self, content: str) -> dict[str, str]:
        """What is written on the image."""
        return {
            "cumulus.image": self.image,
            "cumulus.variant": self.variant,
            "cumulus.content": content,
            "org.opencontainers.image.version": version(),
        }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def read_recipe(image: str, variant: str = SLIM) -> Recipe:
    """The recipe in that image's Dockerfile. Raises BuildError for what isn't known here."""
    path = IMAGES / image / "Dockerfile"
    return parse_recipe(image, path.read_text(encoding="utf-8"), str(path), variant)


def parse_recipe(image: str, text: str, name: str, variant: str = SLIM) -> Recipe:
    """See `read_recipe`; `name` is for messages."""
    steps: list[Step] = []
    environment: tuple[str, ...] = ()
    user, command = "", ()
    for number, line in enumerate(text.splitlines(), 1):
        instruction, _, rest = line.strip().partition(" ")
        if not instruction or instruction.startswith("#"):
            continue
        if instruction in ("ARG", "FROM", "COPY") or line in _FOR_ENGINES:
            continue
        if variant == SLIM and _VARIANT in rest:
            continue  # it has nothing to install: an engine's step does nothing
        if instruction == "RUN" and (step := _STEP.fullmatch(rest.replace(_VARIANT, variant))):
            steps.append(Step(step[1], tuple(step[2].split())))
        elif instruction == "ENV":
            environment += tuple(rest.split())
        elif instruction == "USER":
            user = rest
        elif instruction == "CMD":
            command = tuple(json.loads(rest))
        else:
            raise BuildError(
                f"{name}:{number}: {line!r} can't be done without an engine; "
                f"steps are `RUN sh {MOUNT}/common/steps/NAME.sh ARGUMENT...`"
            )
    return Recipe(image, variant, tuple(steps), environment, user, command)


def version() -> str:
    """Of this checkout."""
    return str(_project()["version"])


def _project() -> dict[str, object]:
    with open(REPOSITORY / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    assert isinstance(project, dict)
    return project


def python_lists() -> tuple[list[str], list[str]]:
    """(what both images have, what the agent has beyond that), bounds as in pyproject.toml."""
    project = _project()
    extras = project["optional-dependencies"]
    dependencies = project["dependencies"]
    assert isinstance(extras, dict) and isinstance(dependencies, list)
    common: list[str] = []
    agent: list[str] = []
    seen: set[str] = set()
    for requirement in [*dependencies, *extras["agent"]]:
        name = _name(requirement)
        if name not in seen and name not in CLIENT_PYTHON:
            (common if name in COMMON_PYTHON else agent).append(requirement)
            seen.add(name)
    lost = set(COMMON_PYTHON) - seen
    if lost:
        raise BuildError(
            f"pyproject.toml no longer names {', '.join(sorted(lost))}; mend recipe.py"
        )
    return common, agent


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return found[0].lower() if found else requirement


def frameworks(variant: str) -> list[str]:
    """What a variant of the job image has beyond the shared layers. Raises BuildError."""
    parts: dict[str, list[str]] = {"": [], **{one: [] for one in VARIANTS if one != SLIM}}
    part = ""
    path = IMAGES / "frameworks.txt"
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if text.startswith("["):
            part = text.strip("[]")
        elif text and part in parts and re.fullmatch(r"[a-z0-9-]+={2,3}[^\s,*]+(; .+)?", text):
            parts[part].append(text)
        elif text:
            raise BuildError(f"{path}:{number}: {text!r} isn't NAME==VERSION in a variant's part")
    return [] if variant == SLIM else parts[""] + parts[variant]


def make_context(folder: Path) -> None:
    """Writes the build context, all but the settings."""
    common = folder / "common"
    common.mkdir(parents=True)
    (folder / WHEELS).mkdir()
    shutil.copytree(IMAGES / "steps", common / "steps", ignore=_IGNORED)
    shutil.copyfile(IMAGES / "packages.apt", common / "packages.apt")
    shared, agent = python_lists()
    _write_lines(common / "python.txt", shared)
    for image, packages in CODE.items():
        (folder / image).mkdir()
        for package in packages:
            shutil.copytree(
                REPOSITORY / package, folder / image / "code" / package, ignore=_IGNORED
            )
    shutil.copytree(
        IMAGES / "job" / "opencl_layer", folder / "job" / "opencl_layer", ignore=_NO_SOURCES
    )
    _write_lines(folder / "agent" / "python.txt", agent)
    for variant in VARIANTS:
        _write_lines(folder / "job" / f"{variant}.txt", frameworks(variant))


_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
#: What isn't compiled changes no image.
_NO_SOURCES = shutil.ignore_patterns("build", "*.md", ".*")


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
