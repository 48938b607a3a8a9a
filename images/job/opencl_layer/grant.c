/* The grant: `key=value` lines, written by the worker's agent where the job can't write. Whatever is
 * not exactly as expected is no grant: then everything is refused, never less. */
#include "layer.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GRANT_MAX_BYTES = 4096 };

struct grant grant;

enum key { VERSION, QUOTA, EXPIRES, UUID, PCI, PLATFORM, NAME, ORDINAL, USAGE, KEYS };

static const char *const KEY_NAMES[KEYS] = {
    [VERSION] = "version",           [QUOTA] = "quota_bytes",
    [EXPIRES] = "expires_boottime_s", [UUID] = "device_uuid",
    [PCI] = "device_pci",            [PLATFORM] = "device_platform",
    [NAME] = "device_name",          [ORDINAL] = "device_ordinal",
    [USAGE] = "usage_file",
};

bool grant_exists(void)
{
    int before = errno;
    bool there = access(GRANT_PATH, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR);
    errno = before;
    return there;
}

/* Decimal digits only, no sign, no overflow. */
static bool read_count(const char *text, uint64_t *value)
{
    if (!isdigit((unsigned char)*text))
        return false;
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    *value = number;
    return errno == 0 && *end == '\0';
}

/* Seconds, with or without decimals, to nanoseconds. */
static bool read_seconds(char *text, uint64_t *nanoseconds)
{
    uint64_t whole, fraction = 0;
    char *point = strchr(text, '.');
    if (point != NULL) {
        *point = '\0';
        char digits[10] = "000000000";
        size_t length = strlen(point + 1);
        if (length == 0 || strspn(point + 1, "0123456789") != length)
            return false;
        memcpy(digits, point + 1, length < 9 ? length : 9);
        if (!read_count(digits, &fraction))
            return false;
    }
    if (!read_count(text, &whole) || whole > UINT64_MAX / 1000000000u - 1)
        return false;
    *nanoseconds = whole * 1000000000u + fraction;
    return true;
}

static int hex_digit(char digit)
{
    const char *const digits = "0123456789abcdef";
    const char *found = digit == '\0' ? NULL : strchr(digits, tolower((unsigned char)digit));
    return found == NULL ? -1 : (int)(found - digits);
}

static bool read_uuid(const char *text, unsigned char uuid[16])
{
    if (strlen(text) != 32)
        return false;
    for (int i = 0; i < 16; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        uuid[i] = (unsigned char)(high * 16 + low);
    }
    return true;
}

static bool copy_text(char *to, const char *text)
{
    size_t length = strlen(text);
    if (length == 0 || length >= GRANT_TEXT_BYTES)
        return false;
    memcpy(to, text, length + 1);
    return true;
}

/* Splits `text` into values[key], pointers into it. False for what isn't a line of a known key. */
static bool split(char *text, char *values[KEYS])
{
    bool first = true;
    for (char *line = text; *line != '\0';) {
        char *end = strchr(line, '\n');
        char *sign = strchr(line, '=');
        if (end == NULL || sign == NULL || sign > end)
            return false;
        *end = *sign = '\0';
        int key = 0;
        while (key < KEYS && strcmp(line, KEY_NAMES[key]) != 0)
            key++;
        if (key == KEYS || values[key] != NULL || (first && key != VERSION))
            return false;
        values[key] = sign + 1;
        first = false;
        line = end + 1;
    }
    return true;
}

static bool read_device(char *values[KEYS])
{
    bool named = values[PLATFORM] != NULL && values[NAME] != NULL && values[ORDINAL] != NULL;
    bool any = values[PLATFORM] != NULL || values[NAME] != NULL || values[ORDINAL] != NULL;
    if ((values[UUID] != NULL) + (values[PCI] != NULL) + named != 1 || named != any)
        return false;
    if (values[UUID] != NULL) {
        grant.identity = BY_UUID;
        return read_uuid(values[UUID], grant.device_uuid);
    }
    if (values[PCI] != NULL) {
        grant.identity = BY_PCI;
        return copy_text(grant.device_pci, values[PCI]);
    }
    uint64_t ordinal;
    grant.identity = BY_NAME;
    if (!read_count(values[ORDINAL], &ordinal) || ordinal > UINT32_MAX)
        return false;
    grant.device_ordinal = (uint32_t)ordinal;
    return copy_text(grant.device_platform, values[PLATFORM]) &&
           copy_text(grant.device_name, values[NAME]);
}

static const char *parse(char *text)
{
    char *values[KEYS] = {NULL};
    if (!split(text, values))
        return "the grant has a line that this layer doesn't know; it enforces nothing by halves";
    if (values[VERSION] == NULL || strcmp(values[VERSION], "1") != 0)
        return "the grant is of another version than this layer";
    if (values[QUOTA] == NULL || !read_count(values[QUOTA], &grant.quota_bytes))
        return "the grant names no quota";
    if (values[EXPIRES] == NULL || !read_seconds(values[EXPIRES], &grant.expires_boottime_ns))
        return "the grant names no expiry";
    if (!read_device(values))
        return "the grant doesn't name one device";
    if (values[USAGE] == NULL || values[USAGE][0] != '/' ||
        !copy_text(grant.usage_file, values[USAGE]))
        return "the grant names no usage file";
    return NULL;
}

const char *grant_read(void)
{
    char text[GRANT_MAX_BYTES];
    size_t length = 0;
    int file = open(GRANT_PATH, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (file < 0)
        return "the grant can't be opened";
    for (;;) {
        ssize_t got = read(file, text + length, sizeof text - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got > 0)
            length += (size_t)got;
        if (got <= 0 || length == sizeof text) {
            close(file);
            if (got < 0)
                return "the grant can't be read";
            break;
        }
    }
    if (length == 0 || length == sizeof text || memchr(text, '\0', length) != NULL)
        return "the grant is empty, too long or no text";
    text[length] = '\0';
    return parse(text);
}
