"""PyTorch, the real one: where it can be imported, else in an environment made for these tests."""

import json

import pytest
from runtime_kit import Job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HEAD = """
import json, os, runtime, torch
torch.manual_seed(1)
torch.set_num_threads(1)

def net():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))

def batch(number):
    chance = torch.Generator().manual_seed(number)
    x = torch.randn(16, 4, generator=chance)
    return x, (x[:, 0] > 0).long()

def learn(model, optimizer, number, loose=None):
    x, y = batch(number)
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), y)
    if loose is not None:
        loss = loss + (loose - 1).square().sum()
    loss.backward()
    optimizer.step()

def digest(model):
    return [round(float(p.detach().double().sum()), 9) for p in model.parameters()]

def pause():
    open(os.environ["CUMULUS_CONTROL_DIR"] + "/pause", "w").close()
"""


def test_a_training_goes_on_exactly_where_it_was_saved(job: Job, torch_python: str) -> None:
    source = """
model = net()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
first = 0
if runtime.find_latest_checkpoint():
    found = runtime.load_checkpoint(model, optimizer)
    first = found["state"]["step"] + 1
    assert found["framework"] == "pytorch" and found["state"]["epoch"] == 2
    assert found["extra"] == {"best": {1, 2}} and found["local_path"].endswith(".pt")
for number in range(first, LAST):
    noise = float(torch.rand(1))
    learn(model, optimizer, number)
    runtime.save_checkpoint(model, optimizer, epoch=2, step=number, extra={"best": {1, 2}})
print(json.dumps([first, digest(model), noise, [c["step"] for c in runtime.list_checkpoints()]]))
"""
    whole = job.run(HEAD + source.replace("LAST", "20"), torch_python)
    for path in job.checkpoints.iterdir():
        path.unlink()
    job.run(HEAD + source.replace("LAST", "8"), torch_python)
    rest = job.run(HEAD + source.replace("LAST", "20"), torch_python)
    assert rest[0] == 8
    assert rest[1:3] == whole[1:3], "weights, the optimizer's state and chance go on"
    assert rest[3] == [19, 18, 17, 16, 15]


def test_one_file_as_the_old_class_had_it(job: Job, torch_python: str) -> None:
    told = job.run(
        HEAD
        + """
saver = runtime.Checkpointer("checkpoint.pt")
before = saver.exists()
model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
learn(model, optimizer, 0)
path = saver.save(model, optimizer, epoch=3, step=30)
want = digest(model)
other = net()
again = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
state = runtime.Checkpointer().load(other, again)
print(json.dumps([before, path, saver.exists(), state["epoch"], state["step"],
                  digest(other) == want, len(again.state_dict()["state"])]))
""",
        torch_python,
    )
    assert told == [False, str(job.checkpoints / "checkpoint.pt"), True, 3, 30, True, 4]


AUTO = """
manager = runtime.get_auto_checkpoint_manager()
def train(steps, at=None):
    torch.manual_seed(1)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for number in range(steps):
        if number == at:
            pause()
        learn(model, optimizer, number)
    return model, optimizer
"""


def test_a_plain_loop_is_saved_every_so_many_steps(job: Job, torch_python: str) -> None:
    status, state, steps = job.run(
        HEAD
        + AUTO
        + """
train(20)
print(json.dumps([manager.get_framework_status(), manager.framework_state["pytorch"],
                  [c["step"] for c in runtime.list_checkpoints()]]))
""",
        torch_python,
        CUMULUS_CHECKPOINT_EVERY_STEPS="6",
    )
    assert (status["pytorch"], state["step"], steps) == ("ok", 20, [18, 12, 6])


def test_a_plain_loop_pauses_at_a_step_and_begins_with_what_it_had(
    job: Job, torch_python: str
) -> None:
    source = HEAD + AUTO
    told = job.process(source + "train(20, at=6)", torch_python)
    assert "CooperativePause: paused after step 7 of pytorch" in told.stderr
    assert job.pause_seen
    (job.control / "pause").unlink()
    done = job.run(
        source
        + """
saved = runtime.load_checkpoint()["state"]
model, optimizer = train(1)
now = model.state_dict()
# The first step's gradients are of other weights: they move nothing.
print(json.dumps([all(torch.equal(now[k], v) for k, v in saved["model"].items()),
                  int(optimizer.state_dict()["state"][0]["step"]), saved["step"],
                  manager.framework_state["pytorch"]]))
""",
        torch_python,
    )
    same, adam_steps, saved, state = done
    assert same and adam_steps == saved == 7
    assert state["resumed"] is True and state["step"] == 8


def test_several_optimizers_models_and_loose_parameters_come_back(
    job: Job, torch_python: str
) -> None:
    source = (
        HEAD
        + """
import copy
manager = runtime.get_auto_checkpoint_manager()
class Wrapped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.other = net(), torch.nn.Linear(1, 1)
    def forward(self, x):
        return self.inner(x)
first, second, unused = copy.deepcopy(Wrapped()), net(), net()
loose = torch.zeros(3, requires_grad=True)
one = torch.optim.AdamW(first.inner.parameters(), lr=0.01)
two = torch.optim.SGD([*second.parameters(), loose], lr=0.1, momentum=0.9)
seen = []
for number in range(STEPS):
    learn(second, two, number, loose)
    if number == 4:
        pause()
    learn(first, one, number)
    seen.append([digest(first), digest(second), loose.tolist()])
print(json.dumps([seen, manager.get_framework_status()["pytorch"]]))
"""
    )
    # `two` steps first, so it counts: the pause comes at its sixth step.
    told = job.process(source.replace("STEPS", "20"), torch_python)
    assert "paused after step 6 of pytorch" in told.stderr, told.stderr
    (job.control / "pause").unlink()
    told = job.process(source.replace("STEPS", "1"), torch_python)
    assert told.returncode == 0, told.stderr
    resumed = job.run(
        HEAD + "print(json.dumps(runtime.load_checkpoint()['extra']['numbers']))", torch_python
    )
    assert resumed == [0, 1]
    whole = job.run(
        source.replace("STEPS", "6").replace("number == 4", "False"),
        torch_python,
        CUMULUS_CHECKPOINT_DIR=str(job.folder / "elsewhere"),
    )
    [[first, second, loose]], status = json.loads(told.stdout.splitlines()[-1])
    assert status == "ok"
    assert second == whole[0][5][1] and loose == whole[0][5][2]
    assert first == whole[0][4][0], "it had made five steps"
