/* What the layer says of itself, to whoever asks through an OpenCL loader: the answer proves that this
 * loader's calls go through the layer. */
#ifndef CUMULUS_REPORT_H
#define CUMULUS_REPORT_H

#include "layer.h"

/* `param_name` of clGetPlatformInfo, which no driver knows ("CUMU"); the platform may be NULL. */
enum { CUMULUS_REPORT = 0x43554D55 };

/* Text, `key=value` lines: version, quota_bytes, used_bytes, refused (why, or empty). */
cl_int report(size_t capacity, void *value, size_t *size);

#endif
