"""File system of programs: the private root, the paths an interpreter needs, an emptied directory.

Called by confine.py in the fork server, before and between programs; nothing untrusted runs meanwhile.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress

from . import kernel

_PLACES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/alternatives")
_FILES = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "passwd", "group", "nsswitch.conf")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
ROOT_SIZE, TMP_SIZE = "1m", "256m"
"""Sizes of the two file systems in memory; the second bounds all files that a program writes."""


def system_paths() -> list[str]:
    """Paths that an interpreter needs: the system's directories and Python's own, as far as they exist."""
    python = {sys.prefix, sys.base_prefix, sys.exec_prefix, *filter(os.path.isdir, sys.path)}
    paths = [*_PLACES, *(f"/etc/{name}" for name in _FILES)]
    for path in sorted(python | {os.path.realpath(path) for path in python}, key=len):
        if path != "/" and not any(path == known or path.startswith(known + "/") for known in paths):
            paths.append(path)
    return existing(paths)


def existing(paths: Iterable[str]) -> list[str]:
    """Existing paths only."""
    return [path for path in paths if os.path.exists(path)]


def enter_private_root(base: str, home: str) -> None:
    """Makes a read-only copy of the system's directories and an empty /tmp the root of this mount namespace.

    `base` is a directory of the server's own, `home` the program's directory in the new root: /dev/shm leads there.
    """
    root = os.path.join(base, "root")
    os.makedirs(root, exist_ok=True)
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID, f"size={ROOT_SIZE},mode=755")
    # An interpreter that lives below /tmp comes after the /tmp in memory, which would cover it.
    below_tmp = [path for path in system_paths() if path.startswith("/tmp/")]
    for path in (*system_paths(), *existing(DEVICES)):
        if path not in below_tmp:
            _bind(path, root + path)
    for name in ("proc", "tmp", "dev"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    os.symlink(home, f"{root}/dev/shm")
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    with suppress(OSError):  # no other may be mounted if parts of /proc are masked; programs do without
        kernel.mount("proc", f"{root}/proc", "proc", kernel.MS_NOSUID, "hidepid=2")
    kernel.make_read_only(root)
    options = f"size={TMP_SIZE},mode=755"
    kernel.mount("tmpfs", f"{root}/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    for path in below_tmp:
        _bind(path, root + path)
        kernel.make_read_only(root + path)
    kernel.change_root(root)


def _bind(path: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
    if os.path.islink(path) and os.path.dirname(path) == "/":
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        write_file(target, "")
    kernel.mount(path, target, "", kernel.MS_BIND | kernel.MS_REC)


def remove_inside(path: str) -> None:
    """Empties a directory that no process writes to any more; follows no links, however deep it is."""
    number = 0
    while names := os.listdir(path):
        for name in names:
            entry = os.path.join(path, name)
            if not _is_directory(entry):
                os.unlink(entry)
                continue
            os.chmod(entry, 0o700)
            for inner in os.listdir(entry):
                below = os.path.join(entry, inner)
                if not _is_directory(below):
                    os.unlink(below)
                    continue
                os.chmod(below, 0o700)
                while os.path.lexists(free := os.path.join(path, str(number))):
                    number += 1
                os.rename(below, free)  # up: a chain of directories can be longer than any path
            os.rmdir(entry)


def _is_directory(path: str) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def write_file(path: str, text: str) -> None:
    """Writes a file of the server's own, or one of the kernel's."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    os.write(fd, text.encode())
    os.close(fd)
