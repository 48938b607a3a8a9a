"""The job image's variant `ml`: a job trains with all of its frameworks, as any job is confined."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from engines.cluster import Cluster
from tests.e2e.test_e2e_jobs import HEAD, last_json
from tests.e2e.test_e2e_training import check_training_example
from tests.engine.swarm_daemon import TOKENS, SwarmDaemon, on_cluster

sys.path.insert(0, str(Path(__file__).parents[2] / "images"))
from builder.recipe import ML, frameworks

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

#: Small, seeded, and easy to learn: whoever learns nothing of it fails.
TRAINING = """
def train():
    import os
    import time

    seconds = {}

    def timed(name):
        began = time.monotonic()
        module = __import__(name)
        seconds[name] = round(time.monotonic() - began, 2)
        return module

    torch = timed("torch")
    import importlib.metadata

    import numpy

    pandas = timed("pandas")
    timed("sklearn")
    xgboost = timed("xgboost")
    lightgbm = timed("lightgbm")
    transformers = timed("transformers")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    chance = numpy.random.default_rng(7)
    table = pandas.DataFrame(chance.normal(size=(600, 4)), columns=list("abcd"))
    table["label"] = (table.a + 2 * table.b > 0).astype("int64")
    features, labels = table[list("abcd")], table["label"]
    metrics = {"pandas": float(table.groupby("label").b.mean().diff().iloc[-1])}

    # In processes of their own, as a job's code may have them.
    scores = cross_val_score(LogisticRegression(), features, labels, cv=3, n_jobs=2)
    metrics["sklearn"] = float(scores.mean())
    for name, model in (
        ("xgboost", xgboost.XGBClassifier(n_estimators=30, n_jobs=2)),
        ("lightgbm", lightgbm.LGBMClassifier(n_estimators=30, n_jobs=2, verbose=-1)),
    ):
        model.fit(features[:400], labels[:400])
        metrics[name] = float((model.predict(features[400:]) == labels[400:]).mean())

    torch.manual_seed(7)
    x = torch.tensor(features.to_numpy(), dtype=torch.float32)
    y = torch.tensor(labels.to_numpy())
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
    data = torch.utils.data.TensorDataset(x[:400], y[:400])
    # Its workers hand tensors over in shared memory.
    batches = torch.utils.data.DataLoader(data, batch_size=50, shuffle=True, num_workers=1)
    for _ in range(5):
        for some, wanted in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(some), wanted).backward()
            optimizer.step()
    torch.save(net.state_dict(), "net.pt")
    net.load_state_dict(torch.load("net.pt", weights_only=True))
    metrics["torch"] = float((net(x[400:]).argmax(1) == y[400:]).float().mean())

    # Does the sentence have the token 7? Nothing is downloaded: its weights are random.
    tokens = torch.tensor(chance.integers(8, 32, size=(128, 6)))
    wanted = torch.arange(128) % 2
    tokens[wanted == 1, 3] = 7
    bert = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=8, num_labels=2,
        )
    )
    optimizer = torch.optim.AdamW(bert.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        bert(input_ids=tokens, labels=wanted).loss.backward()
        optimizer.step()
    bert.save_pretrained("bert")
    again = transformers.BertForSequenceClassification.from_pretrained("bert").eval()
    found = again(input_ids=tokens).logits.argmax(1)
    metrics["transformers"] = float((found == wanted).float().mean())

    def can_write(path):
        try:
            open(path, "w").close()
            return True
        except OSError:
            return False

    installed = {
        one.metadata["Name"].lower().replace("_", "-"): one.version
        for one in importlib.metadata.distributions()
    }
    return {
        "metrics": metrics, "installed": installed, "import_seconds": seconds, "uid": os.getuid(),
        "cuda": torch.cuda.is_available(), "root_writable": can_write("/usr/local/x"),
        "scratch": os.getcwd(),
    }

print(json.dumps(client.run(train, duration=300)))
"""


@pytest.fixture(scope="module")
def swarm(
    engine_packages: None,
    image_archives: dict[str, Path],
    ml_archive: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[SwarmDaemon]:
    """A daemon whose jobs run in `cumulus-job:ml`, on one engine of its own: it goes with all that
    was loaded into it."""
    with Cluster.create(tmp_path_factory.mktemp("ml") / "cluster", nodes=1, workers=1) as cluster:
        began = time.monotonic()
        cluster.load(ml_archive)
        print(f"loading {ml_archive.stat().st_size / 1e6:.0f} MB: {time.monotonic() - began:.1f} s")
        cluster.load(image_archives["cumulus-agent:latest"])
        images = {"cumulus-job:latest": "cumulus-job:ml"} | {
            tag: tag for tag in image_archives if tag != "cumulus-job:latest"
        }
        with on_cluster(SwarmDaemon(tmp_path_factory.mktemp("swarm"), cluster, images), 1) as made:
            yield made


def test_a_job_trains_with_every_framework_and_requires_none(swarm: SwarmDaemon) -> None:
    """Requirement 15.1, on the job's read-only root, as its user, in its scratch folder."""
    told = last_json(swarm.run(HEAD + TRAINING, timeout_s=400).stdout)
    print(told["metrics"], told["import_seconds"])
    metrics = told["metrics"]
    assert set(metrics) == {"pandas", "sklearn", "xgboost", "lightgbm", "torch", "transformers"}
    assert all(value > 0.85 for value in metrics.values()), metrics
    assert (told["uid"], told["cuda"], told["root_writable"]) == (1000, False, False)
    assert told["scratch"].startswith("/var/lib/cumulus/jobs/job_")
    pins = {
        pin.name: next(iter(pin.specifier)).version
        for pin in map(Requirement, frameworks(ML))
        if pin.marker is None or pin.marker.evaluate()
    }
    assert pins.items() <= told["installed"].items()
    assert not [name for name in told["installed"] if name.startswith("nvidia-")]
    swarm.wait_nothing_left(30.0)


def test_the_example_trains_is_paused_and_goes_on(swarm: SwarmDaemon) -> None:
    """PyTorch's checkpoint outlives its container, in what the job keeps on its worker."""
    check_training_example(swarm.url, TOKENS["client"])
    swarm.wait_nothing_left(30.0)
