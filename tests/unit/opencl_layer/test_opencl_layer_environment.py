"""Preloaded: what a process does to its environment doesn't lead the loader past the layer; and who
uses no OpenCL notices nothing."""

import subprocess

import pytest
from opencl_layer_kit import MIB, Ended, Layer

QUOTA = 64 * MIB

#: How a job could try to lose the layer, before its first OpenCL call. (With no variables at all
#: PoCL itself crashes.)
WAYS = {
    "emptied": "os.environ['OPENCL_LAYERS'] = ''",
    "unset": "os.environ.pop('OPENCL_LAYERS', None); os.unsetenv('OPENCL_LAYERS')",
    "another": "os.environ['OPENCL_LAYERS'] = '/nowhere.so'",
    "C unsetenv": "libc.unsetenv(b'OPENCL_LAYERS')",
    "C putenv": "kept.append(ctypes.create_string_buffer(b'OPENCL_LAYERS=')); libc.putenv(kept[0])",
    "C clearenv": "libc.clearenv(); os.environ.update(saved, OPENCL_LAYERS='')",
    "environ": "ctypes.c_void_p.in_dll(libc, 'environ').value = None; "
    "os.environ.update(saved, OPENCL_LAYERS='')",
    "vendors": "os.environ.update(OCL_ICD_VENDORS='/nowhere', OPENCL_VENDOR_PATH='/nowhere')",
    "layer path": "os.environ.update(OPENCL_LAYER_PATH='/no', OCL_ICD_FILENAMES='/no.so')",
    "preload": "os.environ['LD_PRELOAD'] = ''; os.environ.pop('LD_PRELOAD')",
    "quota": "os.environ.update(CUMULUS_GPU_MEMORY_BYTES=str(1 << 40), quota_bytes=str(1 << 40))",
}


@pytest.mark.parametrize("way", WAYS)
def test_no_change_of_the_environment_gets_rid_of_the_layer(layer: Layer, way: str) -> None:
    layer.share(QUOTA)
    done = layer.run(
        f"""
        libc, saved = ctypes.CDLL(None), dict(os.environ)
        {WAYS[way]}
        device, = cl.get_platforms()[0].get_devices()
        answer(memory=device.global_mem_size, over=code_of(cl.Buffer, context(), RW, {QUOTA} + 1),
               quota=report()["quota_bytes"])
        """
    )
    assert done.answer == {"memory": QUOTA, "over": -4, "quota": str(QUOTA)}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OPENCL_LAYERS": ""},
        {"OPENCL_LAYERS": "/nowhere.so:/other.so", "OCL_ICD_VENDORS": "/no"},
    ],
)
def test_what_a_process_is_started_with_is_set_right(
    layer: Layer, environment: dict[str, str]
) -> None:
    layer.share(QUOTA)
    done = run(layer, "/usr/bin/env", **environment)
    names = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert names["OPENCL_LAYERS"] == str(layer.library)
    assert "OCL_ICD_VENDORS" not in names


def run(layer: Layer, *command: str, **environment: str) -> Ended:
    done = subprocess.run(
        command,
        env={"LD_PRELOAD": str(layer.library), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def test_programs_without_opencl_notice_nothing(layer: Layer) -> None:
    inert = run(layer, "/usr/bin/env", "OTHER=1", "OCL_ICD_VENDORS=/own", "/usr/bin/env")
    assert inert == Ended(0, f"LD_PRELOAD={layer.library}\nOTHER=1\nOCL_ICD_VENDORS=/own\n", "")
    layer.share(QUOTA)
    code = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.getenv.restype = libc.secure_getenv.restype = ctypes.c_char_p
os.environ["PLAIN"] = "1"
assert libc.getenv(b"PLAIN") == libc.secure_getenv(b"PLAIN") == b"1"
assert libc.setenv(b"PLAIN", b"2", 0) == 0 and libc.getenv(b"PLAIN") == b"1"
assert libc.setenv(b"PLAIN", b"2", 1) == 0 and libc.getenv(b"PLAIN") == b"2"
assert libc.getenv(b"OPENCL_LAYER") is None and libc.getenv(b"OPENCL_LAYERSX") is None
assert libc.getenv(b"") is None and libc.getenv(b"P") is None
text = ctypes.create_string_buffer(b"OTHER=3")
assert libc.putenv(text) == 0 and libc.getenv(b"OTHER") == b"3"
assert libc.unsetenv(b"PLAIN") == 0 and libc.getenv(b"PLAIN") is None
assert libc.unsetenv(b"A=B") == -1 and libc.setenv(b"", b"", 1) == -1
assert libc.clearenv() == 0 and libc.getenv(b"OTHER") is None
os.execve("/usr/bin/env", ["env"], {})
"""
    done = run(layer, "/usr/bin/python3", "-I", "-c", code)
    # An empty environment loses LD_PRELOAD as well, but not /etc/ld.so.preload, as in the image.
    assert done == Ended(0, "", "")
