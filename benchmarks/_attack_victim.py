"""A process that reads hostile files, one after another, and says what came of each; see ``attack.py``."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
import time
import traceback
import typing
import warnings
from pathlib import Path
from typing import Any

from _attack_mutations import CANARY
from _attack_readers import READERS, Reader

# Far above what any reader may take, and below what would take the machine down.
MOST_ADDRESSES = 24 << 30
MEMORY_MIB = 2048
HANG_S = 10.0
LONGEST_LINE = 1200
# A process has read enough before what it keeps makes it slow.
MOST_CASES = 2000

CANARY_SOURCE = """
import os, pathlib
pathlib.Path(os.environ["LATENCY_LUT_CANARY"]).touch()
def make(*_): pass
"""
# Events that no reader has a use for; ``exec`` and ``compile`` are those of code in texts, not of imports.
FORBIDDEN = (
    *(
        "os.system",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.startfile",
        "subprocess.Popen",
        "pty.spawn",
    ),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "pickle.find_class", "marshal.loads"),
    *(
        "ctypes.dlopen",
        "code.__new__",
        "os.symlink",
        "os.link",
        "os.mkfifo",
        "os.putenv",
        "webbrowser.open",
    ),
)


class Watch:
    """Notes what the audit hook sees while a case is read. Final."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.on = str(folder), False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {args!r}"[:200])
        elif event in ("compile", "exec"):
            if not (event == "exec" and _of_a_file(args[0])) and not _of_our_sources():
                self.seen.append(f"{event} {args!r}"[:200])
        elif event == "import" and CANARY in str(args[0]):
            self.seen.append(f"import {args[0]}")
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.chmod", "shutil.rmtree") or _writes(event, args):
            folder = args[-1] if event != "open" and isinstance(args[-1], int) else -1
            self._written(args[0], folder)
            if event == "os.rename":
                self._written(args[1], folder)

    def _written(self, path: Any, folder: int) -> None:
        if not isinstance(path, (str, bytes)):
            return
        # Some are named by their place in a folder that is open.
        before = f"/proc/self/fd/{folder}" if folder >= 0 else ""
        place = os.path.realpath(os.path.join(before, os.fsdecode(path)))  # noqa: PTH118 - as the system joins them
        if not place.startswith((self.folder + os.sep, os.devnull, "/proc/")):
            self.seen.append(f"writes {place}"[:200])


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# What hostile files name, and no reader has any business with.
_FOREIGN = ("/etc/passwd", "/dev/zero")


def _writes(event: str, args: tuple[Any, ...]) -> bool:
    if event != "open":
        return False
    # ``os.open`` gives flags and no mode.
    by_mode = isinstance(args[1], str) and bool(set(args[1]) & set("wxa+"))
    by_flags = isinstance(args[2], int) and bool(args[2] & _WRITING)
    return by_mode or by_flags or (isinstance(args[0], str) and os.path.realpath(args[0]) in _FOREIGN)


def _of_a_file(code: Any) -> bool:
    """Whether code comes from a module's file, as the code of an import does."""
    return not code.co_filename.startswith("<") or code.co_filename.startswith("<frozen")


def _of_our_sources() -> bool:
    """Whether the text is a module's that is being imported, or an annotation's, which ``typing`` evaluates."""
    frame = sys._getframe(2)
    for _ in range(30):
        if frame is None:
            return False
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib") or name == typing.__file__:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_mib() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _judged(reader: Reader, folder: Path) -> tuple[str, str]:
    from lut._console import LONGEST_MESSAGE
    from lut._printable import printable, shortened
    from lut.errors import LatencyLutError

    try:
        reader.read(folder)
    except LatencyLutError as error:
        said = shortened(printable(f"error: {error}"), LONGEST_MESSAGE)
        if "\n" in said or any(ord(c) < 32 for c in said) or len(said) > LONGEST_LINE:
            return "unclear", f"not one clear line: {said!r}"
        # Of a folder of files, the one that is meant.
        if reader.file not in said and str(folder) not in said:
            return "unclear", f"does not name {reader.file}: {said}"
        return "refused", ""
    except MemoryError:
        return "memory", "MemoryError"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
    return "read", ""


def case(reader: Reader, number: int, root: Path, watch: Watch) -> dict[str, Any]:
    """Make one case's file, read it, and return what came of it."""
    valid, folder, canary = root / "valid" / reader.name, root / "case", root / "canary"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    reader.alter(valid, folder, random.Random(f"{reader.name}-{number}"))
    watch.seen.clear()
    _reset_peak()
    began = time.monotonic()
    watch.on = True
    try:
        outcome, detail = _judged(reader, folder)
    finally:
        watch.on = False
    seconds, peak = time.monotonic() - began, _peak_mib()
    if seconds > HANG_S:
        outcome, detail = "hung", f"{seconds:.1f} s ({outcome})"
    if watch.seen or canary.exists():
        outcome, detail = "executed", "; ".join(watch.seen) or "the canary was imported"
        canary.unlink(missing_ok=True)
    elif peak > MEMORY_MIB:
        outcome, detail = "memory", f"{peak:.0f} MiB ({outcome})"
    return {"outcome": outcome, "detail": detail, "seconds": seconds, "peak_mib": peak}


def main() -> None:
    """Read cases' names from standard input until it ends."""
    root = Path(sys.argv[1]).resolve()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    sys.setrecursionlimit(1000)
    import torch

    torch.set_num_threads(1)
    (root / f"{CANARY}.py").write_text(CANARY_SOURCE)
    sys.path.append(str(root))
    os.environ["LATENCY_LUT_CANARY"] = str(root / "canary")
    os.environ["TMPDIR"] = str(root)
    os.environ["XDG_CACHE_HOME"] = str(root / "cache")
    # What the readers print is not for the one who gives the cases.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    watch = Watch(root)
    readers = {reader.name: reader for reader in READERS}
    alone = sys.argv[2:]
    for reader in readers.values():
        if alone and reader.name != alone[0]:
            continue
        valid = root / "valid" / reader.name
        valid.mkdir(parents=True)
        reader.make(valid)
        # An attack on what is refused anyway would show nothing.
        folder = root / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(valid, folder)
        reader.whole(folder)
        reader.read(folder)
        # Twice and altered: whatever is imported late is imported now, when nobody watches.
        for number in range(-6, 0):
            found = case(reader, number, root, watch)
            if found["outcome"] not in ("read", "refused", "executed"):
                raise SystemExit(f"{reader.name} {number}: {found}")
        watch.on = False
    if alone:
        folder = root / "case"
        found = case(readers[alone[0]], int(alone[1]), root, watch)
        answers.write(json.dumps(found, indent=1).encode() + b"\n")
        if found["outcome"] not in ("executed", "refused"):
            # With its traceback.
            readers[alone[0]].read(folder)
        raise SystemExit(found["outcome"] not in ("read", "refused"))
    answers.write(b'{"ready": true}\n')
    for done, line in enumerate(sys.stdin.buffer, start=1):
        name, number = json.loads(line)
        found = case(readers[name], number, root, watch)
        answers.write(json.dumps({**found, "last": done >= MOST_CASES}).encode() + b"\n")


if __name__ == "__main__":
    main()
