"""Run files: JSON Lines of `Header`, `Tuning`, `Record` and `Footer`; written a whole line at a time, read back whole.

A run that was killed is a valid shorter run: it has no footer, and at most its last line is torn. Resuming cuts footer
and torn line off (neither holds a record) and appends; the footer written at the end covers the whole file again.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import gc
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from pykernels.errors import UsageError
from pykernels.model import SCHEMA, Crashed, Footer, Header, Record, Tuning

Line = Header | Tuning | Record | Footer

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)

_MEND = {
    errno.ENOSPC: "the disk is full: free some space or choose another place with -o",
    errno.EDQUOT: "your disk quota is used up: free some space or choose another place with -o",
    errno.EROFS: "the file system is read-only: choose another place with -o",
    errno.EACCES: "you may not write there: choose another place with -o",
    errno.EPERM: "you may not write there: choose another place with -o",
    errno.ENOENT: "its folder does not exist: create it or choose another place with -o",
    errno.ENOTDIR: "its folder is not a folder: choose another place with -o",
    errno.EISDIR: "it is a folder: give a file name with -o",
    errno.EEXIST: "the file exists: choose another name with -o, or go on with `pykernels run --resume`",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one with -o",
    errno.EFBIG: "the file would be too large for the limits set here: choose another place with -o",
}


class Run(msgspec.Struct):
    """A run file in memory. `warnings` says what was not as it should be and did not keep the file from loading."""

    path: str
    header: Header
    tunings: list[Tuning]
    records: list[Record]
    footer: Footer | None = None
    warnings: list[str] = []


# --------------------------------------------------------------------------------------------------------------- write


class RunWriter:
    """Appends lines to a run file; after every call the file is whole and its bytes are with the operating system.

    An existing file is refused. Raises UsageError naming path, reason and mend where the file cannot be written."""

    def __init__(self, path: str | Path, header: Header) -> None:
        self._open(path, os.O_CREAT | (0 if _is_device(path) else os.O_EXCL))
        self._write(header)

    @classmethod
    def _resumed(cls, path: str | Path, keep: bytes, records: int) -> RunWriter:
        """A writer that goes on after the bytes `keep` of an existing file, cutting off what follows them."""
        writer = cls.__new__(cls)
        writer._open(path, 0)
        with _named(path):
            os.ftruncate(writer._fd, len(keep))
            os.lseek(writer._fd, 0, os.SEEK_END)
        writer._hash.update(keep)
        writer._size, writer.records = len(keep), records
        if keep and not keep.endswith(b"\n"):
            writer._write_bytes(b"\n")
        return writer

    def _open(self, path: str | Path, flags: int) -> None:
        self.path = str(path)
        self.records = 0
        self._fd = -1
        self._size = 0
        self._hash = hashlib.sha256()
        with _named(path):
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o644)

    def write(self, line: Tuning | Record) -> None:
        """Write one line whole. Raises UsageError where the disk is full; the file then ends with the line before."""
        self._write(line)
        self.records += isinstance(line, Record)

    def finish(self, *, interrupted: bool = False) -> None:
        """Write the footer (count, SHA-256 of all bytes before it) and close; a second call does nothing."""
        if self._fd < 0:
            return
        finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        footer = Footer(records=self.records, sha256=self._hash.hexdigest(), finished=finished, interrupted=interrupted)
        try:
            self._write(footer)
            with contextlib.suppress(OSError):  # pipes and devices have no disk to wait for
                os.fsync(self._fd)
        finally:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, UsageError):  # the disk would refuse the footer as well
            os.close(self._fd)
            self._fd = -1
        else:
            self.finish(interrupted=kind is not None)

    def _write(self, line: Line) -> None:
        data = _encoder.encode(_with_schema(line) if isinstance(line, Header) else line)
        if b"null" in data and isinstance(line, Record):
            data = _encoder.encode(_readable(line, data))
        self._write_bytes(data + b"\n")

    def _write_bytes(self, data: bytes) -> None:
        with _named(self.path):
            done = 0
            try:
                while done < len(data):
                    done += os.write(self._fd, data[done:])
            except OSError:
                with contextlib.suppress(OSError):  # take half a line back, so that the file stays whole
                    os.ftruncate(self._fd, self._size)
                    os.lseek(self._fd, 0, os.SEEK_END)
                raise
        self._hash.update(data)
        self._size += len(data)


def _with_schema(header: Header) -> dict[str, Any]:
    """The header with its schema number, which `omit_defaults` would leave out, in front."""
    fields: dict[str, Any] = msgspec.to_builtins(header)
    return {"kind": "header", "schema": header.schema} | fields


def _readable(record: Record, data: bytes) -> Record:
    """The record, or, where a number is not finite (JSON has no word for it), a `Crashed` one that says so."""
    try:
        _decoder.decode(data)
    except msgspec.ValidationError as error:
        return msgspec.structs.replace(
            record, outcome=Crashed(how="exception", detail=f"a number of the result is not finite: {error}")
        )
    return record


def _is_device(path: str | Path) -> bool:
    """True for what exists and is neither a file nor a folder: /dev/full, a pipe."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Turns an OSError of the block into a UsageError that names the path, the reason and the mend."""
    try:
        yield
    except OSError as error:
        why = _MEND.get(error.errno or 0, "choose another place with -o")
        raise UsageError(f"{path}: cannot write: {(error.strerror or str(error)).lower()}; {why}") from error


# ---------------------------------------------------------------------------------------------------------------- read


def load_run(path: str | Path) -> Run:
    """Read a run file.

    A torn last line, a checksum that does not match and a missing record become `warnings`. Raises UsageError naming
    file, line and what would be right for a file that cannot be read, is empty, is no run file, has another schema, or
    has a bad line before its last."""
    return _parse(path, _read(path))[0]


def open_for_resume(path: str | Path) -> RunWriter:
    """A writer that appends to an existing run. Footer and torn last line are cut off; no record ever is.

    Raises UsageError as `load_run` and `RunWriter` do."""
    data = _read(path)
    run, keep = _parse(path, data)
    return RunWriter._resumed(path, data[:keep], len(run.records))


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such run file (`pykernels run -o FILE` writes one)") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: a folder, not a run file (give the .jsonl file in it)") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot read: {(error.strerror or str(error)).lower()}") from error


def _parse(path: str | Path, data: bytes) -> tuple[Run, int]:
    """The run and the number of leading bytes that hold its header, tunings and records."""
    if not data.strip():
        raise UsageError(f"{path}: empty; a run file begins with a header line (`pykernels run -o FILE` writes one)")
    _check_header(path, data.split(b"\n", 1)[0])
    warnings: list[str] = []
    lines, keep = _decode(path, data, warnings)
    header = lines[0]
    assert isinstance(header, Header)
    footers = [(number, line) for number, line in enumerate(lines, 1) if isinstance(line, Footer)]
    for number, line in enumerate(lines[1:], 2):
        if isinstance(line, Header):
            raise UsageError(f"{path}: line {number}: a second header; give each run its own file")
    run = Run(
        path=str(path),
        header=header,
        tunings=[line for line in lines if isinstance(line, Tuning)],
        records=[line for line in lines if isinstance(line, Record)],
        footer=footers[-1][1] if footers else None,
        warnings=warnings,
    )
    if run.footer is not None:
        if footers[-1][0] == len(lines):
            keep = _last_line(data[:keep])
            _check_footer(run, data[:keep])
        else:
            warnings.append(f"{path}: line {footers[-1][0]}: a footer stands before the last line; it was not checked")
            run.footer = None
    return run, keep


def _check_header(path: str | Path, first: bytes) -> None:
    """Raise unless the first line is a header of a schema this version reads."""
    try:
        head: Any = msgspec.json.decode(first)
    except (msgspec.DecodeError, UnicodeDecodeError):
        what = "not text" if b"\0" in first or not _is_text(first) else "not JSON"
        raise UsageError(f"{path}: line 1: {what}; a run file is JSON Lines and begins with a header") from None
    if not isinstance(head, dict) or head.get("kind") != "header":
        raise UsageError(f'{path}: line 1: no header; a run file begins with {{"kind":"header","schema":{SCHEMA},...}}')
    schema = head.get("schema")
    if type(schema) is not int or schema < 1:
        raise UsageError(
            f'{path}: line 1: schema {schema!r} is not a schema number (this version reads "schema":{SCHEMA})'
        )
    if schema > SCHEMA:
        newer = f"schema {schema} is newer than {SCHEMA}, the newest this version reads"
        raise UsageError(f"{path}: line 1: {newer}; upgrade pykernels")


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decode(path: str | Path, data: bytes, warnings: list[str]) -> tuple[list[Line], int]:
    """All lines, and the bytes they take up. A bad last line becomes a warning, an earlier one a UsageError."""
    with collector_off():
        try:
            return _decoder.decode_lines(data), len(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _decode_one_by_one(path, data, warnings)


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """No garbage collection in the block: a hundred thousand living records are scanned over and over else."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _decode_one_by_one(path: str | Path, data: bytes, warnings: list[str]) -> tuple[list[Line], int]:
    raw = data.split(b"\n")
    last = max(number for number, text in enumerate(raw) if text.strip())
    lines: list[Line] = []
    keep = 0
    for number, text in enumerate(raw[: last + 1]):
        if text.strip():
            try:
                lines.append(_decoder.decode(text))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if number < last or not lines:
                    right = "every line must be a whole header, tuning, record or footer"
                    raise UsageError(f"{path}: line {number + 1}: {error}; {right}") from None
                warnings.append(f"{path}: line {number + 1}, the last, is torn and was left out (the run was cut off)")
                break
        keep += len(text) + 1
    return lines, min(keep, len(data))


def _last_line(data: bytes) -> int:
    """Offset at which the last line begins."""
    return data.rstrip().rfind(b"\n") + 1


def _check_footer(run: Run, before: bytes) -> None:
    assert run.footer is not None
    if run.footer.records != len(run.records):
        run.warnings.append(
            f"{run.path}: the footer counts {run.footer.records} records, the file holds {len(run.records)}"
        )
    if run.footer.sha256 != hashlib.sha256(before).hexdigest():
        run.warnings.append(f"{run.path}: the checksum does not match: the file was changed after the run")
