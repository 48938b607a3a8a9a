"""The layer's quota, to the byte, over everything that takes a device's memory."""

from opencl_layer_kit import MIB, Layer

QUOTA = 64 * MIB + 3
REFUSED = -4  #: CL_MEM_OBJECT_ALLOCATION_FAILURE


def test_buffers_end_at_the_quota_to_the_byte_and_give_it_back(layer: Layer) -> None:
    layer.share(QUOTA)
    done = layer.run(
        """
        device = cl.get_platforms()[0].get_devices()[0]
        ctx = context()
        whole = cl.Buffer(ctx, RW, device.max_mem_alloc_size)
        more = code_of(cl.Buffer, ctx, RW, 1)
        full = used()
        whole.release()
        again, code = fill(ctx, MIB)
        filled = again + fill_to_the_byte(ctx)
        kept.clear()
        answer(
            reported=[device.global_mem_size, device.max_mem_alloc_size],
            more=more, full=full, again=again, code=code, filled=filled, after=used(),
            too_large=code_of(cl.Buffer, ctx, RW, device.global_mem_size + 1),
        )
        """
    )
    assert done.answer == {
        "reported": [QUOTA, QUOTA],
        "more": REFUSED,
        "full": QUOTA,
        "again": 64 * MIB,
        "code": REFUSED,
        "filled": QUOTA,
        "after": 0,
        "too_large": REFUSED,
    }
    assert done.stderr == (
        f"cumulus: OpenCL refused 1 bytes: of this job's share of {QUOTA} bytes this process holds "
        f"{QUOTA}, its others 0\n"
    )


def test_a_refused_creation_of_the_drivers_own_costs_nothing(layer: Layer) -> None:
    layer.share(QUOTA)
    done = layer.run(
        """
        ctx = context()
        no_pointer = code_of(cl.Buffer, ctx, cl.mem_flags.USE_HOST_PTR, 64)
        answer(wrong=[code_of(cl.Buffer, ctx, RW, 0), no_pointer], used=used())
        """
    )
    assert 0 not in done.answer["wrong"] and REFUSED not in done.answer["wrong"]
    assert done.answer["used"] == 0


def test_a_sub_buffer_counts_with_its_buffer_and_holds_it(layer: Layer) -> None:
    layer.share(QUOTA)
    done = layer.run(
        """
        ctx = context()
        buffer = cl.Buffer(ctx, RW, 60 * MIB)
        parts = [buffer.get_sub_region(at * MIB, MIB) for at in range(50)]
        with_parts = used()
        buffer.release()
        held = used()
        refused = code_of(cl.Buffer, ctx, RW, 5 * MIB)
        for part in parts:
            part.release()
        answer(with_parts=with_parts, held=held, refused=refused, after=used())
        """
    )
    assert done.answer == {
        "with_parts": 60 * MIB,
        "held": 60 * MIB,
        "refused": REFUSED,
        "after": 0,
    }


def test_images_cost_what_the_driver_takes_for_them(layer: Layer) -> None:
    layer.share(QUOTA)
    done = layer.run(
        """
        ctx = context()
        RGBA = cl.ImageFormat(cl.channel_order.RGBA, cl.channel_type.FLOAT)
        R8 = cl.ImageFormat(cl.channel_order.R, cl.channel_type.UNSIGNED_INT8)
        costs = []
        kinds = [
            (RGBA, (1024, 1024), {}),
            (R8, (1000, 999), {}),
            (R8, (64, 64, 16), {}),
            (RGBA, (512,), {}),
            (RGBA, (256, 8), dict(is_array=True)),
            (R8, (128, 64, 4), dict(is_array=True)),
        ]
        for form, shape, more in kinds:
            before = used()
            one = image(ctx, form, shape, **more)
            costs.append([used() - before, one.size, shape])
            one.release()
        # A view of a buffer takes nothing more.
        buffer = cl.Buffer(ctx, RW, 16 * 4096)
        before = used()
        view = image(ctx, RGBA, (4096,), buffer=buffer)
        view_cost = used() - before
        view.release()
        buffer.release()
        total = 0
        while not (code := code_of(image, ctx, RGBA, (1024, 256))):
            total += kept[-1].size
        rest = fill_to_the_byte(ctx)
        kept.clear()
        huge = code_of(image, ctx, RGBA, (16384, 16384))
        answer(costs=costs, view=view_cost, total=total, code=code, rest=rest, after=used(),
               huge=huge)
        """
    )
    found = done.answer
    assert all(cost == size > 0 for cost, size, _ in found["costs"]), found["costs"]
    assert found["costs"][0][0] == 16 * MIB
    assert found["view"] == 0
    assert (found["code"], found["huge"]) == (REFUSED, REFUSED)
    assert found["total"] + found["rest"] == QUOTA and found["total"] >= 60 * MIB
    assert found["after"] == 0


def test_every_way_to_make_an_image_or_a_buffer_is_counted(layer: Layer) -> None:
    layer.share(QUOTA)
    done = layer.run(
        """
        ctx = context()
        library = loader()
        class Format(ctypes.Structure):
            _fields_ = [("order", ctypes.c_uint), ("type", ctypes.c_uint)]
        class Desc(ctypes.Structure):
            _fields_ = [
                ("type", ctypes.c_uint),
                *((name, ctypes.c_size_t) for name in "width height depth array row slice".split()),
                ("mips", ctypes.c_uint),
                ("samples", ctypes.c_uint),
                ("object", ctypes.c_void_p),
            ]
        size, handle = ctypes.c_size_t, ctypes.c_void_p(ctx.int_ptr)
        form = ctypes.byref(Format(0x10B5, 0x10DE))  # RGBA, float
        desc = Desc(type=0x10F1, width=1 << 14, height=1 << 14)
        flags = ctypes.c_ulong(1)
        def refused(name, *arguments):
            return made(getattr(library, name), handle, *arguments)
        large, large_desc = size(1 << 14), ctypes.byref(desc)
        bad = ctypes.byref(Format(0x10B5, 0xBEEF))
        no, huge = size(0), size(1 << 40)
        answer(
            buffer=refused("clCreateBufferWithProperties", None, flags, size(65 * MIB), None),
            image=refused("clCreateImage", flags, form, large_desc, None),
            properties=refused("clCreateImageWithProperties", None, flags, form, large_desc, None),
            image2d=refused("clCreateImage2D", flags, form, large, large, no, None),
            image3d=refused("clCreateImage3D", flags, form, large, large, size(64), no, no, None),
            pipe=refused("clCreatePipe", flags, ctypes.c_uint(1 << 20), ctypes.c_uint(65), None),
            unknown=refused("clCreateImage", flags, bad, large_desc, None),
            overflow=refused("clCreateImage3D", flags, form, huge, huge, huge, no, no, None),
            used=used(),
        )
        """
    )
    found = done.answer
    for name in ("buffer", "image", "properties", "image2d", "image3d", "pipe", "overflow"):
        assert found[name] == [False, REFUSED], name
    assert found["unknown"] == [False, -10]  # CL_IMAGE_FORMAT_NOT_SUPPORTED
    assert found["used"] == 0


def test_shared_virtual_memory_is_counted_until_it_is_freed(layer: Layer) -> None:
    layer.share(QUOTA)
    done = layer.run(
        """
        ctx = context()
        queue = cl.CommandQueue(ctx)
        library = loader()
        library.clSVMAlloc.restype = ctypes.c_void_p
        handle = ctypes.c_void_p(ctx.int_ptr)
        def alloc(size):
            return library.clSVMAlloc(handle, ctypes.c_ulong(1), a_size(size), ctypes.c_uint(0))
        pointers = []
        while (pointer := alloc(4 * MIB)) is not None:
            pointers.append(pointer)
        full = used()
        last = [alloc(3), alloc(1)]
        buffer = code_of(cl.Buffer, ctx, RW, 1)
        library.clSVMFree(handle, ctypes.c_void_p(pointers.pop()))
        after_free = used()
        array = (ctypes.c_void_p * len(pointers))(*pointers)
        queued, count = ctypes.c_void_p(queue.int_ptr), ctypes.c_uint(len(pointers))
        enqueued = library.clEnqueueSVMFree(queued, count, array, None, None, 0, None, None)
        queue.finish()
        after_queue = used()
        library.clSVMFree(handle, ctypes.c_void_p(last[0]))
        library.clSVMFree(handle, None)
        answer(count=len(pointers) + 1, full=full, last=[x is not None for x in last],
               buffer=buffer, after_free=after_free, enqueued=enqueued, after_queue=after_queue,
               after=used())
        """
    )
    assert done.answer == {
        "count": 16,
        "full": 64 * MIB,
        "last": [True, False],
        "buffer": REFUSED,
        "after_free": 60 * MIB + 3,
        "enqueued": 0,
        "after_queue": 3,
        "after": 0,
    }
