"""Exit codes of `cumulusd`: small ones as shells have them, the others of sysexits.h."""

#: What was looked at has a fault.
EXIT_FAULT = 1
#: Wrong usage: what was given makes no sense.
EXIT_USAGE = 2
#: The store is damaged.
EXIT_DAMAGED = 65
#: It can't be done, now or here.
EXIT_UNAVAILABLE = 69
#: What is on disk was written by a newer version (EX_PROTOCOL: another one than is spoken here).
EXIT_NEWER = 76
#: The configuration has faults.
EXIT_CONFIG = 78
