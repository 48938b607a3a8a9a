/* Extensions, by allow-list: what isn't known to take no memory past the quota and to run nothing past
 * the expiry has no address. */
#include "layer.h"

#include <string.h>

typedef void (*function)(void);

/* Functions that only ask or tell something. Those of ours, which bound the same in the standard's
 * names, come first. */
static const char *const HARMLESS[] = {
    "clGetICDLoaderInfoOCLICD",
    "clGetKernelSubGroupInfoKHR",
    "clGetKernelSuggestedLocalWorkSizeKHR",
    "clCreateProgramWithILKHR",
    "clRetainDeviceEXT",
    "clReleaseDeviceEXT",
    "clTerminateContextKHR",
};

/* Ours for the name, or NULL. */
static function own_function(const char *name)
{
    if (strcmp(name, "clCreateSubDevicesEXT") == 0)
        return (function)layer->clCreateSubDevicesEXT;
    return NULL;
}

static bool is_harmless(const char *name)
{
    for (size_t i = 0; i < sizeof HARMLESS / sizeof *HARMLESS; i++)
        if (strcmp(name, HARMLESS[i]) == 0)
            return true;
    return false;
}

static void *CL_API_CALL get_address(const char *name)
{
    if (name == NULL)
        return NULL;
    function own = own_function(name);
    if (own != NULL)
        return (void *)own;
    return is_harmless(name) ? loader.clGetExtensionFunctionAddress(name) : NULL;
}

static void *CL_API_CALL get_address_for_platform(cl_platform_id platform, const char *name)
{
    if (name == NULL)
        return NULL;
    function own = own_function(name);
    if (own != NULL)
        return (void *)own;
    return is_harmless(name) ? loader.clGetExtensionFunctionAddressForPlatform(platform, name)
                             : NULL;
}

/* --- memory and devices of other interfaces: not counted, so not shared with -------------------- */

static cl_mem CL_API_CALL no_gl_buffer(cl_context context, cl_mem_flags flags, cl_GLuint object,
                                       int *errcode)
{
    (void)context, (void)flags, (void)object;
    return no_object(errcode, CL_INVALID_OPERATION);
}

static cl_mem CL_API_CALL no_gl_texture(cl_context context, cl_mem_flags flags, cl_GLenum kind,
                                        cl_GLint level, cl_GLuint texture, cl_int *errcode)
{
    (void)context, (void)flags, (void)kind, (void)level, (void)texture;
    return no_object(errcode, CL_INVALID_OPERATION);
}

static cl_mem CL_API_CALL no_gl_renderbuffer(cl_context context, cl_mem_flags flags,
                                             cl_GLuint object, cl_int *errcode)
{
    (void)context, (void)flags, (void)object;
    return no_object(errcode, CL_INVALID_OPERATION);
}

static cl_int CL_API_CALL no_gl_context_info(const cl_context_properties *properties,
                                             cl_gl_context_info what, size_t capacity, void *value,
                                             size_t *size)
{
    (void)properties, (void)what, (void)capacity, (void)value, (void)size;
    return CL_INVALID_OPERATION;
}

static cl_mem CL_API_CALL no_egl_image(cl_context context, CLeglDisplayKHR display,
                                       CLeglImageKHR image, cl_mem_flags flags,
                                       const cl_egl_image_properties_khr *properties,
                                       cl_int *errcode)
{
    (void)context, (void)display, (void)image, (void)flags, (void)properties;
    return no_object(errcode, CL_INVALID_OPERATION);
}

/* Direct3D's, which have no types here: no object, as far as its caller can tell. */
static void *no_direct3d_object(void)
{
    return NULL;
}

static cl_int no_direct3d_call(void)
{
    return CL_INVALID_OPERATION;
}

void install_extensions(cl_icd_dispatch *table)
{
    table->clGetExtensionFunctionAddress = get_address;
    table->clGetExtensionFunctionAddressForPlatform = get_address_for_platform;
    table->clCreateFromGLBuffer = no_gl_buffer;
    table->clCreateFromGLTexture = no_gl_texture;
    table->clCreateFromGLTexture2D = no_gl_texture;
    table->clCreateFromGLTexture3D = no_gl_texture;
    table->clCreateFromGLRenderbuffer = no_gl_renderbuffer;
    table->clGetGLContextInfoKHR = no_gl_context_info;
    table->clCreateFromEGLImageKHR = no_egl_image;
    table->clCreateFromD3D10BufferKHR = (void *)no_direct3d_object;
    table->clCreateFromD3D10Texture2DKHR = (void *)no_direct3d_object;
    table->clCreateFromD3D10Texture3DKHR = (void *)no_direct3d_object;
    table->clGetDeviceIDsFromD3D10KHR = (void *)no_direct3d_call;
    table->clCreateFromD3D11BufferKHR = (void *)no_direct3d_object;
    table->clCreateFromD3D11Texture2DKHR = (void *)no_direct3d_object;
    table->clCreateFromD3D11Texture3DKHR = (void *)no_direct3d_object;
    table->clGetDeviceIDsFromD3D11KHR = (void *)no_direct3d_call;
    table->clCreateFromDX9MediaSurfaceKHR = (void *)no_direct3d_object;
    table->clGetDeviceIDsFromDX9MediaAdapterKHR = (void *)no_direct3d_call;
}
