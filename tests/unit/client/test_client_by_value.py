"""What has no source that could travel goes by value, and comes back as what it is here."""

import json
import sys
from pathlib import Path

import pytest

from tests.unit.client.client_scripts import UserScript

CONNECT = """\
from cumulus_client import CumulusClient, remote
client = CumulusClient("http://127.0.0.1:1")
"""
HERE = "{}.{}".format(*sys.version_info[:2])


@pytest.fixture
def user(tmp_path: Path) -> UserScript:
    folder = tmp_path / "user"
    folder.mkdir()
    return UserScript(folder)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("scale = 3\nclient.run(lambda x: x * scale, args=[2])", 6),
        ("def outer(n):\n    def inner(x): return n + x\n    return inner\n"
         "client.run(outer(4), args=[1])", 5),
        ("def base(x): return x + 1\n@remote(client)\ndef up(x): return base(x)\n"
         "client.run(lambda: up(1) + up(2))", 5),
        ("@remote(client)\ndef fall(n): return n if n < 1 else fall(n - 1)\n"
         "client.run(lambda: fall(3))", 0),
        ("for box in [object()]:\n    pass\ndef train(): return type(box).__name__\n"
         "client.run(train)", "object"),
        ("with client as c:\n    def train(): return 7\nclient.run(train)", 7),
        ("exec('def train(): return 8')\nclient.run(train)", 8),
        ("def train(): return 1\nold = train\ndef train(): return 2\nclient.run(old)", 1),
        ("def train():\n    return 1\ntext = open(__file__).read()\n"
         "open(__file__, 'w').write('# a line\\n' + text)\nclient.run(train)", 1),
        ("import functools\n@functools.lru_cache(maxsize=5)\n"
         "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\nfib(3)\n"
         "client.run(lambda: [fib(10), fib.cache_parameters()['maxsize']])", [55, 5]),
        ("import functools\n@functools.singledispatch\ndef kind(x): return 'any'\n"
         "@kind.register\ndef _(x: int): return 'int'\nkind(2)\n"
         "client.run(lambda: [kind(1), kind('a')])", ["int", "any"]),
        ("import math\nclient.run(lambda: math.sqrt(16))", 4.0),
        ("def apply(f, x): return f(x)\nclient.run(apply, args=[lambda x: x * 2, 3])", 6),
    ],
)  # fmt: skip
def test_it_travels_by_value(user: UserScript, body: str, value: object) -> None:
    ran = user.run(CONNECT + body + "\n")
    assert ran.value == value, ran.error
    manifest = json.loads(ran.files["cumulus_package.json"])
    assert manifest["kind"] == "callable"
    assert manifest["python"] == HERE
    assert ".cumulus/vendor/cloudpickle/cloudpickle.py" in ran.files


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("import functools\ndef add(a, b): return a + b\n"
         "client.run(functools.partial(add, 1), args=[2])", 3),
        ("class A:\n    def __init__(self, n): self.n = n\n    def f(self, x): return self.n + x\n"
         "client.run(A(4).f, args=[1])", 5),
        ("class A:\n    @staticmethod\n    def f(x): return x\n"
         "    @classmethod\n    def g(cls): return cls.__name__\n"
         "client.run(A.f, args=[9])", 9),
        ("class A:\n    @classmethod\n    def g(cls): return cls.__name__\nclient.run(A.g)", "A"),
        ("class A:\n    def __call__(self, x): return -x\nclient.run(A(), args=[9])", -9),
        ("client.run(len, args=[[1, 2]])", 2),
        ("client.run(dict, a=1)", {"a": 1}),
        ("import textwrap\nclient.run(textwrap.dedent, args=['  a'])", "a"),
        ("class A:\n    n = 3\ndef train(a, b): return a + b.n\n"
         "client.run(train, args=[1], b=A())", 4),
        ("import textwrap, functools\nclass A(str): pass\n"
         "client.run(textwrap.dedent, args=[A('  a')])", "a"),
    ],
)  # fmt: skip
def test_it_travels_by_name_for_any_python(user: UserScript, body: str, value: object) -> None:
    ran = user.run(CONNECT + body + "\n")
    assert ran.value == value, ran.error
    assert "python" not in json.loads(ran.files["cumulus_package.json"])
    assert not any(name.startswith(".cumulus") for name in ran.files)


def test_local_modules_travel_as_source_beside_a_lambda(user: UserScript) -> None:
    user.write("helpers.py", "import deep.leaf\nVALUE = 5\nclass Box:\n    n = 1\n")
    user.write("deep/leaf.py", "LEAF = 6\n")
    ran = user.run(
        CONNECT
        + "import helpers\nfrom helpers import Box\n"
        + "client.run(lambda box: [helpers.VALUE, helpers.deep.leaf.LEAF, box.n], args=[Box()])\n"
    )
    assert ran.value == [5, 6, 1]
    assert {"helpers.py", "deep/leaf.py"} <= set(ran.files)


def test_a_local_module_that_makes_a_client_goes_by_value(user: UserScript) -> None:
    user.write(
        "tasks.py",
        CONNECT
        + "def double(x): return 2 * x\nclass Box:\n    def __init__(self, n): self.n = n\n"
        + "def box(n): return Box(double(n))\n",
    )
    out = user.round_trip(
        CONNECT
        + "from tasks import Box, box, double\n"
        + "print(client.run(lambda: double(2)))\n"
        + "came = client.run(lambda: box(4))\n"
        + "print(type(came) is Box, came.n, client.last_encoding)\n"
    )
    assert out.splitlines() == ["4", "True 8 pickle"]


def test_classes_with_slots_keep_them(user: UserScript) -> None:
    out = user.round_trip(
        CONNECT
        + """
import abc, dataclasses
class Base(abc.ABC):
    __slots__ = ("n",)
    def __init__(self, n):
        self.n = n
class Child(Base):
    __slots__ = ()
    def double(self):
        return 2 * self.n
@dataclasses.dataclass(slots=True, frozen=True)
class Point:
    x: int
    tags: tuple = ()
def make():
    class Local:
        __slots__ = "a"
    return Local
Local = make()
local = Local()
local.a = 5
got = client.run(lambda c, p, l: [c, c.double(), hasattr(c, "__dict__"), Child(4), p, Point(2), l],
                 args=[Child(3), Point(1, (2,)), local])
print(got[0].n, got[1], got[2], got[3].n, got[4] == Point(1, (2,)), got[5], got[6].a)
print(type(got[0]) is Child, type(got[6]) is Local, hasattr(got[6], "__dict__"))
"""
    )
    assert out.splitlines() == ["3 6 False 4 True Point(x=2, tags=()) 5", "True True False"]


@pytest.mark.parametrize("call", ["train", "lambda box: train(box)"])
def test_values_of_the_scripts_classes_are_its_own_here(user: UserScript, call: str) -> None:
    out = user.round_trip(
        CONNECT
        + f"""
import dataclasses, enum
@dataclasses.dataclass
class Box:
    n: int
    def doubled(self):
        return Box(helper(self.n))
class Colour(enum.Enum):
    RED = 1
def helper(n):
    return 2 * n
def train(box):
    assert isinstance(box, Box), box
    return [box.doubled(), Colour.RED, Box, helper]
before = Box.doubled
values = client.run({call}, args=[Box(3)])
print(values[0] == Box(6), values[1] is Colour.RED, values[2] is Box, values[3] is helper)
print(Box.doubled is before, Box.doubled.__globals__ is globals())
"""
    )
    assert out.splitlines() == ["True True True True", "True True"]


def test_a_local_class_keeps_its_identity(user: UserScript) -> None:
    out = user.round_trip(
        CONNECT
        + """
def make():
    class Local:
        n = 1
    return Local
Local = make()
value = client.run(lambda local: [local, local.n, lambda x: x + 1], args=[Local()])
print(type(value[0]) is Local, value[1], value[2](1))
"""
    )
    assert out.splitlines() == ["True 1 2"]


def test_what_the_job_pickles_itself_finds_the_scripts_classes(user: UserScript) -> None:
    out = user.round_trip(
        CONNECT
        + """
class Box:
    n = 5
def train():
    import pickle
    return pickle.loads(pickle.dumps(Box())).n
print(client.run(train), client.run(lambda: train()))
"""
    )
    assert out.split() == ["5", "5"]


def test_tracebacks_show_the_users_file_line_and_source(user: UserScript) -> None:
    text = CONNECT + "def inner(x):\n    return x / 0  # here\nclient.run(lambda: inner(1))\n"
    ran = user.run(text)
    traceback = ran.told["traceback"]
    assert f'File "{user.folder / "train.py"}", line 4, in inner\n    return x / 0  # here' in (
        traceback
    )
    assert "client.run(lambda: inner(1))" in traceback
    lines = json.loads(ran.files[".cumulus/lines.json"])[str(user.folder / "train.py")]
    assert set(lines) == {"3", "4", "5"}, "no other line of the user's file travels"


def test_another_minor_version_is_refused_before_the_code(user: UserScript) -> None:
    ran = user.run(CONNECT + "client.run(lambda: open('ran', 'w'))\n")
    manifest = json.loads(ran.files["cumulus_package.json"])
    from cumulus_runner.job_values import CallFailed, check_python

    with pytest.raises(CallFailed) as failed:
        check_python({**manifest, "python": "3.1"})
    assert failed.value.report["state"] == "invalid"
    assert "pickled by Python 3.1" in failed.value.report["message"]
    assert HERE in str(failed.value.report["hint"])
    check_python(manifest)


def test_too_large_a_call_is_refused(user: UserScript) -> None:
    out = user.round_trip(
        CONNECT
        + """
import cumulus_client._arguments as a
a.MAX_CALL_BYTES = 1000
from cumulus_client import PackagingError
data = b"x" * 2000
def train(d): return len(d)
for call in (lambda: client.run(train, d=data), lambda: client.run(lambda: len(data))):
    try:
        call()
    except PackagingError as error:
        print(error)
"""
    )
    assert out.count("that a call may be; put large data into files (files=...), or") == 2
    assert "argument 'd'" in out and "the global 'data'" in out


def test_functions_typed_into_the_repl_run(user: UserScript) -> None:
    typed = CONNECT + "def helper():\n    return 2\n\ndef train():\n    return [helper(), base]\n\n"
    ran = user.run(command=["-i", "-q"], typed=typed + "base = 5\nclient.run(train)\n")
    assert ran.value == [2, 5], ran.error


def test_dash_c_works(user: UserScript) -> None:
    code = CONNECT + "def train(): return [helper(), 1]\ndef helper(): return 2\nclient.run(train)"
    ran = user.run(command=["-c", code])
    assert ran.value == [2, 1], ran.error
