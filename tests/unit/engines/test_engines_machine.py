"""How a machine of the test rig finds the cgroup hierarchies that it gets."""

from engines.machine import cgroup_mounts

_OLD = """\
22 1 0:20 / /sys/fs/cgroup rw,relatime shared:1 - tmpfs tmpfs rw,mode=755
23 22 0:21 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
24 22 0:22 / /sys/fs/cgroup/net_cls,net_prio rw - cgroup cgroup rw,net_cls,net_prio
25 22 0:23 / /sys/fs/cgroup/systemd rw,relatime shared:9 - cgroup cgroup rw,xattr,name=systemd
26 22 0:24 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
27 22 0:25 / /mnt/cgroup rw,relatime - cgroup cgroup rw,pids
"""
_NEW = "30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_the_old_hierarchies_are_mounted_by_what_they_control() -> None:
    assert cgroup_mounts(_OLD) == [
        ("/cpu", "cpu"),
        ("/net_cls,net_prio", "net_cls,net_prio"),
        ("/systemd", "none,name=systemd"),
        ("/unified", "cgroup2"),
    ]


def test_the_unified_one_is_the_folder_itself() -> None:
    assert cgroup_mounts(_NEW) == [("", "cgroup2")]
