"""Starts one command so that it cannot outlive its parent, as another user when asked.

Runs as a program of its own (`python tether.py SIGNAL PARENT_PID IDENTITY -- command`) and becomes
the command, so the process id is the command's: nothing runs between fork and exec in a process
with threads, and the kernel delivers SIGNAL to the command when the parent dies (Linux; elsewhere
the next start ends what was left over). IDENTITY is one of
    self           whoever started it
    namespace      a user namespace in which root is `nobody` (PostgreSQL refuses to run as root)
    UID:GID        that user, for good
Standard library only; started with -I -S, so it costs some 20 ms.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
NOBODY_ID = 65534

SELF = "self"
NAMESPACE = "namespace"


def tethered(command: list[str], death_signal: signal.Signals, identity: str = SELF) -> list[str]:
    """The argument vector that runs `command` tethered to the calling process.

    The kernel watches the *thread* that starts the process: start it from a thread that lives as
    long as the process may, in practice the main thread.
    """
    head = [sys.executable, "-I", "-S", __file__, str(int(death_signal)), str(os.getpid())]
    return [*head, identity, "--", *command]


def enter_user_namespace() -> None:
    """Makes this process `nobody` in its own eyes while files stay its real user's.

    Raises:
        OSError: the system allows no user namespaces.
    """
    real_uid, real_gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "user namespaces are not allowed here")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY_ID} {real_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY_ID} {real_gid} 1")


def take_identity(identity: str) -> None:
    if identity == NAMESPACE:
        enter_user_namespace()
    elif identity != SELF:
        uid, gid = (int(part) for part in identity.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)


def die_with_parent(death_signal: int, parent_pid: int) -> None:
    """After take_identity: the kernel forgets the request when credentials change."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the request was in place
        sys.exit(1)


def main() -> None:
    death_signal, parent_pid, identity, _, *command = sys.argv[1:]
    try:
        take_identity(identity)
        die_with_parent(int(death_signal), int(parent_pid))
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error}")


if __name__ == "__main__":
    main()
