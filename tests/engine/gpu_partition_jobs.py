"""A user's script: two jobs of half a device each, at once, which try to have more.

The first takes all that it can get and holds it; meanwhile the second tries everything else. The
last line is JSON: what each found. `{URL}` is replaced by the daemon's before it runs.
"""

import json
import sys

from cumulus_client import CumulusClient

client = CumulusClient("{URL}")

#: What every process of the second job begins with.
PRELUDE = """
import ctypes, json, os, subprocess, sys
libc = ctypes.CDLL(None)
kept = []

def setup():
    import pyopencl as cl
    devices = [d for p in cl.get_platforms() for d in p.get_devices()]
    return cl, devices, cl.Context(devices)

def code_of(make):
    import pyopencl as cl
    try:
        kept.append(make())
        return 0
    except cl.Error as error:
        return error.code

def fill(make):
    total, sizes = 0, [1 << bits for bits in range(38, -1, -1)]
    for size in sizes:
        while code_of(lambda: make(size)) == 0:
            total += size
    return total
"""
#: How a process gets at more than the share, if it can: one byte more, in one buffer.
MORE = """
cl, devices, ctx = setup()
reported = devices[0].global_mem_size
over = code_of(lambda: cl.Buffer(ctx, cl.mem_flags.READ_WRITE, QUOTA + 1))
print(json.dumps([len(devices), reported == QUOTA, over]))
"""
#: Before it, one of these; each is to make no difference.
WAYS = {
    "nothing": "",
    "emptied": "os.environ['OPENCL_LAYERS'] = ''",
    "popped": "os.environ.pop('OPENCL_LAYERS', None)",
    "edited": "os.environ['OPENCL_LAYERS'] = '/nowhere.so'",
    "C unsetenv": "libc.unsetenv(b'OPENCL_LAYERS')",
    "vendors": "os.environ['OCL_ICD_VENDORS'] = '/tmp'",
    "layer path": "os.environ['OPENCL_LAYER_PATH'] = '/tmp'",
    "quota": "os.environ.update(CUMULUS_GPU_MEMORY_BYTES=str(1 << 60), QUOTA=str(1 << 60))",
}
#: Or it is started with these variables.
STARTED = {
    "empty environment": {},
    "preload emptied": {"LD_PRELOAD": "", "OPENCL_LAYERS": "", "HOME": "/tmp"},
    "vendors": {"OCL_ICD_VENDORS": "/tmp", "OPENCL_LAYER_PATH": "/tmp", "HOME": "/tmp"},
}
#: What takes memory in other ways than buffers do. Each prints what it had, then is over.
OTHERS = {
    "svm": """
cl, devices, ctx = setup()
loader = ctypes.CDLL("libOpenCL.so.1")
loader.clSVMAlloc.restype = ctypes.c_void_p
handle, flags, total = ctypes.c_void_p(ctx.int_ptr), ctypes.c_ulong(1), 0
for size in [1 << bits for bits in range(38, -1, -1)]:
    while loader.clSVMAlloc(handle, flags, ctypes.c_size_t(size), 0):
        total += size
print(json.dumps([total]))
""",
    "images": """
cl, devices, ctx = setup()
form = cl.ImageFormat(cl.channel_order.RGBA, cl.channel_type.FLOAT)
def image():
    return cl.create_image(ctx, cl.mem_flags.READ_WRITE, form, shape=(8192, 8192))
images = 0
while code_of(image) == 0:
    images += kept[-1].size
rest = fill(lambda size: cl.Buffer(ctx, cl.mem_flags.READ_WRITE, size))
print(json.dumps([images + rest, images > 0]))
""",
    "sub-buffers": """
cl, devices, ctx = setup()
size = devices[0].max_mem_alloc_size
whole = cl.Buffer(ctx, cl.mem_flags.READ_WRITE, size)
kept.append(cl.Buffer(ctx, cl.mem_flags.READ_WRITE, QUOTA - size)) if size < QUOTA else None
parts = [whole.get_sub_region(at << 20, 1 << 20) for at in range(64)]
more = code_of(lambda: cl.Buffer(ctx, cl.mem_flags.READ_WRITE, 1))
whole.release()
still = code_of(lambda: cl.Buffer(ctx, cl.mem_flags.READ_WRITE, 1))
for part in parts:
    part.release()
kept.clear()
print(json.dumps([more, still, fill(lambda size: cl.Buffer(ctx, cl.mem_flags.READ_WRITE, size))]))
""",
}
#: One of four at once: takes what it can, says so, and holds it until it may go.
CHILD = """
cl, devices, ctx = setup()
print("there", flush=True)
sys.stdin.readline()
total = 0
step = QUOTA // 37
while code_of(lambda: cl.Buffer(ctx, cl.mem_flags.READ_WRITE, step)) == 0:
    total += step
print(total, flush=True)
sys.stdin.readline()
"""
#: Against the files, while half of the share is held. Every open for writing is to fail, and what
#: spoils the accounts is to lead to nothing at all.
FILES = """
import pathlib
def denied(act):
    try:
        act()
        return None
    except OSError as error:
        return type(error).__name__
usage, grant = "/run/cumulus/usage/opencl", "/run/cumulus/grant/opencl"
library = pathlib.Path("/etc/ld.so.preload").read_text().strip()
refused = {
    "delete": denied(lambda: os.unlink(usage)),
    "rename": denied(lambda: os.rename(usage, usage + ".old")),
    "make another": denied(lambda: open(usage + ".new", "w")),
    "write the quota": denied(lambda: open(grant, "r+")),
    "delete the grant": denied(lambda: os.unlink(grant)),
    "write ld.so.preload": denied(lambda: open("/etc/ld.so.preload", "r+")),
    "write the layer": denied(lambda: open(library, "r+")),
}
cl, devices, ctx = setup()
held = cl.Buffer(ctx, cl.mem_flags.READ_WRITE, QUOTA // 2)
size = os.stat(usage).st_size
os.truncate(usage, 0)
codes = [code_of(lambda: cl.Buffer(ctx, cl.mem_flags.READ_WRITE, 1))]
os.truncate(usage, size)
codes.append(code_of(lambda: cl.Buffer(ctx, cl.mem_flags.READ_WRITE, 1)))
command = [sys.executable, "-c", os.environ["AGAIN"]]
again = subprocess.run(command, stdout=subprocess.PIPE, text=True)
print(json.dumps([refused, codes, again.returncode, again.stdout.strip()]))
"""
AGAIN = """
cl, devices, ctx = setup()
print(code_of(lambda: cl.Buffer(ctx, cl.mem_flags.READ_WRITE, QUOTA // 2 + 1)))
"""


def take_all():
    """The first job: all of its own in buffers, to the byte; then it holds them."""
    import os
    import time

    import pyopencl as cl

    quota = int(os.environ["CUMULUS_GPU_MEMORY_BYTES"])
    ctx = cl.Context(cl.get_platforms()[0].get_devices())
    kept, total, code = [], 0, 0
    for bits in range(38, -1, -1):
        while True:
            try:
                kept.append(cl.Buffer(ctx, cl.mem_flags.READ_WRITE, 1 << bits))
                total += 1 << bits
            except cl.Error as error:
                code = error.code
                break
    print("TAKEN", json.dumps([quota, total, code]), flush=True)
    time.sleep(600)


def try_everything():
    """The second job: what each of the ways gave."""
    import os
    import shutil
    import subprocess

    quota = int(os.environ["CUMULUS_GPU_MEMORY_BYTES"])
    prelude = PRELUDE + f"QUOTA = {quota}\n"

    def run(code, python=sys.executable, **options):
        done = subprocess.run(
            [python, "-c", prelude + code], capture_output=True, text=True, timeout=60, **options
        )
        if done.returncode != 0:
            return ["failed", done.returncode, done.stderr[-2000:]]
        return json.loads(done.stdout.splitlines()[-1])

    found = {"quota": quota, "inherited": os.environ.get("OPENCL_LAYERS")}
    found["ways"] = {name: run(way + "\n" + MORE) for name, way in WAYS.items()}
    found["started"] = {name: run(MORE, env=env) for name, env in STARTED.items()}
    # A Python of the job's own, with an OpenCL loader of its own: pyopencl's wheel brings one.
    own = os.path.abspath("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", own], check=True, timeout=60)
    import pyopencl

    packages = os.path.dirname(os.path.dirname(pyopencl.__file__))
    (site,) = (os.path.join(own, "lib", name) for name in os.listdir(os.path.join(own, "lib")))
    shutil.copytree(os.path.join(packages, "pyopencl"), site + "/site-packages/pyopencl")
    with open(site + "/site-packages/rest.pth", "w") as file:
        file.write(packages + "\n")
    mine = 'assert "venv" in __import__("pyopencl").__file__\n'
    found["venv"] = run(mine + MORE, python=own + "/bin/python", env={"OPENCL_LAYERS": ""})
    found["others"] = {name: run(code) for name, code in OTHERS.items()}

    children = [
        subprocess.Popen(
            [sys.executable, "-c", prelude + CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(4)
    ]
    for child in children:
        assert child.stdout.readline() == "there\n"
    for child in children:
        child.stdin.write("take\n")
        child.stdin.flush()
    found["children"] = [int(child.stdout.readline()) for child in children]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.close()
        child.wait(60)
        child.stdout.close()
    found["afterwards"] = run(
        "cl, devices, ctx = setup()\n"
        "print(json.dumps(fill(lambda size: cl.Buffer(ctx, cl.mem_flags.READ_WRITE, size))))"
    )
    found["files"] = run(FILES, env={**os.environ, "AGAIN": prelude + AGAIN})
    return found


first = client.submit(take_all, gpu_memory=0.5, duration=600)
said = ""
for chunk in first.logs(follow=True):
    said += chunk
    if "TAKEN" in said and said.endswith("\n"):
        break
second = client.submit(try_everything, gpu_memory=0.5, duration=300)
tried = second.result(timeout=240)
views = [client.get_job_status(job.job_id) for job in (first, second)]
first.cancel()
taken = next(line for line in said.splitlines() if line.startswith("TAKEN"))
answer = {"first": json.loads(taken.removeprefix("TAKEN")), "second": tried, "views": views}
print(json.dumps(answer))
