/* What the layer's files share. README.md says what the layer is and what it promises. */
#ifndef CUMULUS_LAYER_H
#define CUMULUS_LAYER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define CL_TARGET_OPENCL_VERSION 300
#define CL_USE_DEPRECATED_OPENCL_1_0_APIS
#define CL_USE_DEPRECATED_OPENCL_1_1_APIS
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#define CL_USE_DEPRECATED_OPENCL_2_0_APIS
#define CL_USE_DEPRECATED_OPENCL_2_1_APIS
#define CL_USE_DEPRECATED_OPENCL_2_2_APIS
#include <CL/cl.h>
#include <CL/cl_icd.h>
#include <CL/cl_layer.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORTED __attribute__((visibility("default")))

/* --- layer.c ---------------------------------------------------------------------------------- */

/* The functions below us, the loader's or another layer's. Those it lacks are NULL. */
extern cl_icd_dispatch loader;
/* Ours, for the loader. */
extern const cl_icd_dispatch *const layer;

/* --- objects.c: past an idle loader -------------------------------------------------------------- */

/* What takes our calls: the loader, and as soon as the granted device is known its driver. */
extern const cl_icd_dispatch *driver;

/* From now on calls go to the driver of that device. */
void objects_use_driver(cl_device_id device);
/* Lets calls for these go through the layer, whichever loader they are made to. NULL: nothing. */
cl_context objects_adopt_context(cl_context context);
cl_command_queue objects_adopt_queue(cl_command_queue queue);

/* --- grant.c: what the agent granted, read once from GRANT_PATH ------------------------------- */

enum { GRANT_TEXT_BYTES = 256 };

enum device_identity { BY_UUID, BY_PCI, BY_NAME };

struct grant {
    uint64_t quota_bytes;
    uint64_t expires_boottime_ns; /* CLOCK_BOOTTIME */
    enum device_identity identity;
    unsigned char device_uuid[16];
    char device_pci[GRANT_TEXT_BYTES];
    char device_platform[GRANT_TEXT_BYTES];
    char device_name[GRANT_TEXT_BYTES];
    uint32_t device_ordinal; /* among the devices of that platform and name */
    char usage_file[GRANT_TEXT_BYTES];
};

extern struct grant grant;

/* Is there an OpenCL grant here, readable or not? Without one the layer is inert. */
bool grant_exists(void);
/* Fills `grant`. NULL, or why it can't be taken. */
const char *grant_read(void);

/* --- gate.c: may anything be made or run? ----------------------------------------------------- */

/* CL_SUCCESS, or CL_OUT_OF_RESOURCES when the grant has expired or is damaged. */
cl_int gate(void);
/* From now on this process is refused everything. `why`: a literal. */
void gate_close(const char *why);
bool gate_is_closed(void);
/* Why nothing is allowed; NULL: all is well. */
const char *gate_reason(void);
/* One line on stderr, the first time for each `kind`. */
enum notice { NOTICE_CLOSED, NOTICE_EXPIRED, NOTICE_QUOTA, NOTICE_KINDS };
void notice(enum notice kind, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Can it be read? No: its page is gone, or none was there. */
bool is_there(const void *address);

/* --- process.c -------------------------------------------------------------------------------- */

/* Which process, for as long as the machine is up. */
struct process {
    uint64_t pid;
    uint64_t start_ticks;
    uint64_t pid_namespace;
};

/* The calling process; false when /proc doesn't tell. */
bool process_self(struct process *self);
/* False only when it is certain that it has ended. `self`: the calling process. */
bool process_lives(const struct process *process, const struct process *self);

/* --- accounts.c: what the job's processes hold together, in the shared usage file -------------- */

/* Opens the accounts, at the first call. CL_SUCCESS or CL_OUT_OF_RESOURCES. */
cl_int accounts_open(void);
/* Takes `bytes` of the quota: CL_SUCCESS, CL_MEM_OBJECT_ALLOCATION_FAILURE when they aren't there,
 * CL_OUT_OF_RESOURCES when the accounts can't be kept. */
cl_int accounts_charge(uint64_t bytes);
/* Gives back what was charged by this process. */
void accounts_return(uint64_t bytes);
/* What all processes of the job hold now; false when the accounts can't be kept. */
bool accounts_used(uint64_t *bytes);
/* Grows with every fork: what a parent was charged for is none of its child's. */
uint32_t accounts_generation(void);

/* --- devices.c -------------------------------------------------------------------------------- */

/* The granted device; CL_SUCCESS or why there is none. */
cl_int granted_device(cl_platform_id *platform, cl_device_id *device);
/* The granted device where it is of that type and platform (NULL: any); else NULL. */
cl_device_id device_of_type(cl_platform_id platform, cl_device_type type);
/* Is it the granted device or a part of it? */
bool is_granted(cl_device_id device);

/* --- image_bytes.c ---------------------------------------------------------------------------- */

/* Bytes of such an image, without what the driver adds; UINT64_MAX when they can't be counted.
 * False: the format is none of the standard's. */
bool image_bytes(const cl_image_format *format, const cl_image_desc *desc, uint64_t *bytes);

/* --- svm.c ------------------------------------------------------------------------------------ */

/* Keep its table whole over a fork. */
void svm_before_fork(void);
void svm_after_fork(void);

/* --- each file puts its own functions into our table ------------------------------------------- */

void install_devices(cl_icd_dispatch *table);
void install_contexts(cl_icd_dispatch *table);
void install_memory(cl_icd_dispatch *table);
void install_svm(cl_icd_dispatch *table);
void install_enqueues(cl_icd_dispatch *table);
void install_extensions(cl_icd_dispatch *table);

/* Sets *errcode when it is wanted, and is the object that isn't there. */
static inline void *no_object(cl_int *errcode, cl_int why)
{
    if (errcode != NULL)
        *errcode = why;
    return NULL;
}

#endif
