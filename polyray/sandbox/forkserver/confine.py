"""Isolation that this machine allows: entered once for the server, then once for each program.

The strongest plan that works in rehearsal is taken. Its mechanisms:

    uid           a user id of its own instead of root          userns    root only inside a user namespace
    pidns         processes that cannot see others, and end together
    netns, ipcns  no network, no shared memory with others
    private-root  sees only the system's directories, read-only; writes only into its own directory, in memory
    landlock      the same by access rules, where mounts are not allowed; then /dev/shm is closed, too
    seccomp       no sockets but Unix ones, no tracing, no kernel interfaces
    rlimits       memory, CPU, files, processes: always

Called by server.py, in the server and in its children.
"""

from __future__ import annotations

import math
import os
import resource
import time
from _signal import SIGKILL, SIGTERM, signal  # pyright: ignore[reportMissingImports]
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from . import kernel
from .root import DEVICES, enter_private_root, existing, remove_inside, system_paths, write_file

OTHERS_MAY_START = 256
"""Threads that the user's other processes may start while a program runs under the same user id."""
DIRECTORY = "program"
"""Each program's directory, under the server's base directory (under /tmp in a private root)."""
_WHERE = (("private-root",), ("landlock",), ())
_NAMESPACES: tuple[tuple[str, ...], ...] = (("pidns", "netns", "ipcns"), ())
_WHO = (("uid",), ("userns",), ())
_CALLS = (("seccomp",), ())
_PLANS = [
    (*who, *namespaces, *where, *calls)
    for where in _WHERE
    for namespaces in _NAMESPACES
    for who in _WHO
    for calls in _CALLS
]
_FIRST_UID, _NUM_UIDS = 61184, 4336
"""A range that systemd keeps for short-lived services: no user's files carry these ids."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of one request, as they cross from the runner.

    Example:
        Bounds(3.0, 4 << 30, 64 << 20, 128, 32, 64 << 10)
    """

    timeout_s: float
    memory_bytes: int
    file_bytes: int
    num_files: int
    num_processes: int
    output_bytes: int


class Confinement:
    """The isolation of one server and its programs."""

    def __init__(self, base: str, without: Iterable[str] = ()) -> None:
        """Rehearses the plans, strongest first, leaving out mechanisms named in `without` (for tests).

        `base` is a directory of the server's own.
        """
        os.chmod(base, 0o711)  # programs under another user id reach their directory in it
        self._base = base
        self._owner = os.getuid()
        self.uid = _FIRST_UID + os.getpid() % _NUM_UIDS
        left_out = {*without, *(("uid",) if self._owner else ())}
        plans = [plan for plan in _PLANS if left_out.isdisjoint(plan)]
        self.plan = next((plan for plan in plans if self._rehearse(plan)), ())
        self._enter()

    @property
    def level(self) -> str:
        """All mechanisms in force, e.g. "uid+pidns+netns+ipcns+private-root+seccomp+rlimits"."""
        return "+".join((*self.plan, "rlimits"))

    def _rehearse(self, plan: tuple[str, ...]) -> bool:
        """Whether a child of a child under `plan` can still load the standard library and write at home only."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                self.plan = plan
                self._enter()
                inner, told = self.fork()
                if inner == 0:
                    self.confine(Bounds(5.0, 4 << 30, 1 << 20, 64, 8, 1))
                    status = 0 if _still_works(self.home) else 1
                else:
                    _, ended = os.waitpid(inner, 0)
                    status = ended if told < 0 else int.from_bytes(os.read(told, 4) or b"\1", "little")
                    status = min(status, 1)
            except (OSError, KeyError, ImportError, ValueError):
                status = 1
            finally:
                os._exit(status)
        succeeded = os.waitpid(pid, 0)[1] == 0
        with suppress(OSError):  # it may belong to a user that the next plan cannot be
            os.rmdir(os.path.join(self._base, DIRECTORY))
        return succeeded

    def _enter(self) -> None:
        """Puts the server itself where its programs will live."""
        self._old_proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._rules: int | None = None
        self._pid_namespace: int | None = None
        kernel.control(kernel.PR_SET_CHILD_SUBREAPER, 1)
        flags = {
            "netns": kernel.CLONE_NEWNET,
            "ipcns": kernel.CLONE_NEWIPC,
            "private-root": kernel.CLONE_NEWNS,
        }
        flags |= {"pidns": kernel.CLONE_NEWPID, "userns": kernel.CLONE_NEWUSER}
        if wanted := sum(flag for name, flag in flags.items() if name in self.plan):
            group = os.getgid()
            kernel.unshare(wanted)
            if "userns" in self.plan:
                write_file("/proc/self/setgroups", "deny")
                write_file("/proc/self/uid_map", f"{self._owner} {self._owner} 1")
                write_file("/proc/self/gid_map", f"{group} {group} 1")
        if "pidns" in self.plan:
            _continue_in_child()  # its namespace is ours: we leave it for a program's and return
            self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.home = os.path.join(self._base, DIRECTORY)
        if "private-root" in self.plan:
            self.home = os.path.join("/tmp", DIRECTORY)
            enter_private_root(self._base, self.home)
        self.clean()
        if "landlock" in self.plan:
            visible, writable = [*system_paths(), "/proc", "/dev"], existing((self.home, *DEVICES))
            self._rules = kernel.landlock_rules(visible, writable)

    def clean(self) -> None:
        """An empty directory for the next program."""
        if not os.path.isdir(self.home) or os.path.islink(self.home):
            os.mkdir(self.home)
        remove_inside(self.home)
        os.chmod(self.home, 0o700)
        owner = self.uid if "uid" in self.plan else self._owner
        os.chown(self.home, owner, owner if "uid" in self.plan else -1)

    def fork(self) -> tuple[int, int]:
        """fork(2): (0, -1) in the program's process, (what to watch and end, where its wait status is read) here.

        With a PID namespace its first process only waits for the second, which is the program's: signals that the
        first one sends to itself would have no effect. Without one, the status is that of the process itself (-1).
        The first one ends everything on SIGTERM, and so accounts for what the program used.
        """
        if self._pid_namespace is None:
            return os.fork(), -1
        status, to_status = os.pipe()
        pid = -1
        kernel.unshare(kernel.CLONE_NEWPID)
        try:
            pid = os.fork()
        finally:
            if pid != 0:  # back, for the next one
                os.close(to_status)
                kernel.setns(self._pid_namespace, kernel.CLONE_NEWPID)
            if pid < 0:
                os.close(status)
        if pid == 0:
            _wait_for_second(to_status)
        return (pid, status) if pid else (0, -1)

    def confine(self, bounds: Bounds) -> None:
        """Confine the program, in the child. Only memory and its own open files are left after this."""
        os.setsid()
        os.umask(0o077)
        os.chdir(self.home)
        self._go_first_when_memory_is_short()
        for number, value in (
            (resource.RLIMIT_AS, bounds.memory_bytes),
            (resource.RLIMIT_CPU, math.ceil(bounds.timeout_s) + 1),
            (resource.RLIMIT_FSIZE, bounds.file_bytes),
            (resource.RLIMIT_NOFILE, bounds.num_files),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NPROC, bounds.num_processes + self._other_tasks()),
        ):
            hard = resource.getrlimit(number)[1]
            least = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (least, least))
        if "uid" in self.plan:
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
        kernel.control(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.drop_capabilities()
        kernel.control(kernel.PR_SET_PDEATHSIG, SIGKILL)
        kernel.control(kernel.PR_SET_DUMPABLE, 0)
        if self._rules is not None:
            kernel.landlock(self._rules)
        if "seccomp" in self.plan:
            kernel.seccomp(None if "pidns" in self.plan else os.getpid())

    def _go_first_when_memory_is_short(self) -> None:
        """The limit of memory holds for each process; of a machine that has none left, programs give theirs back."""
        with suppress(OSError):
            fd = os.open("self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._old_proc)
            os.write(fd, b"1000")
            os.close(fd)

    def _other_tasks(self) -> int:
        """Processes and threads that count against the same user and are not the program's."""
        if "uid" in self.plan or "userns" in self.plan or self._owner == 0:
            return 0
        count = 0
        for name in os.listdir(self._old_proc):
            if name.isdigit():
                try:
                    if os.stat(name, dir_fd=self._old_proc).st_uid == self._owner:
                        count += os.stat(f"{name}/task", dir_fd=self._old_proc).st_nlink - 2
                except OSError:
                    continue
        return count + OTHERS_MAY_START

    def sweep(self) -> None:
        """Kill and reap all processes that a program left behind; in the server, after the program ended.

        Orphans come to the server (it is their subreaper), so that killing its children until there are none ends
        them all. Raises OSError where they multiply faster for 5 s.
        """
        for _ in range(5000):
            if not _reap_ended():
                return
            if "uid" in self.plan and "pidns" not in self.plan:
                self._kill_all_of_uid()
            for pid in self._children():
                os.kill(pid, SIGKILL)
            time.sleep(0.001)
        raise OSError("a program's processes multiply faster than they can be killed")

    def _kill_all_of_uid(self) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                os.setresuid(self.uid, self.uid, self.uid)
                os.kill(-1, SIGKILL)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    def _children(self) -> list[int]:
        own, found = os.getpid(), []
        for name in os.listdir(self._old_proc):
            if name.isdigit():
                try:
                    fd = os.open(f"{name}/stat", os.O_RDONLY, dir_fd=self._old_proc)
                except OSError:
                    continue
                with os.fdopen(fd, "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                if fields and int(fields[1]) == own:
                    found.append(int(name))
        return found


def _continue_in_child() -> None:
    """Continue in a child; this process only waits for it and ends as it does."""
    pid = os.fork()
    if pid != 0:
        status = os.waitpid(pid, 0)[1]
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    kernel.control(kernel.PR_SET_PDEATHSIG, SIGKILL)
    kernel.control(kernel.PR_SET_CHILD_SUBREAPER, 1)


def _wait_for_second(to_status: int) -> None:
    """Returns in a second process; the first tells its wait status and ends, and with it the namespace."""
    try:
        second = os.fork()
        if second == 0:
            return
        os.closerange(0, to_status)
        os.closerange(to_status + 1, 1 << 20)
        signal(SIGTERM, lambda *_: os.kill(-1, SIGKILL))  # the server's word to end everything in here
        while True:
            pid, status = os.wait()
            if pid == second:
                os.write(to_status, status.to_bytes(4, "little"))
                os._exit(0)
    except OSError:
        os._exit(1)


def _reap_ended() -> bool:
    """Whether children are left after every ended one was reaped."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def _still_works(home: str) -> bool:
    """Whether the standard library can be loaded and the directory be written."""
    import fractions  # loaded by nothing yet; it loads compiled modules, too

    probe = os.path.join(home, "probe")
    write_file(probe, "")
    os.unlink(probe)
    return fractions.Fraction(1, 2) == 0.5
