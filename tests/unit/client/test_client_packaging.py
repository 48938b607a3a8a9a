"""A function travels with what it reaches, and runs where there is no cumulus_client."""

import json
from pathlib import Path

import pytest

from tests.unit.client.client_scripts import REPOSITORY, Refused, UserScript

CONNECT = """\
from cumulus_client import CumulusClient, remote, gpu, async_remote, create_remote_function
client = CumulusClient("http://127.0.0.1:1")
"""


@pytest.fixture
def user(tmp_path: Path) -> UserScript:
    folder = tmp_path / "user"
    folder.mkdir()
    return UserScript(folder)


def test_unguarded_script_runs_without_its_top_level(user: UserScript) -> None:
    ran = user.run(
        CONNECT
        + """
print("TOP LEVEL")
def helper(x):
    return x + 1

def train(n, scale=2):
    return helper(n) * scale

result = client.run(train, args=[3], scale=10)
open("ran_to_the_end", "w").close()
"""
    )
    assert ran.value == 40
    source = ran.files["cumulus_main_train.py"]
    assert "TOP LEVEL" not in source
    assert "cumulus_client" not in source
    manifest = json.loads(ran.files["cumulus_package.json"])
    assert manifest == {
        "version": 1,
        "kind": "function",
        "module": "cumulus_main_train",
        "function": "train",
        "call": "call.json",
        "origins": {"cumulus_main_train.py": str(user.folder / "train.py")},
    }
    assert json.loads(ran.files["call.json"]) == {
        "encoding": "json",
        "args": [3],
        "kwargs": {"scale": 10},
    }
    assert (user.folder / "ran_to_the_end").exists()


def test_tracebacks_keep_lines_and_source(user: UserScript) -> None:
    text = (
        CONNECT
        + """
import os, json

def inner(x):
    # a comment
    return x / 0  # here


def train():
    return inner(1)

client.run(train)
"""
    )
    line = text.splitlines().index("    return x / 0  # here") + 1
    ran = user.run(text)
    assert ran.error == "ZeroDivisionError: division by zero"
    assert f'cumulus_main_train.py", line {line}, in inner' in ran.traceback
    assert "return x / 0  # here" in ran.traceback


@pytest.mark.parametrize(
    "decorator", ["remote(client)", "gpu(client, memory=0.25)", "remote(client, 0.5, 60)"]
)
def test_decorator_syntax(user: UserScript, decorator: str) -> None:
    ran = user.run(
        CONNECT
        + f"""
@{decorator}
def helper(x):
    return x * 2

@{decorator}
def train(n):
    return helper(n) + 1

train(4)
"""
    )
    assert ran.value == 9
    assert "@" not in ran.files["cumulus_main_train.py"]


def test_decorator_over_several_lines_and_beside_others(user: UserScript) -> None:
    ran = user.run(
        CONNECT
        + """
import functools
on_gpu = gpu(client)

def twice(func):
    @functools.wraps(func)
    def call(*args):
        return [func(*args), func(*args)]
    return call

@remote(
    client,
    duration=5,
)
@twice
def train(n):
    return n

@on_gpu
def other():
    return train(1)

other()
"""
    )
    assert ran.value == [1, 1]


def test_alias_of_a_remote_function_is_the_plain_function(user: UserScript) -> None:
    ran = user.run(
        CONNECT
        + """
def square(x):
    return x * x
remote_square = create_remote_function(client, square)

def train():
    return remote_square(5)
client.run(train)
"""
    )
    assert ran.value == 25


def test_literals_travel_as_they_are_now(user: UserScript) -> None:
    ran = user.run(
        CONNECT
        + """
STEPS = 1
NAMES = ["a"]
BIG = {"k": (1, 2.5, None, True, b"x", "é\\n", {3}, frozenset({4}), 1 + 2j, [])}
INF, NAN = float("inf"), float("nan")
A = 1; B = 2
for LAST in range(5):
    pass
with open(__file__) as FILE:
    FIRST_LINE = FILE.readline()
if STEPS:
    BRANCH = "yes"
NAMES.append("b")
def change():
    global STEPS
    STEPS = 7
change()

def train():
    return [STEPS, NAMES, repr(BIG), INF > 1e308, NAN != NAN, A, B, LAST, BRANCH, FIRST_LINE]
client.run(train)
"""
    )
    assert ran.value[0] == 7
    assert ran.value[1] == ["a", "b"]
    assert ran.value[2] == repr(
        {"k": (1, 2.5, None, True, b"x", "é\n", {3}, frozenset({4}), 1 + 2j, [])}
    )
    assert ran.value[3:9] == [True, True, 1, 2, 4, "yes"]
    assert ran.value[9].startswith("from cumulus_client import")
    assert "open(__file__)" not in ran.files["cumulus_main_train.py"]


def test_globals_that_are_made_again(user: UserScript) -> None:
    ran = user.run(
        CONNECT
        + """
import re, threading, collections
from dataclasses import dataclass, field
PREFIX = "a"
PATTERN = re.compile(PREFIX + "+")
LOCK = threading.Lock()
Point = collections.namedtuple("Point", "x y")

@dataclass
class Config:
    lr: float = 0.1
    tags: list = field(default_factory=list)

class Base:
    scale = 3

class Model(Base):
    def __init__(self, config: Config = Config()):
        self.config = config
    def go(self):
        return self.scale * self.config.lr

CONFIG = Config(lr=2.0)
CONFIG.lr = 4.0
UNUSED = client

def train():
    with LOCK:
        return [PATTERN.findall("caaat"), Point(1, 2).x, Model(CONFIG).go()]
client.run(train)
"""
    )
    assert ran.value == [["aaa"], 1, 12.0]
    assert "import re, threading, collections" in ran.files["cumulus_main_train.py"]


def test_imports_are_narrowed(user: UserScript) -> None:
    ran = user.run(
        CONNECT
        + """
import os, json, sqlite3
import xml.etree.ElementTree as ET, xml.dom
from math import sin, cos, pi
from string import *

def train():
    import base64
    return [json.dumps([1]), cos(0), ascii_lowercase[:2], ET.__name__]
client.run(train)
"""
    )
    assert ran.value == ["[1]", 1.0, "ab", "xml.etree.ElementTree"]
    assert "sqlite3" not in ran.modules
    assert "sin" not in ran.files["cumulus_main_train.py"]


def test_conditional_imports_are_kept_whole(user: UserScript) -> None:
    ran = user.run(
        "from __future__ import annotations\n"
        + CONNECT
        + """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from decimal import Decimal
try:
    import nosuchmodule as fast
except ImportError:
    import json as fast

def train(x: Decimal | Missing = None) -> Decimal:
    y: AlsoMissing = 1
    return fast.dumps(y)
client.run(train)
"""
    )
    assert ran.value == "1"
    assert "from decimal import Decimal" in ran.files["cumulus_main_train.py"]


def test_mutual_recursion_and_function_scopes(user: UserScript) -> None:
    ran = user.run(
        CONNECT
        + """
def even(n):
    return n == 0 or odd(n - 1)

def odd(n):
    return n != 0 and even(n - 1)

def counted():
    global COUNT
    COUNT += 1
    return COUNT
COUNT = 5

def train(client):
    data = [client for client in range(3)]
    f = lambda remote: remote + 1
    return [even(10), counted(), data, f(client), (lambda gpu=2: gpu)()]
client.run(train, args=[1])
"""
    )
    assert ran.value == [True, 6, [0, 1, 2], 2, 2]


def test_registries_and_single_dispatch_travel(user: UserScript) -> None:
    ran = user.run(
        CONNECT
        + """
import functools
HANDLERS = {}

def handler(name):
    def add(func):
        HANDLERS[name] = func
        return func
    return add

@handler("a")
def handle_a():
    return "A"

TABLE = {}
TABLE["b"] = lambda: "B"

@functools.singledispatch
def show(value):
    return "other"

@show.register(int)
def _(value):
    return "int"

def train():
    return [HANDLERS["a"](), TABLE["b"](), show(1), show("")]
client.run(train)
"""
    )
    assert ran.value == ["A", "B", "int", "other"]


def test_lazily_made_global_starts_anew(user: UserScript) -> None:
    ran = user.run(
        CONNECT
        + """
MODEL = None
def model():
    global MODEL
    if MODEL is None:
        MODEL = object()
    return MODEL
model()
def train():
    return model() is model()
client.run(train)
"""
    )
    assert ran.value is True


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def train():\n    return client\nclient.run(train)", ["'train'", "'client'", "line 2"]),
        (
            "def helper():\n    return client\ndef train():\n    return helper()\n"
            "client.run(train)",
            ["'helper', which uses the global 'client'"],
        ),
        (
            "import numbers\nclass Box: pass\nresult = Box()\n"
            "result.value = client.list_jobs\ndef train():\n    return client\nclient.run(train)",
            ["'client'", "of the Cumulus client"],
        ),
        (
            "import threading\nfor box in [threading.Lock()]:\n    pass\n"
            "def train():\n    return box\nclient.run(train)",
            ["'box'", "lock", "in a loop", "hint:"],
        ),
        (
            "import threading\nif __name__ == '__main__':\n    box = threading.Lock()\n"
            "def train():\n    return box\nclient.run(train)",
            ["'box'", "__name__"],
        ),
        (
            "import threading\nBOX = None\ndef setup():\n    global BOX\n"
            "    BOX = threading.Lock()\nsetup()\n"
            "def train():\n    return BOX\nclient.run(train)",
            ["'BOX'", "says None", "lock now"],
        ),
        (
            "def helper(): return client\nclient.run(lambda: helper())",
            ["'<lambda>'", "the global 'helper', the global 'client'", "of the Cumulus client"],
        ),
        (
            "def outer(file):\n    def inner(): return file\n    return inner\n"
            "client.run(outer(open(__file__)))",
            ["'outer.<locals>.inner'", "'file' that it closes over", "TextIO"],
        ),
        (
            "import functools, threading\nclient.run(functools.partial(print, [threading.Lock()]))",
            ["partial of print", "its argument 1[0] is a lock"],
        ),
        (
            "class A:\n    def __init__(self): self.lines = (line for line in [])\n"
            "    def f(self): pass\nclient.run(A().f)",
            ["'A.f'", "its object.lines is a generator"],
        ),
        (
            "def f(a): pass\nclient.run(f, a=iter_of())".replace("iter_of()", "(n for n in [1])"),
            ["argument 'a'", "generator"],
        ),
        (
            "import threading\ndef f(a): pass\nclient.run(f, a={'x': [threading.Lock()]})",
            ["argument 'a'", "['x'][0] is a lock"],
        ),
        ("async def train():\n    yield 1\nclient.run(train)", ["generator", "list"]),
        ("def train():\n    yield 1\nclient.run(train)", ["generator", "list"]),
        (
            "import functools\ndef train(): yield\nclient.run(functools.partial(train))",
            ["generator", "list"],
        ),
        ("client.run(3)", ["int", "function", "run(train, epochs=3)"]),
        ("client.run('train.py')", ["str", "run_script()"]),
        ("def train(a): pass\nclient.run(train, args=[client])", ["positional argument 1"]),
        ("def train(a): pass\nclient.run(train, a=open(__file__))", ["argument 'a'", "TextIO"]),
        (
            "from cumulus_client import JobFailed\ndef train():\n    raise JobFailed('x')\n"
            "client.run(train)",
            ["'JobFailed'", "part of cumulus_client"],
        ),
    ],
)
def test_refusals_say_what_and_what_to_do(user: UserScript, body: str, words: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        user.pack(CONNECT + body + "\n")
    text = str(refused.value)
    assert all(word in text for word in words), text
    assert "hint:" in text


def test_local_modules_travel_whole(user: UserScript) -> None:
    user.write("helpers.py", "import deep.sub.leaf\nfrom deep import name\nVALUE = 5\nprint('h')\n")
    user.write("deep/__init__.py", "from .other import name\n")
    user.write("deep/other.py", "name = 'other'\n")
    user.write("deep/sub/leaf.py", "from .. import other\nLEAF = other.name + '!'\n")
    user.write("unused.py", "1/0\n")
    user.write("deep/data.txt", "not code")
    ran = user.run(
        CONNECT
        + """
import helpers
def train():
    import deep.sub.leaf as leaf
    return [helpers.VALUE, helpers.name, leaf.LEAF]
client.run(train)
"""
    )
    assert ran.value == [5, "other", "other!"]
    assert set(ran.files) == {
        "cumulus_package.json",
        "call.json",
        "cumulus_main_train.py",
        "helpers.py",
        "deep/__init__.py",
        "deep/other.py",
        "deep/sub/leaf.py",
    }


def test_what_every_job_has_is_not_shipped_but_one_s_own_of_that_name_is(user: UserScript) -> None:
    inside = str(REPOSITORY / "cumulus_runner" / "inside")
    user.write("at_home.py", f"import sys; sys.path.append({inside!r})\n")
    text = f"""{CONNECT}
import at_home
def train(ask):
    if ask:
        import runtime, distributed_checkpointer
        return runtime.mine
    return 1
client.run(train, ask=ASK)
"""
    packed = user.run(text.replace("ASK", "False"))
    assert packed.value == 1
    assert not [name for name in packed.files if name.startswith(("runtime", "distributed"))]
    user.write("runtime.py", "mine = 7\n")
    user.write("distributed_checkpointer.py", "")
    own = user.run(text.replace("ASK", "True"))
    assert own.value == 7
    assert {"runtime.py", "distributed_checkpointer.py"} < set(own.files)


def test_function_of_a_local_module_is_reduced_in_its_package(user: UserScript) -> None:
    user.write("pkg/__init__.py", "")
    user.write("pkg/util.py", "def double(x):\n    return 2 * x\n")
    user.write(
        "pkg/tasks.py",
        "import sqlite3\nfrom . import util\nfrom .util import double\n"
        "class Item:\n    def __init__(self, n): self.n = n\n"
        "def task(item):\n    return util.double(item.n) + double(1)\n",
    )
    ran = user.run(
        CONNECT + "from pkg import tasks\nclient.run(tasks.task, args=[tasks.Item(4)])\n"
    )
    assert ran.value == 10
    assert "sqlite3" not in ran.files["pkg/tasks.py"]
    assert "class Item" in ran.files["pkg/tasks.py"]  # the pickled argument needs it


def test_module_imported_by_others_travels_whole(user: UserScript) -> None:
    user.write("pkg/__init__.py", "from .tasks import other\n")
    user.write("pkg/tasks.py", "def other(): return 'o'\ndef task(): return 't'\n")
    ran = user.run(CONNECT + "import pkg.tasks\nclient.run(pkg.tasks.task)\n")
    assert ran.value == "t"
    assert "def other" in ran.files["pkg/tasks.py"]


def test_local_module_that_needs_the_client_is_refused(user: UserScript) -> None:
    user.write("tasks.py", "import os\nfrom cumulus_client import gpu\nX = 1\n")
    with pytest.raises(Refused, match=r"(?s)'tasks'.*line 2.*hint: move"):
        user.pack(CONNECT + "import tasks\ndef train(): return tasks.X\nclient.run(train)\n")


def test_module_run_with_dash_m_keeps_its_package(user: UserScript) -> None:
    user.write("app/__init__.py", "")
    user.write("app/conf.py", "N = 3\n")
    user.write(
        "app/main.py", CONNECT + "from .conf import N\ndef train(): return N\nclient.run(train)\n"
    )
    ran = user.run(command=["-m", "app.main"])
    assert ran.value == 3
    assert "app/cumulus_main_main.py" in ran.files


def test_installed_functions_travel_by_name(user: UserScript) -> None:
    ran = user.run(CONNECT + "import textwrap\nclient.run(textwrap.dedent, args=['  a'])\n")
    assert ran.value == "a"
    assert set(ran.files) == {"cumulus_package.json", "call.json"}


def test_arguments_keep_their_types(user: UserScript) -> None:
    ran = user.run(
        CONNECT
        + """
import datetime
def train(*args, **kwargs):
    return [repr(args), repr(kwargs)]
client.run(train, args=[(1, 2), {1: "a"}, float("nan"), True], when=datetime.date(2020, 1, 2))
"""
    )
    assert ran.value[0] == "((1, 2), {1: 'a'}, nan, True)"
    assert "datetime.date(2020, 1, 2)" in ran.value[1]
    assert "call.pickle" in ran.files


def test_keywords_of_run_itself_reach_a_decorated_function(user: UserScript) -> None:
    ran = user.run(
        CONNECT
        + """
@remote(client)
def train(timeout, gpu_memory, args):
    return [timeout, gpu_memory, args]
train(1, gpu_memory="x", args=[2])
"""
    )
    assert ran.value == [1, "x", [2]]


def test_equal_code_gives_an_equal_package(user: UserScript) -> None:
    text = (
        CONNECT
        + """
TAGS = {"a", "b", "c", "d"}
def train():
    return sorted(TAGS)
client.run(train)
"""
    )
    assert user.pack(text) == user.pack(text)


def test_odd_layouts_keep_valid_source(user: UserScript) -> None:
    ran = user.run(
        CONNECT
        + """
é = 1; X = object(); Y = 2; Z = [
    object(),
]; W = 4
P, Q = 5, object()
try:
    import json as J; MODE = "fast"
except ImportError:
    MODE = "slow"
def train(): return [é, type(X).__name__, Y, len(Z), W, P, type(Q).__name__, J.dumps(1), MODE]
client.run(train)
"""
    )
    assert ran.value == [1, "object", 2, 1, 4, 5, "object", "1", "fast"]
