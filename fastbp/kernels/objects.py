"""Where machine code is kept: object files that came with the package, and a folder of the user's.

A file is used only if it tells the digest of all that decides the machine code (`fastbp.kernels.jit.digest`), and if its
checksum is right: an upgrade never runs stale machine code. One of a folder is used only if nobody but the user and root can
have written it: machine code is run unseen. Whatever is wrong (nowhere to write, damaged, foreign, no sources for a digest)
means compiling without it.
"""

import contextlib
import functools
import hashlib
import importlib.resources
import os
import pathlib
import stat
import tempfile
import warnings

FOLDER = pathlib.Path(__file__).parent
COMPILED = "compiled"  # the folder in the package
SYMBOL = "fastbp_kernel"  # under which a kernel stands in its object file
CHECKSUM_BYTES = hashlib.sha256().digest_size


warned: set = set()  # what has been said


class ForeignError(PermissionError):
    """A folder is not the user's alone."""


def cache_folders():
    """Where object files may be kept, best first."""
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        return [pathlib.Path(chosen) / "fastbp"]
    # who has no home is left with "~", which is dropped
    user = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [folder for folder in (FOLDER / "__pycache__", pathlib.Path(user) / "fastbp") if folder.is_absolute()]


def trusted(folder):
    """The folder that a path leads to; a ForeignError if others can change what is in it or where the path leads."""
    real = pathlib.Path(os.path.realpath(folder, strict=True))
    for place in (real, *real.parents):
        status = place.lstat()  # a link that was no link a moment ago is none of the user's
        # in a sticky folder such as /tmp, nobody moves what is another's
        if not private(status, others_add=place != real and bool(status.st_mode & stat.S_ISVTX)):
            raise ForeignError(f"{place} belongs to another user, or others may write there")
    return real


def private(status, others_add=False):
    """Whether a file or folder belongs to the user or root and no others may write it, as far as the system knows users."""
    if not hasattr(os, "geteuid"):
        return True
    writers = stat.S_IWOTH if status.st_gid == own_group(os.geteuid()) else stat.S_IWGRP | stat.S_IWOTH
    return status.st_uid in (0, os.geteuid()) and (others_add or not status.st_mode & writers)


@functools.cache
def own_group(user_id):
    """The group that has a user's name and no other members, as many systems give to each user; None without one."""
    import grp
    import pwd

    try:
        user = pwd.getpwuid(user_id)
        group = grp.getgrgid(user.pw_gid)
    except KeyError:
        return None
    return group.gr_gid if group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name} else None


def at_once(path, flags):
    """Open a file; what is a pipe in its place is not waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_object(name, digest):
    """Object code and the seconds of compiling, from the file `name`; None if there is no sound one of this digest."""
    with contextlib.suppress(Exception):  # loaders of all kinds fail in all kinds of ways
        package = importlib.resources.files("fastbp")
        made_of = digest if (package / "kernels" / "jit.py").is_file() else None  # else they came without sources
        return unpacked((package / COMPILED / f"{name}.o").read_bytes(), name, made_of)
    for folder in cache_folders() if digest else ():
        with (
            contextlib.suppress(OSError, ValueError),
            open(trusted(folder) / f"{name}.{digest}.o", "rb", opener=at_once) as file,
        ):
            if private(os.fstat(file.fileno())):
                return unpacked(file.read(), name, digest)
    return None


def shipped():
    """Names of the files that came with the package."""
    with contextlib.suppress(Exception):
        return [file.name for file in (importlib.resources.files("fastbp") / COMPILED).iterdir()]
    return []


def unpacked(stored, name, digest):
    """Code and seconds that `packed` was given; a ValueError where it was something else, another kernel or digest."""
    payload = stored[CHECKSUM_BYTES:]
    if hashlib.sha256(payload).digest() != stored[:CHECKSUM_BYTES]:
        raise ValueError("the checksum does not fit")
    head, code = payload.split(b"\0", 1)
    called, made_of, seconds = head.decode().split()
    if called != name or digest not in (made_of, None):
        raise ValueError("another kernel, or other sources")
    return code, float(seconds)


def packed(name, digest, code, seconds):
    payload = f"{name} {digest} {seconds:.3f}".encode() + b"\0" + code
    return hashlib.sha256(payload).digest() + payload


def write_object(name, digest, code, seconds):
    """Keep an object file in the first folder that takes it, whole or not at all."""
    foreign = None
    for folder in cache_folders() if digest else ():
        try:
            for place in (*reversed(folder.parents), folder):
                place.mkdir(0o755, exist_ok=True)
            real = trusted(folder)
            handle, temporary = tempfile.mkstemp(dir=real, prefix=name)
        except ForeignError as error:
            foreign = error
            continue
        except OSError:
            continue
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(packed(name, digest, code, seconds))
            os.chmod(temporary, 0o644)  # what root has compiled is for everybody
            os.replace(temporary, real / f"{name}.{digest}.o")
            return
        except OSError:
            continue
        finally:
            with contextlib.suppress(OSError):  # it has its name by now, if all went well
                os.unlink(temporary)
    if foreign is not None:
        warn_once(str(foreign))


def warn_once(why):
    """Say that machine code is compiled again in every process; once, also where warnings are errors."""
    if why not in warned:
        warned.add(why)
        warnings.warn(f"machine code is not kept: {why}", stacklevel=2)
