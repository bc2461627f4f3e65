"""A bundle: a folder of converted programs and the manifest that says what they are.

History of the manifest's format
    1   the first.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from lut import ChannelCurve, Layer, LayerError
from lut._files import file_error, read_bytes
from lut._option_names import RESTART
from lut._printable import lowered
from lut._records import AtLeastOne, Count, CurveRecord, Instant, Record, Seconds, Text
from lut.errors import FileAccessError, ProfileError
from profiler._coreml._options import ExportOptions
from profiler._coreml._programs import Role

__all__ = [
    "MANIFEST",
    "ExportFailure",
    "FileHash",
    "LayerEntry",
    "Manifest",
    "NetworkEntry",
    "Program",
    "Tensor",
    "Term",
    "bundle_id",
    "check_paths",
    "decode_strictly",
    "hash_file",
    "hash_files",
    "load_bundle",
    "manifest_schema",
    "program_digest",
    "program_path",
]

MANIFEST = "manifest.json"
FORMAT: Literal["latency-lut-coreml-bundle"] = "latency-lut-coreml-bundle"
VERSION: Literal[1] = 1

# In a larger file an error names the list, and not the entry in it.
LARGEST_SEARCHED = 8 << 20
# No file of a program is larger, and no program is made of more of them.
LARGEST_FILE = 16 << 30
MOST_FILES = 1_000
# Of a file's name; below it stand the parts of a package, and some systems hold 260 characters in all.
LONGEST_TITLE = 80

Sha256: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
ProgramId: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$")]
BundleId: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$|^$")]
# A manifest comes from elsewhere: its paths stay inside the bundle, with neither a leading / nor a part that is `..`.
RelativePath: TypeAlias = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$", max_length=500)
]
Weight: TypeAlias = Annotated[float, Meta(ge=-1e6, le=1e6)]


class Tensor(Record, frozen=True):
    """An input or an output of a program; the shape has the batch in front."""

    name: Text
    shape: tuple[AtLeastOne, ...]
    dtype: Text


class FileHash(Record, frozen=True):
    """A file of a program, by its path in the bundle."""

    path: RelativePath
    bytes: Count
    sha256: Sha256


class Program(Record, frozen=True):
    """A converted program. ``digest`` is that of its files; ``made_from`` names what it was converted from."""

    id: ProgramId
    what: Text
    role: Role
    copies: AtLeastOne
    path: RelativePath
    digest: Sha256
    files: tuple[FileHash, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: dict[Text, AtLeastOne]
    made_from: Sha256
    convert_s: Seconds


class Term(Record, frozen=True):
    """A program's part in a latency: ``weight`` times the program's milliseconds."""

    program: ProgramId
    weight: Weight


class LayerEntry(Record, frozen=True):
    """A layer, in full as in tables; its latency is the sum of the terms."""

    digest: Text
    layer: Layer
    value: tuple[Term, ...]


class NetworkEntry(Record, frozen=True):
    """A whole network that is timed as one program."""

    name: Text
    program: ProgramId


class ExportFailure(Record, frozen=True):
    """A layer (or, without one, a network by name) that has no program, and why."""

    name: Text
    layer: Layer | None
    message: Text


class Manifest(Record, frozen=True):
    """What a bundle holds. ``bundle`` is 32 digits that name it: the hash of everything else in the manifest."""

    format: Literal["latency-lut-coreml-bundle"]
    version: Literal[1]
    bundle: BundleId
    written_at: Instant
    options: ExportOptions
    software: dict[Text, Text]
    scheme: Text
    programs: tuple[Program, ...]
    groups: tuple[tuple[ProgramId, ...], ...]
    layers: tuple[LayerEntry, ...]
    networks: tuple[NetworkEntry, ...]
    curves: tuple[CurveRecord, ...]
    failures: tuple[ExportFailure, ...]

    def channel_curves(self) -> tuple[ChannelCurve, ...]:
        """Return the space's curves, layers that failed included."""
        known = {entry.digest: entry.layer for entry in self.layers}
        known |= {failure.layer.digest: failure.layer for failure in self.failures if failure.layer is not None}
        return tuple(
            ChannelCurve(curve.name, curve.base_channels, tuple(known[digest] for digest in curve.layers))
            for curve in self.curves
        )


def manifest_schema() -> bytes:
    """Return the JSON Schema of a manifest."""
    return _schema(Manifest, f"{FORMAT}, version {VERSION}")


def _schema(kind: type[msgspec.Struct], title: str) -> bytes:
    schema = msgspec.json.schema(kind)
    schema["title"] = title
    return msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=1) + b"\n"


def bundle_id(manifest: Manifest) -> str:
    """Return the 32 digits that name a bundle."""
    bare = msgspec.structs.replace(manifest, bundle="")
    return hashlib.sha256(msgspec.json.encode(bare)).hexdigest()[:32]


def hash_file(path: Path, *, expected: int | None = None) -> tuple[int, str]:
    """Return a regular file's length and SHA-256, read in pieces; of a file of another length than expected no digest.

    Raises:
        FileAccessError: it cannot be read.
        ProfileError: it is a link, a pipe, or anything else than a regular file.
    """
    digest, length = hashlib.sha256(), 0
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ProfileError(f"{path} is no regular file, and programs are made of such only")
            if expected is not None and found.st_size != expected:
                return found.st_size, ""
            while piece := stream.read(1 << 20):
                digest.update(piece)
                length += len(piece)
                if length > LARGEST_FILE:
                    raise ProfileError(f"{path} is larger than any program")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ProfileError(f"{path} is a link, and a program's files lie in its bundle") from None
        raise file_error(path, "read", error) from None
    return length, digest.hexdigest()


def hash_files(root: Path, path: str) -> tuple[FileHash, ...]:
    """Return the hashes of a program's files: of the one that ``path`` names, or of all in that folder."""
    place = root / path
    files = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    found = []
    for file in files:
        length, sha256 = hash_file(file)
        found.append(FileHash(path=file.relative_to(root).as_posix(), bytes=length, sha256=sha256))
    return tuple(found)


def program_digest(files: Iterable[FileHash]) -> str:
    """Return the digest of a program: the SHA-256 of one line ``sha256␠␠path`` per file, in the order of the paths."""
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path))
    return hashlib.sha256(lines.encode()).hexdigest()


def program_path(title: str, program: str, suffix: str) -> str:
    """Return where a program lies: ``programs/conv3x3-16to32-….mlpackage``, readable first and then its own digits.

    Args:
        title: what it is, for people; what no file name may hold is left out.
        program: its id, which no other program has.
        suffix: ``.mlpackage`` or ``.mlmodel``.
    """
    kept = re.sub("[^A-Za-z0-9_.]+", "-", title.replace("×", "x").replace("→", "to"))
    readable = kept.strip("-.")[:LONGEST_TITLE].strip("-.")
    return f"programs/{readable}{'-' if readable else ''}{program}{suffix}"


RecordT = TypeVar("RecordT", bound=Record)


def decode_strictly(
    content: bytes, kind: type[RecordT], *, source: str, what: str, expected: tuple[str, int]
) -> RecordT:
    """Return the record that JSON ``content`` holds.

    Raises:
        ProfileError: not JSON, not of this format or version, or wrong at a place that the message names.
    """
    name, version = expected
    try:
        # Only what says what it is: the rest is made once, in the types that it must have.
        header = msgspec.json.decode(content, type=_Header)
    except msgspec.ValidationError:
        raise ProfileError(f"{source}: not {what}: 'format' is not {name!r}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "it is empty" if not content.strip() else f"it is not valid JSON ({_lower(error)})"
        raise ProfileError(f"{source}: not {what}: {hint}") from None
    except RecursionError:
        raise ProfileError(f"{source}: not {what}: it is nested too deeply") from None
    if header.format != name:
        raise ProfileError(f"{source}: not {what}: 'format' is not {name!r}")
    found = header.version
    if type(found) is not int or found != version:
        raise ProfileError(
            f"{source}: version {str(found)[:40]} of the format is unknown here; this release reads version {version}"
        )
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, LayerError) as error:
        raise ProfileError(f"{source}: {_numbered(content, kind, _lower(error))}") from None
    except RecursionError:
        raise ProfileError(f"{source}: not {what}: it is nested too deeply") from None


class _Header(msgspec.Struct, frozen=True):
    """What any file of ours begins with."""

    format: str
    version: Any = None


def _numbered(content: bytes, kind: type[Record], message: str) -> str:
    """Return a decoder's message with the number of the entry that it only calls ``[...]``."""
    for field in msgspec.structs.fields(kind):
        place = f"$.{field.name}[...]"
        if place not in message or len(content) > LARGEST_SEARCHED:
            continue
        whole: dict[str, Any] = msgspec.json.decode(content)
        entries = whole.get(field.name)
        if not isinstance(entries, list):
            continue
        for number, entry in enumerate(entries):
            try:
                msgspec.convert([entry], field.type)
            except (msgspec.ValidationError, LayerError):
                return message.replace(place, f"$.{field.name}[{number}]")
    return message


def _lower(error: Exception) -> str:
    text = str(error)
    return lowered(text)


def load_bundle(
    folder: str | os.PathLike[str], *, verify: bool = True, progress: Callable[[int, int], None] = lambda *_: None
) -> Manifest:
    """Return a bundle's manifest, every file of the bundle checked against it.

    Args:
        folder: the bundle.
        verify: whether the programs' files are read and compared with their hashes.
        progress: called with how many of how many programs were checked.

    Raises:
        FileAccessError: the manifest, or a file that it names, is missing or cannot be read.
        ProfileError: the manifest is not valid, or it or a file was altered since the export.
    """
    root = Path(folder)
    path = root / MANIFEST
    if root.is_dir() and not path.exists():
        raise FileAccessError(
            f"{root} holds no {MANIFEST}: it is no bundle, or its export never ended; run that export-coreml again"
        )
    manifest = decode_strictly(
        read_bytes(path), Manifest, source=str(path), what="a bundle's manifest", expected=(FORMAT, VERSION)
    )
    if bundle_id(manifest) != manifest.bundle:
        raise ProfileError(f"{path}: the manifest was altered since the export: it does not hash to its own 'bundle'")
    _check_references(manifest, path)
    if verify:
        for number, program in enumerate(manifest.programs):
            _verify(root, program)
            progress(number + 1, len(manifest.programs))
    return manifest


def _check_references(manifest: Manifest, path: Path) -> None:
    programs = {program.id for program in manifest.programs}
    if len(programs) != len(manifest.programs):
        raise ProfileError(f"{path}: two programs share an id - at `$.programs`")
    for i, one in enumerate(manifest.programs):
        check_paths(one, f"{path}: ", f"programs[{i}]")
    named = [(f"layers[{i}]", term.program) for i, entry in enumerate(manifest.layers) for term in entry.value]
    named += [(f"networks[{i}]", entry.program) for i, entry in enumerate(manifest.networks)]
    named += [(f"groups[{i}]", program) for i, group in enumerate(manifest.groups) for program in group]
    for place, program in named:
        if program not in programs:
            raise ProfileError(f"{path}: there is no program {program} - at `$.{place}`")
    digests: set[str] = set()
    for i, entry in enumerate(manifest.layers):
        if entry.digest != entry.layer.digest or entry.digest in digests:
            raise ProfileError(f"{path}: the digest is not the layer's, or stands twice - at `$.layers[{i}]`")
        if not entry.value:
            raise ProfileError(f"{path}: the layer's latency is the sum of no programs - at `$.layers[{i}].value`")
        if len({term.program for term in entry.value}) < len(entry.value):
            raise ProfileError(f"{path}: a program stands twice in the layer's latency - at `$.layers[{i}].value`")
        digests.add(entry.digest)
    for i, failure in enumerate(manifest.failures):
        if failure.layer is None:
            continue
        if failure.layer.digest in digests:
            raise ProfileError(f"{path}: the layer stands twice - at `$.failures[{i}]`")
        digests.add(failure.layer.digest)
    for i, curve in enumerate(manifest.curves):
        if not digests.issuperset(curve.layers):
            raise ProfileError(f"{path}: the curve names a layer that is not here - at `$.curves[{i}]`")
    try:
        manifest.channel_curves()
    except LayerError as error:
        raise ProfileError(f"{path}: {error} - at `$.curves`") from None


def check_paths(program: Program, source: str, where: str) -> None:
    """Raise unless a program's files lie where the program does, each once."""
    if program.path.count("/") != 1 or not program.path.startswith("programs/") or "\n" in program.path:
        raise ProfileError(f"{source}a program lies in 'programs', and nowhere below - at `$.{where}.path`")
    if len(program.files) > MOST_FILES:
        raise ProfileError(f"{source}{len(program.files)} files, and {MOST_FILES} are the most - at `$.{where}.files`")
    seen: set[str] = set()
    for i, file in enumerate(program.files):
        inside = file.path == program.path or file.path.startswith(f"{program.path}/")
        if not inside or file.path in seen or "\n" in file.path:
            raise ProfileError(
                f"{source}the file is none of the program's, or stands twice - at `$.{where}.files[{i}]`"
            )
        if file.bytes > LARGEST_FILE:
            raise ProfileError(f"{source}the file is larger than any program - at `$.{where}.files[{i}].bytes`")
        seen.add(file.path)


def _refuse_links(root: Path, path: str) -> None:
    """Raise where a part of a path inside the bundle is a link."""
    place = root
    for part in path.split("/"):
        place = place / part
        if place.is_symlink():
            raise ProfileError(f"{place} is a link, and a program's files lie in its bundle")


def _verify(root: Path, program: Program) -> None:
    expected = {file.path: file for file in program.files}
    place = root / program.path
    _refuse_links(root, program.path)
    if not place.exists():
        raise FileAccessError(
            f"{place} is missing, which is {program.what!r} of this bundle; copy the whole bundle, or export it again"
        )
    for file in program.files:
        _refuse_links(root, file.path)
        if not (root / file.path).exists():
            raise FileAccessError(f"{root / file.path} is missing from the bundle; copy the whole bundle again")
        length, sha256 = hash_file(root / file.path, expected=file.bytes)
        if (length, sha256) != (file.bytes, file.sha256):
            raise ProfileError(
                f"{root / file.path} was altered since the export (its SHA-256 is not the manifest's); copy the bundle "
                f"again, or export it again: {RESTART}"
            )
    for found in sorted(place.rglob("*")) if place.is_dir() else ():
        # Finder's own files are no part of a model, and a bundle that was copied on a Mac may have some.
        if (found.is_dir() and not found.is_symlink()) or found.name == ".DS_Store" or found.name.startswith("._"):
            continue
        if found.relative_to(root).as_posix() not in expected:
            raise ProfileError(
                f"{found} was added since the export (it is not in the manifest); remove it, or copy the bundle again"
            )
    if program.digest != program_digest(program.files) or not expected:
        raise ProfileError(f"{root / MANIFEST}: the digest of program {program.id} is not that of its files")
