"""One quota for all processes of a job, whatever becomes of them."""

import os
import signal

from opencl_layer_kit import MIB, Layer, finish

QUOTA = 64 * MIB + 1
#: Takes what it can get, says so, and holds it until it is told to go on.
HOLDER = """
ctx = context()
taken, code = fill(ctx, 128 << 10)
print(json.dumps([taken, code]), flush=True)
sys.stdin.readline()
"""


def test_four_processes_share_one_quota_and_a_killed_one_gives_its_part_back(layer: Layer) -> None:
    layer.share(QUOTA)
    code = "sys.stdin.readline()\n" + HOLDER
    processes = [layer.start(code) for _ in range(4)]
    try:
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        taken = []
        for process in processes:
            assert process.stdout
            bytes_taken, refused = eval(process.stdout.readline())
            taken.append(bytes_taken)
            assert refused == -4
        assert sum(taken) == 64 * MIB, taken
        victim = max(range(4), key=taken.__getitem__)
        os.kill(processes[victim].pid, signal.SIGKILL)
        processes[victim].wait(60)
        heir = layer.run("ctx = context(); answer(taken=fill_to_the_byte(ctx))")
        assert heir.answer == {"taken": taken[victim] + 1}
    finally:
        ends = [finish(process) for process in processes]
    assert [end.returncode for end in ends].count(0) == 3, ends
    assert layer.run("context(); answer(used=used())").answer == {"used": 0}


#: Takes the accounts' lock, alters their sum and is killed.
DYING = """
import ctypes, mmap, os, sys
file = open(sys.argv[1], "r+b")
memory = mmap.mmap(file.fileno(), 0)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
assert ctypes.CDLL(None).pthread_mutex_lock(ctypes.c_void_p(start + 16)) == 0
memory[8:16] = (1 << 40).to_bytes(8, "little")
os.kill(os.getpid(), 9)
"""


def test_a_killed_process_that_held_the_lock_is_taken_over_from(layer: Layer) -> None:
    """Its lock is left in the middle of a change: the sum is wrong then, the slots are right."""
    layer.share(QUOTA)
    done = layer.run(
        """
        ctx = context()
        kept.append(cl.Buffer(ctx, RW, 8 * MIB))
        dying = [sys.executable, "-c", os.environ["DYING"], os.environ["USAGE"]]
        died = subprocess.run(dying).returncode
        one = code_of(cl.Buffer, ctx, RW, 56 * MIB)
        answer(died=died, one=one, used=used(), more=code_of(cl.Buffer, ctx, RW, 2),
               last=code_of(cl.Buffer, ctx, RW, 1))
        """,
        USAGE=str(layer.usage),
        DYING=DYING,
    )
    assert done.answer == {"died": -9, "one": 0, "used": 64 * MIB, "more": -4, "last": 0}


def test_a_forked_child_has_an_account_of_its_own(layer: Layer) -> None:
    """What it inherited stays its parent's, also when the child lets go of it."""
    layer.share(QUOTA)
    done = layer.run(
        """
        ctx = context()
        mine = cl.Buffer(ctx, RW, 40 * MIB)
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            mine.release()
            own = code_of(cl.Buffer, ctx, RW, 20 * MIB)
            os.write(w, json.dumps([own, used(), code_of(cl.Buffer, ctx, RW, 5 * MIB)]).encode())
            os.kill(os.getpid(), signal.SIGKILL)
        os.close(w)
        child = json.loads(os.read(r, 4096))
        os.waitpid(pid, 0)
        after = used()
        mine.release()
        answer(child=child, after=after, end=used())
        """
    )
    assert done.answer == {"child": [0, 60 * MIB, -4], "after": 40 * MIB, "end": 0}


def test_a_program_that_another_replaced_holds_nothing_any_more(layer: Layer) -> None:
    layer.share(QUOTA)
    done = layer.run(
        """
        if len(sys.argv) == 1:
            kept.append(cl.Buffer(context(), RW, 60 * MIB))
            os.execv(sys.executable, [sys.executable, "-c", CODE, "again"])
        answer(taken=fill_to_the_byte(context()))
        """.replace("CODE", "open('/proc/self/cmdline').read().split(chr(0))[2]")
    )
    assert done.answer == {"taken": QUOTA}


def test_threads_race_for_the_last_bytes_and_none_is_lost(layer: Layer) -> None:
    layer.share(QUOTA)
    done = layer.run(
        """
        import threading
        ctx = context()
        def churn():
            for _ in range(300):
                try:
                    cl.Buffer(ctx, RW, 20 * MIB).release()
                except cl.MemoryError:
                    pass
        threads = [threading.Thread(target=churn) for _ in range(6)]
        [t.start() for t in threads]; [t.join() for t in threads]
        answer(used=used(), taken=fill_to_the_byte(ctx))
        """
    )
    assert done.answer == {"used": 0, "taken": QUOTA}
