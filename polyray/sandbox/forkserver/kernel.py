"""Linux calls that Python lacks: namespaces, mounts, capabilities, Landlock, seccomp. Raises OSError, decides
nothing.

Used by confine.py in the fork server only; programs lose this module (and ctypes) before they run.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x0002_0000, 0x0800_0000, 0x1000_0000
CLONE_NEWPID, CLONE_NEWNET = 0x2000_0000, 0x4000_0000
CLONE_NEWANY = 0x7E02_0080
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = (
    1,
    4,
    22,
    36,
    38,
)
_MOUNT_SETATTR = 442
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(number: int, *arguments: object) -> int:
    values = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *values), f"system call {number}")


def unshare(flags: int) -> None:
    """New namespaces for this process (for its next child: CLONE_NEWPID)."""
    _checked(_libc.unshare(flags), f"unshare {flags:#x}")


def setns(fd: int, kind: int) -> None:
    """Enters the namespace behind `fd`."""
    _checked(_libc.setns(fd, kind), f"setns {kind:#x}")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    arguments = [value.encode() or None for value in (source, target, kind)]
    result = _libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None)
    _checked(result, f"mount {target}")


def unmount(target: str) -> None:
    """Detaches what is mounted there, in use or not."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def make_read_only(path: str) -> None:
    """Every mount at and below `path`: read-only, without set-uid programs."""
    attributes = struct.pack("QQQQ", 1 | 2, 0, 0, 0)  # MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID
    _syscall(_MOUNT_SETATTR, -100, ctypes.c_char_p(path.encode()), 0x8000, attributes, len(attributes))


def change_root(path: str) -> None:
    """Makes `path` (a mount point) the root of this mount namespace; the old root is gone."""
    os.chdir(path)
    _syscall({"x86_64": 155, "aarch64": 41}[platform.machine()], b".", b".")  # pivot_root
    unmount(".")
    os.chdir("/")


def control(option: int, value: int) -> None:
    """prctl(2)."""
    _checked(_libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3), f"prctl {option}")


def drop_capabilities() -> None:
    """All of them, for good: with no_new_privs nothing that is executed gets any back."""
    header = struct.pack("Ii", 0x2008_0522, 0)
    _checked(_libc.capset(header, bytes(24)), "capset")


def landlock_rules(read_only: Iterable[str], writable: Iterable[str]) -> int:
    """A file descriptor of rules: nothing but these trees, no TCP, no signals out. OSError without Landlock."""
    abi = _syscall(_LANDLOCK_CREATE, 0, 0, 1)
    every = (1 << 13) - 1
    for since, bit in ((2, 13), (3, 14), (5, 15)):  # refer, truncate, device ioctl
        every |= (abi >= since) << bit
    scope = struct.pack("QQQ", every, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    rules = _syscall(_LANDLOCK_CREATE, scope[:size], size, 0)
    looking = 1 | 4 | 8  # execute, read a file, list a directory
    on_files = 1 | 2 | 4 | every & (1 << 14)
    for paths, access in ((read_only, looking), (writable, every)):
        for path in paths:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = access if os.path.isdir(path) else access & on_files
            _syscall(_LANDLOCK_ADD, rules, 1, struct.pack("=Qi", allowed, fd), 0)
            os.close(fd)
    return rules


def landlock(rules: int) -> None:
    """Binds this process and its children to `rules`; needs no_new_privs."""
    _syscall(_LANDLOCK_RESTRICT, rules, 0)


# System calls that no program needs, (x86_64, aarch64): other processes' memory and files, mounts,
# namespaces, keys, kernel loading, and the large interfaces through which kernels are attacked.
_FORBIDDEN = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "setns": (308, 268), "unshare": (272, 97), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "mount_setattr": (442, 442), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "open_by_handle_at": (304, 265),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104), "reboot": (169, 142),
    "swapon": (167, 224), "syslog": (103, 116), "quotactl": (179, 60), "acct": (163, 89),
}  # fmt: skip
_SIGNALS = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}
_CLONE, _CLONE3, _SOCKET, _PRCTL = (56, 220), (435, 435), (41, 198), (157, 167)
_ALLOW, _EPERM, _ENOSYS = 0x7FFF_0000, 0x0005_0001, 0x0005_0026


def seccomp(own_pid: int | None) -> None:
    """Forbids sockets but Unix ones, new namespaces and `_FORBIDDEN` for this process and its children.

    With `own_pid` it may send signals to that process only: for where no PID namespace hides the others.
    """
    column, architecture = _ARCHITECTURES[platform.machine()]
    code: list[tuple[int, int, int, int]] = [
        (0x20, 0, 0, 4),  # load the architecture
        (0x15, 1, 0, architecture),
        (0x06, 0, 0, _EPERM),
        (0x20, 0, 0, 0),  # load the number of the call
    ]
    if column == 0:
        code += [(0x35, 0, 1, 0x4000_0000), (0x06, 0, 0, _EPERM)]  # the x32 numbering

    def refuse(numbers: tuple[int, int], error: int = _EPERM) -> None:
        code.extend([(0x15, 0, 1, numbers[column]), (0x06, 0, 0, error)])

    def refuse_unless(numbers: tuple[int, int], test: tuple[int, int, int, int], *before: tuple) -> None:
        body = [(0x20, 0, 0, 16), *before, test, (0x06, 0, 0, _ALLOW), (0x06, 0, 0, _EPERM)]
        code.extend([(0x15, 0, len(body), numbers[column]), *body])  # the first argument decides

    for numbers in _FORBIDDEN.values():
        refuse(numbers)
    refuse(_CLONE3, _ENOSYS)  # its flags are in memory that a filter cannot read; libc falls back to clone
    refuse_unless(_CLONE, (0x15, 0, 1, 0), (0x54, 0, 0, CLONE_NEWANY))
    refuse_unless(_SOCKET, (0x15, 0, 1, 1))
    refuse_unless(_PRCTL, (0x15, 1, 0, PR_SET_DUMPABLE))
    if own_pid is not None:
        for numbers in _SIGNALS.values():
            refuse_unless(numbers, (0x15, 0, 1, own_pid))
    code.append((0x06, 0, 0, _ALLOW))
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(program))
    _checked(_libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(2), header, 0, 0), "seccomp")
