"""When the grant has expired or is damaged, everything is refused and nothing crashes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from opencl_layer_kit import MIB, Layer, finish

from cumulus_wire.grant import OPENCL_USAGE_BYTES

QUOTA = 64 * MIB
OUT_OF_RESOURCES = -5
#: Asks the layer itself, with no driver below it: quick.
ASK = """
import ctypes, sys
layer = ctypes.CDLL(sys.argv[1])
uint, void = ctypes.c_uint, ctypes.c_void_p
no_platforms = ctypes.CFUNCTYPE(ctypes.c_int, uint, void, void)(lambda *_: -1001)
below = (ctypes.c_void_p * 200)()
below[0] = ctypes.cast(no_platforms, ctypes.c_void_p)
count, table = ctypes.c_uint(), ctypes.POINTER(ctypes.c_void_p)()
status = layer.clInitLayer(200, below, ctypes.byref(count), ctypes.byref(table))
if status != 0:
    sys.exit("inert")
ask = ctypes.CFUNCTYPE(ctypes.c_int, void, uint, ctypes.c_size_t, void, void)(table[1])
text = ctypes.create_string_buffer(2048)
assert ask(None, 0x43554D55, 2048, text, None) == 0
print(text.value.decode(), end="")
"""


def refused(layer: Layer) -> str:
    """Why everything is refused with the grant as it stands."""
    process = subprocess.Popen(
        [sys.executable, "-c", ASK, str(layer.library)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    with process:
        ended = finish(process)
    if ended.returncode == 1 and ended.stderr == "inert\n":
        return "inert"
    assert ended.returncode == 0, ended
    found = dict(line.split("=", 1) for line in ended.stdout.splitlines())
    return found["refused"]


NO_DEVICE = "no OpenCL driver in this container shows the granted device"


def test_a_grant_that_is_not_exactly_as_expected_is_none(layer: Layer) -> None:
    assert refused(layer) == "inert"
    sound = layer.lines(QUOTA)
    layer.write(sound)
    assert refused(layer) == NO_DEVICE  # it was taken: only the driver is missing here
    wrong: dict[str, dict[str, str | None]] = {
        "the grant has a line that this layer doesn't know": {"quota": "5"},
        "the grant is of another version": {"version": "2"},
        "the grant names no quota": {"quota_bytes": "-1"},
        "the grant names no quota ": {"quota_bytes": None},
        "the grant names no quota  ": {"quota_bytes": str(1 << 64)},
        "the grant names no expiry": {"expires_boottime_s": "soon"},
        "the grant names no expiry ": {"expires_boottime_s": None},
        "the grant names no expiry  ": {"expires_boottime_s": "1e9"},
        "the grant doesn't name one device": {"device_uuid": "0" * 32},
        "the grant doesn't name one device ": {"device_name": None},
        "the grant doesn't name one device  ": {"device_ordinal": "first"},
        "the grant doesn't name one device   ": {"device_name": "x" * 300},
        "the grant names no usage file": {"usage_file": "usage"},
        "the grant names no usage file ": {"usage_file": None},
    }
    for why, changes in wrong.items():
        lines = {**sound, **changes}
        layer.write({key: value for key, value in lines.items() if value is not None})
        assert refused(layer).startswith(why.rstrip()), changes
    text = "".join(f"{key}={value}\n" for key, value in sound.items())
    for damaged in ("", text[:-1], "quota_bytes=1\n" + text, text * 50, text + "\0\n", text + text):
        layer.grant.write_text(damaged)
        assert refused(layer).startswith("the grant"), damaged[:60]
    layer.grant.unlink()
    layer.grant.mkdir()
    try:
        assert refused(layer) == "the grant can't be read"
    finally:
        layer.grant.rmdir()


def test_devices_by_uuid_and_pci_address_are_read(layer: Layer) -> None:
    sound = layer.lines(QUOTA)
    named = {key: value for key, value in sound.items() if not key.startswith("device_")}
    for good in (
        {"device_uuid": "0123456789ABCDEFabcdef0123456789"},
        {"device_pci": "0000:3b:00.0"},
    ):
        layer.write({**named, **good})
        assert refused(layer) == NO_DEVICE, good
    for bad in ({"device_uuid": "0" * 31}, {"device_uuid": "g" * 32}, {"device_pci": ""}):
        layer.write({**named, **bad})
        assert refused(layer) == "the grant doesn't name one device", bad


def damage_missing(usage: Path) -> None:
    usage.unlink()


def damage_short(usage: Path) -> None:
    usage.write_bytes(bytes(OPENCL_USAGE_BYTES - 1))


def damage_long(usage: Path) -> None:
    usage.write_bytes(bytes(OPENCL_USAGE_BYTES + 4096))


def damage_noise(usage: Path) -> None:
    usage.write_bytes(b"\xa5" * OPENCL_USAGE_BYTES)


def damage_header(usage: Path) -> None:
    usage.write_bytes(bytes(300) + b"\1" + bytes(OPENCL_USAGE_BYTES - 301))


@pytest.mark.parametrize(
    "damage", [damage_missing, damage_short, damage_long, damage_noise, damage_header]
)
def test_with_a_damaged_usage_file_nothing_is_made(
    layer: Layer, damage: Callable[[Path], None]
) -> None:
    layer.share(QUOTA)
    damage(layer.usage)
    done = layer.run("answer(context=code_of(context), refused=report()['refused'])")
    assert done.answer["context"] == OUT_OF_RESOURCES
    assert "the usage file" in done.answer["refused"]
    assert "can't be enforced" in done.stderr and done.stderr.count("\n") == 1


#: Against a process that holds half of the quota, and one that starts after.
TAMPERING = {
    "truncated": "os.truncate(path, 0)",
    "shortened": "os.truncate(path, os.stat(path).st_size - 1)",
    "emptied": "os.truncate(path, 0); os.truncate(path, size)",
    "zeroed": "open(path, 'r+b').write(bytes(size))",
    "written over": "open(path, 'r+b').write(os.urandom(size))",
    "own slot": "file = open(path, 'r+b'); file.seek(256); file.write(bytes(64)); file.close()",
}
#: What is tried after that, in a process of its own.
LATER = """
import pyopencl as cl
try:
    ctx = cl.Context(cl.get_platforms()[0].get_devices())
    cl.Buffer(ctx, cl.mem_flags.READ_WRITE, 33 << 20)
    print("had")
except cl.Error as error:
    print(error.code)
"""


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_with_the_accounts_gains_nothing(layer: Layer, name: str) -> None:
    layer.share(QUOTA)
    done = layer.run(
        f"""
        ctx = context()
        queue = cl.CommandQueue(ctx)
        held = cl.Buffer(ctx, RW, 32 * MIB)
        path = os.environ["USAGE"]
        size = os.stat(path).st_size
        {TAMPERING[name]}
        own = [code_of(cl.Buffer, ctx, RW, 1), code_of(cl.Buffer, ctx, RW, 40 * MIB),
               code_of(context),
               code_of(lambda: cl.enqueue_fill_buffer(queue, held, b"x", 0, MIB))]
        reason = report()["refused"]
        held.release()
        child = subprocess.run([sys.executable, "-c", os.environ["LATER"]],
                               stdout=subprocess.PIPE, text=True, timeout=60)
        answer(own=own, reason=reason, child=[child.returncode, child.stdout])
        """,
        USAGE=str(layer.usage),
        LATER=LATER,
    )
    # Of the buffers, a context (no platform is shown), a command (the device isn't either).
    assert done.answer["own"] == [OUT_OF_RESOURCES, OUT_OF_RESOURCES, -1001, -33]
    assert "the usage file" in done.answer["reason"]
    if name == "own slot":
        return  # the other one can't know: docs/security.md
    assert done.answer["child"][0] == 0
    assert done.answer["child"][1].strip() in ("-5", "-4")


def test_after_the_expiry_nothing_is_made_or_run(layer: Layer) -> None:
    """How long a start takes is the machine's affair: the share lasts longer until it is enough."""
    for lifetime_s in (2, 8, 30):
        layer.share(QUOTA)
        done = layer.run(
            f"""
            lines = open(os.environ["GRANT"]).read().splitlines()
            soon = time.clock_gettime(time.CLOCK_BOOTTIME) + {lifetime_s}
            lines[2] = f"expires_boottime_s={{soon:.3f}}"
            open(os.environ["GRANT"], "w").write("".join(line + "\\n" for line in lines))
            form = cl.ImageFormat(cl.channel_order.R, cl.channel_type.FLOAT)
            def read():
                return cl.enqueue_map_buffer(queue, buffer, cl.map_flags.READ, 0, (64,), "u1")
            try:
                ctx = context()
                queue = cl.CommandQueue(ctx)
                buffer = cl.Buffer(ctx, RW, MIB)
                mapped, _ = read()
                cl.enqueue_fill_buffer(queue, buffer, b"x", 0, MIB)
                queue.finish()
            except cl.Error as error:
                answer(early=error.code)
                sys.exit()
            until = time.monotonic() + 60
            while not code_of(lambda: cl.enqueue_fill_buffer(queue, buffer, b"x", 0, MIB)):
                assert time.monotonic() < until
                kept.clear()
                time.sleep(0.01)
            late = time.clock_gettime(time.CLOCK_BOOTTIME) - soon
            codes = dict(
                buffer=code_of(cl.Buffer, ctx, RW, 1),
                part=code_of(buffer.get_sub_region, 0, 4096),
                image=code_of(image, ctx, form, (4, 4)),
                context=code_of(context),
                queue=code_of(cl.CommandQueue, ctx),
                fill=code_of(lambda: cl.enqueue_fill_buffer(queue, buffer, b"x", 0, MIB)),
                copy=code_of(lambda: cl.enqueue_copy(queue, bytearray(4), buffer)),
                map=code_of(read),
                marker=code_of(cl.enqueue_marker, queue),
            )
            mapped.base.release(queue)
            queue.finish()
            kept.clear()
            del mapped  # it holds the buffer
            buffer.release()
            answer(codes=codes, late=late, used=used(), reason=report()["refused"])
            """,
            GRANT=str(layer.grant),
        )
        if "early" not in done.answer:
            break
    found = done.answer
    assert set(found["codes"].values()) == {OUT_OF_RESOURCES}, found
    assert found["late"] >= 0 and found["used"] == 0
    assert found["reason"] == "the time of this job's share is over"
    assert done.stderr.count("makes and runs nothing more") == 1
