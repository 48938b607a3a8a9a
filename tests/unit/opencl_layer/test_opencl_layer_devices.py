"""The granted device is the only one that a job sees, and nothing leads around that."""

from opencl_layer_kit import MIB, Layer

QUOTA = 64 * MIB
#: PoCL then shows two devices of different names.
TWO = {"POCL_DEVICES": "basic pthread"}


def second_device(layer: Layer) -> dict[str, str]:
    done = layer.run(
        """
        platform = next(p for p in cl.get_platforms() if p.name.startswith("Portable"))
        answer(names=[d.name.strip() for d in platform.get_devices()], platform=platform.name)
        """,
        **TWO,
    )
    names = done.answer["names"]
    assert len(names) == 2 and names[0] != names[1], names
    return {"device_platform": done.answer["platform"], "device_name": names[1], "first": names[0]}


def test_without_a_grant_the_layer_does_nothing(layer: Layer) -> None:
    done = layer.run(
        """
        devices = cl.get_platforms()[0].get_devices()
        answer(count=len(devices), memory=devices[0].global_mem_size, report=report())
        """,
        **TWO,
    )
    assert done.answer["count"] == 2 and done.answer["memory"] > 4 * QUOTA
    assert "code" in done.answer["report"]  # no layer in the way


def test_other_devices_are_hidden(layer: Layer) -> None:
    named = second_device(layer)
    first = named.pop("first")
    layer.write({**layer.lines(QUOTA), **named})
    done = layer.run(
        """
        library = loader()
        platform = cl.get_platforms()[0]
        device, = platform.get_devices()
        types = {}
        here = [(cl.context_properties.PLATFORM, platform)]
        def names(find):
            try:
                return [d.name.strip() for d in find()]
            except cl.Error as error:
                return error.code
        for name in ("ALL", "DEFAULT", "CPU", "GPU", "ACCELERATOR"):
            kind = getattr(cl.device_type, name)
            types[name] = names(lambda: platform.get_devices(kind))
            types[name + " context"] = names(
                lambda: cl.Context(dev_type=kind, properties=here).devices)
        parts = [device]
        if device.max_compute_units > 1:
            parts = device.create_sub_devices([cl.device_partition_property.EQUALLY, 1])
        inside = cl.Context(parts)
        # The driver itself still shows both: no handle of the other is taken.
        dispatch = ctypes.cast(platform.int_ptr, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))[0]
        get_devices = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_uint,
                                       ctypes.c_void_p, ctypes.c_void_p)(dispatch[2])
        devices = (ctypes.c_void_p * 4)()
        count = ctypes.c_uint()
        direct = get_devices(platform.int_ptr, 0xFFFFFFFF, 4, devices, ctypes.addressof(count))
        other = next(h for h in devices[:count.value] if h != device.int_ptr)
        one = (ctypes.c_void_p * 1)(other)
        stolen = made(library.clCreateContext, None, 1, one, None, None)
        asked = library.clGetDeviceInfo(ctypes.c_void_p(other), 0x102B, a_size(0), None, None)
        answer(types=types, parts=[p.global_mem_size for p in parts], direct=[direct, count.value],
               stolen=stolen, asked=asked, name=device.name.strip(),
               part_devices=len(inside.devices))
        """,
        **TWO,
    )
    found = done.answer
    name = named["device_name"]
    assert found["name"] == name != first
    assert found["types"] == {
        "ALL": [name],
        "DEFAULT": [name],
        "CPU": [name],
        "GPU": [],
        "ACCELERATOR": [],
        "ALL context": [name],
        "DEFAULT context": [name],
        "CPU context": [name],
        "GPU context": -1,
        "ACCELERATOR context": -1,
    }
    assert set(found["parts"]) == {QUOTA}
    assert found["direct"] == [0, 2]
    assert found["stolen"] == [False, -33] and found["asked"] == -33  # CL_INVALID_DEVICE


def test_the_ordinal_counts_devices_of_one_name(layer: Layer) -> None:
    """Two alike: the second is another one than the first, and there is no third."""
    two_alike = {"POCL_DEVICES": "basic basic"}
    code = """
    devices = cl.get_platforms()[0].get_devices()
    answer(devices=len(devices), report=report()["refused"], name=devices[0].name.strip())
    """
    name = layer.run(code.replace("report()", "{'refused': ''}"), **two_alike).answer["name"]
    found = []
    for ordinal in ("0", "1", "2"):
        layer.write({**layer.lines(QUOTA), "device_name": name, "device_ordinal": ordinal})
        found.append(layer.run(code, **two_alike))
    assert [one.returncode for one in found] == [0, 0, 1]
    assert [one.answer["devices"] for one in found[:2]] == [1, 1]
    assert "no OpenCL driver in this container shows the granted device" in found[2].stderr


def test_extension_functions_are_had_by_allow_list_only(layer: Layer) -> None:
    layer.share(QUOTA)
    done = layer.run(
        """
        library = loader()
        platform = ctypes.c_void_p(cl.get_platforms()[0].int_ptr)
        names = ["clCreateSubDevicesEXT", "clIcdGetPlatformIDsKHR", "clCreateBuffer", "clSVMAlloc",
                 "clCreateCommandBufferKHR", "clHostMemAllocINTEL", "clImportMemoryARM",
                 "clCreateFromGLBuffer", "clSetContentSizeBufferPoCL", "clGetDeviceIDs"]
        found = {}
        for name in names:
            ask = library.clGetExtensionFunctionAddressForPlatform
            ask.restype = library.clGetExtensionFunctionAddress.restype = ctypes.c_void_p
            found[name] = [bool(ask(platform, name.encode())),
                           bool(library.clGetExtensionFunctionAddress(name.encode()))]
        ctx = context()
        handle = ctypes.c_void_p(ctx.int_ptr)
        gl = made(library.clCreateFromGLBuffer, handle, ctypes.c_ulong(1), 1)
        bits = cl.command_queue_properties
        on_device = bits.ON_DEVICE | bits.OUT_OF_ORDER_EXEC_MODE_ENABLE
        properties = [cl.queue_properties.PROPERTIES, on_device]
        queue = code_of(lambda: cl.CommandQueue(ctx, properties=properties))
        answer(found=found, gl=gl, queue=queue)
        """
    )
    found = done.answer["found"]
    assert found.pop("clCreateSubDevicesEXT") == [True, True]
    assert set(map(tuple, found.values())) == {(False, False)}, found
    assert done.answer["gl"] == [False, -59]  # CL_INVALID_OPERATION
    assert done.answer["queue"] == -35  # CL_INVALID_QUEUE_PROPERTIES


def test_two_loaders_in_one_process_are_both_held(layer: Layer) -> None:
    layer.share(QUOTA)
    done = layer.run(
        """
        ctx = context()
        kept.append(cl.Buffer(ctx, RW, 32 * MIB))
        own = loader()
        other = ctypes.CDLL("libOpenCL.so.1")
        platforms = (ctypes.c_void_p * 4)()
        devices = (ctypes.c_void_p * 4)()
        count = ctypes.c_uint()
        assert other.clGetPlatformIDs(4, platforms, ctypes.byref(count)) == 0
        first, every = ctypes.c_void_p(platforms[0]), ctypes.c_ulong(0xFFFFFFFF)
        assert other.clGetDeviceIDs(first, every, 4, devices, ctypes.byref(count)) == 0
        other.clCreateContext.restype = ctypes.c_void_p
        mine = ctypes.c_void_p(other.clCreateContext(None, 1, devices, None, None, None))
        def buffer(size):
            return made(other.clCreateBuffer, mine, ctypes.c_ulong(1), a_size(size), None)
        answer(same=other._handle == own._handle, devices=count.value, context=bool(mine),
               over=buffer(32 * MIB + 1), fits=buffer(32 * MIB),
               report=report(other) == report(own))
        """
    )
    assert done.answer == {
        "same": False,
        "devices": 1,
        "context": True,
        "over": [False, -4],
        "fits": [True, 0],
        "report": True,
    }


def test_a_loader_that_was_never_set_up_is_held_too(layer: Layer) -> None:
    """It gets handles of pyopencl's, as a library that is linked with another loader does."""
    layer.share(QUOTA)
    done = layer.run(
        """
        ctx = context()
        queue = cl.CommandQueue(ctx)
        idle = ctypes.CDLL("libOpenCL.so.1")
        handle, flags = ctypes.c_void_p(ctx.int_ptr), ctypes.c_ulong(1)
        idle.clSVMAlloc.restype = ctypes.c_void_p
        fits = idle.clSVMAlloc(handle, flags, a_size(60 * MIB), 0)
        over = idle.clSVMAlloc(handle, flags, a_size(5 * MIB), 0)
        buffer = made(idle.clCreateBuffer, handle, flags, a_size(5 * MIB), None)
        idle.clCreateCommandQueue.restype = ctypes.c_void_p
        device = ctypes.c_void_p(ctx.devices[0].int_ptr)
        other = idle.clCreateCommandQueue(handle, device, ctypes.c_ulong(0), None)
        pattern = ctypes.c_int(5)
        codes = [
            idle.clEnqueueSVMMemFill(ctypes.c_void_p(each), ctypes.c_void_p(fits),
                                     ctypes.byref(pattern), a_size(4), a_size(4096), 0, None, None)
            for each in (other, queue.int_ptr)
        ]
        codes += [idle.clFinish(ctypes.c_void_p(each)) for each in (other, queue.int_ptr)]
        read = ctypes.cast(fits, ctypes.POINTER(ctypes.c_int))[7]
        idle.clReleaseCommandQueue(ctypes.c_void_p(other))
        idle.clSVMFree(handle, ctypes.c_void_p(fits))
        answer(fits=bool(fits), over=over, buffer=buffer, codes=codes, read=read, used=used())
        """
    )
    assert done.answer == {
        "fits": True,
        "over": None,
        "buffer": [False, -4],
        "codes": [0, 0, 0, 0],
        "read": 5,
        "used": 0,
    }


def test_programs_run_as_without_the_layer(layer: Layer) -> None:
    code = """
    import numpy
    ctx = context()
    queue = cl.CommandQueue(ctx, properties=cl.command_queue_properties.PROFILING_ENABLE)
    program = cl.Program(ctx, '''
        kernel void twice(global const int *from, global int *to, read_only image2d_t image,
                          sampler_t sampler) {
            int at = get_global_id(0);
            to[at] = 2 * from[at] + (int)read_imagef(image, sampler, (int2)(at % 4, 0)).x;
        }''').build()
    numbers = numpy.arange(1024, dtype="i4")
    form = cl.ImageFormat(cl.channel_order.R, cl.channel_type.FLOAT)
    copied = cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR
    shown = cl.create_image(ctx, copied, form, shape=(4, 4),
                            hostbuf=numpy.arange(16, dtype="f4"))
    sampler = cl.Sampler(ctx, False, cl.addressing_mode.CLAMP, cl.filter_mode.NEAREST)
    source = cl.Buffer(ctx, copied, hostbuf=numbers)
    target = cl.Buffer(ctx, RW, numbers.nbytes)
    done = cl.Kernel(program, "twice")(queue, numbers.shape, None, source, target, shown, sampler)
    result = numpy.empty_like(numbers)
    cl.enqueue_copy(queue, result, target, wait_for=[done])
    mapped, _ = cl.enqueue_map_buffer(queue, target, cl.map_flags.READ, 0, numbers.shape, "i4")
    same = bool((mapped == result).all())
    mapped.base.release(queue)
    part = target.get_sub_region(0, 2048)
    cl.enqueue_fill_buffer(queue, part, numpy.int32(7), 0, 2048)
    cl.enqueue_copy(queue, result[:4], target)
    queue.finish()
    answer(sum=int(result[4:].sum()), head=result[:4].tolist(), same=same,
           timed=done.profile.end >= done.profile.start, devices=len(program.devices),
           info=[len(ctx.devices), queue.device == ctx.devices[0], queue.context == ctx])
    """
    without = layer.run(code)
    layer.share(QUOTA)
    within = layer.run(code)
    assert within.answer == without.answer
    assert within.stderr == without.stderr
    assert within.answer["head"] == [7, 7, 7, 7] and within.answer["same"]
