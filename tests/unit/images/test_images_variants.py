"""The variants of the job image: one recipe, and what of it differs."""

from pathlib import Path

import pytest
from builder import command, engine, recipe
from builder.errors import BuildError
from builder.recipe import CUDA, ML, SLIM, VARIANTS, make_context, read_recipe
from builder.wheels import Wheels
from packaging.requirements import Requirement


@pytest.fixture
def context(tmp_path: Path) -> Path:
    make_context(tmp_path / "context")
    (tmp_path / "context" / "common" / "settings").mkdir()
    return tmp_path / "context"


def unfit(*arguments: str) -> str | None:
    return command.unfit(command.parse(arguments))


def test_ml_is_slim_with_one_layer_more_beneath_what_changes_often(context: Path) -> None:
    slim, ml, cuda = (read_recipe("job", variant) for variant in VARIANTS)
    steps = [(step.script, step.arguments) for step in slim.steps]
    assert [(step.script, step.arguments) for step in ml.steps] == [
        *steps[:2],
        ("steps/python.sh", ("--exact", "job/ml.txt")),
        *steps[2:],
    ]
    keys = [one.layer_keys(context) for one in (slim, ml, cuda)]
    assert keys[0][:2] == keys[1][:2] == keys[2][:2]
    assert len({key for each in keys for key in each[2:]}) == sum(len(each) - 2 for each in keys)
    before = ml.layer_keys(context)
    (context / "job" / "code" / "cumulus_runner" / "__main__.py").write_text("changed")
    assert ml.layer_keys(context)[:3] == before[:3]
    (context / "job" / "ml.txt").write_text("torch==1\n")
    assert ml.layer_keys(context)[2] != before[2]
    assert slim.layer_keys(context)[:2] == keys[0][:2]


def test_each_variant_has_a_name_of_its_own() -> None:
    made = [read_recipe("job", variant) for variant in VARIANTS]
    assert [one.tag for one in made] == [
        "cumulus-job:latest",
        "cumulus-job:ml",
        "cumulus-job:ml-cuda",
    ]
    assert [one.name for one in made] == ["job", "job-ml", "job-ml-cuda"]
    assert [one.labels("x")["cumulus.variant"] for one in made] == list(VARIANTS)
    assert len({(one.user, one.command, one.environment) for one in made}) == 1


def test_every_package_is_pinned_once_and_cpu_brings_nothing_of_cuda(context: Path) -> None:
    wanted = {"torch", "scikit-learn", "lightgbm", "pandas", "transformers"}
    names: dict[str, list[str]] = {}
    for variant in (ML, CUDA):
        lines = (context / "job" / f"{variant}.txt").read_text().splitlines()
        pins = [Requirement(line) for line in lines]
        for pin in pins:
            (specifier,) = pin.specifier
            assert specifier.operator in ("==", "===") and "*" not in specifier.version, pin
        environment = {"platform_machine": "x86_64"}
        chosen = [one for one in pins if one.marker is None or one.marker.evaluate(environment)]
        names[variant] = [pin.name for pin in chosen]
        assert len(names[variant]) == len(set(names[variant]))
        assert wanted <= set(names[variant])
    assert "xgboost-cpu" in names[ML] and "xgboost" in names[CUDA]
    assert not [name for name in names[ML] if name.startswith(("nvidia-", "cuda-", "triton"))]
    assert (context / "job" / "slim.txt").read_text() == ""


def test_a_cpu_build_never_answers_for_cudas() -> None:
    (torch,) = [one for one in map(Requirement, recipe.frameworks(CUDA)) if one.name == "torch"]
    assert list(torch.specifier.filter(["2.13.0", "2.13.0+cpu"])) == ["2.13.0"]


@pytest.mark.parametrize("line", ["torch>=2", "torch", "[other]\ntorch==1", "torch==2.*"])
def test_a_list_that_pins_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    (tmp_path / "frameworks.txt").write_text(f"# a comment\n{line}\n")
    monkeypatch.setattr(recipe, "IMAGES", tmp_path)
    with pytest.raises(BuildError, match=r"frameworks\.txt:[23]: 'torch"):
        recipe.frameworks(ML)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("agent --variant ml", "only the job image has variants"),
        ("all --variant ml", "only the job image has variants"),
        ("job --cuda --base x", "--cuda goes with --variant ml"),
        ("job --variant ml --cuda", "can't be made by debootstrap"),
        ("job --variant ml --cuda --base x --rootfs debootstrap", "can't be made by debootstrap"),
        ("job --variant ml --cuda --base x --apt-mirror http://m", "--apt-mirror is for Debian"),
    ],
)
def test_what_can_not_go_together_is_refused(
    capsys: pytest.CaptureFixture[str], words: str, told: str
) -> None:
    assert told in (unfit(*words.split()) or "")
    assert command.main(words.split()) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["all", "job --variant slim", "job --variant ml", "job --variant ml --cuda --base x"]
)
def test_the_others_are_taken(words: str) -> None:
    assert unfit(*words.split()) is None


def test_cuda_without_an_engine_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["job", "--variant", "ml", "--cuda", "--base", "cuda:runtime"]
    assert command.main([*words, "--output", str(tmp_path / "out")]) == 1
    assert "--rootfs registry: there is no docker command" in capsys.readouterr().err
    left = [path for path in (tmp_path / "out").rglob("*") if path.name != ".lock"]
    assert left == [tmp_path / "out" / "cache"]


@pytest.mark.parametrize("variant", [SLIM, ML, CUDA])
def test_an_engine_is_told_base_and_variant(
    context: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(
        engine, "_try", lambda argv, timeout_s, lines=3: ran.append(list(argv)) or None
    )
    monkeypatch.setattr(engine, "loaded_id", lambda target: "sha256:0")
    target = context.parent / "image.tar"
    target.touch()
    made = read_recipe("job", variant)
    engine.build_image(
        made,
        content="c",
        base="cuda:runtime",
        context=context,
        wheels=Wheels(),
        target=target,
        refresh=False,
    )
    build, save = ran
    told = [build[at + 1] for at, word in enumerate(build) if word == "--build-arg"]
    assert told == ["BASE=cuda:runtime", f"VARIANT={variant}"]
    assert build[build.index("--tag") + 1] == made.tag == save[-1]


def test_what_cpu_builds_of_pytorch_take_is_told() -> None:
    fault = "No matching distribution found for torch==2.13.0+cpu"
    assert "PIP_FIND_LINKS" in command.advice(read_recipe("job", ML), fault)
    assert command.advice(read_recipe("job", ML), "no disk") == ""
    assert command.advice(read_recipe("job", CUDA), fault) == ""
