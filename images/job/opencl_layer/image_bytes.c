/* How large an image is, before it is made. */
#include "layer.h"

static unsigned channels(cl_channel_order order)
{
    switch (order) {
    case CL_R:
    case CL_A:
    case CL_INTENSITY:
    case CL_LUMINANCE:
    case CL_DEPTH:
    case CL_DEPTH_STENCIL:
        return 1;
    case CL_RG:
    case CL_RA:
    case CL_Rx:
        return 2;
    case CL_RGB:
    case CL_RGx:
    case CL_sRGB:
        return 3;
    case CL_RGBA:
    case CL_BGRA:
    case CL_ARGB:
    case CL_ABGR:
    case CL_RGBx:
    case CL_sRGBx:
    case CL_sRGBA:
    case CL_sBGRA:
        return 4;
    default:
        return 0;
    }
}

static unsigned element_bytes(const cl_image_format *format)
{
    unsigned count = channels(format->image_channel_order);
    switch (format->image_channel_data_type) {
    case CL_SNORM_INT8:
    case CL_UNORM_INT8:
    case CL_SIGNED_INT8:
    case CL_UNSIGNED_INT8:
        return count;
    case CL_SNORM_INT16:
    case CL_UNORM_INT16:
    case CL_SIGNED_INT16:
    case CL_UNSIGNED_INT16:
    case CL_HALF_FLOAT:
        return 2 * count;
    case CL_SIGNED_INT32:
    case CL_UNSIGNED_INT32:
    case CL_FLOAT:
        return 4 * count;
    /* All channels in one word. */
    case CL_UNORM_SHORT_565:
    case CL_UNORM_SHORT_555:
        return count == 0 ? 0 : 2;
    case CL_UNORM_INT_101010:
    case CL_UNORM_INT_101010_2:
    case CL_UNORM_INT24:
        return count == 0 ? 0 : 4;
    default:
        return 0;
    }
}

static void multiply(uint64_t *bytes, size_t by)
{
    if (__builtin_mul_overflow(*bytes, (uint64_t)by, bytes))
        *bytes = UINT64_MAX;
}

bool image_bytes(const cl_image_format *format, const cl_image_desc *desc, uint64_t *bytes)
{
    *bytes = element_bytes(format);
    if (*bytes == 0)
        return false;
    multiply(bytes, desc->image_width);
    switch (desc->image_type) {
    case CL_MEM_OBJECT_IMAGE1D_ARRAY:
        multiply(bytes, desc->image_array_size);
        break;
    case CL_MEM_OBJECT_IMAGE2D_ARRAY:
        multiply(bytes, desc->image_height);
        multiply(bytes, desc->image_array_size);
        break;
    case CL_MEM_OBJECT_IMAGE3D:
        multiply(bytes, desc->image_height);
        multiply(bytes, desc->image_depth);
        break;
    case CL_MEM_OBJECT_IMAGE2D:
        multiply(bytes, desc->image_height);
        break;
    default: /* one row; what is no type at all the driver refuses */
        break;
    }
    return true;
}
