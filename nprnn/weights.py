"""Arrays on disk: safetensors files, written and read with NumPy and the standard library alone.

A file is the length of a header (8 bytes, little-endian), the header (a JSON object with the dtype,
the shape and the place of every tensor), and the numbers themselves. Nothing in it is ever run.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import reprlib
import stat
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from . import _validation as check

if TYPE_CHECKING:
    from collections.abc import Iterable
    from io import BufferedReader

    from ._validation import Array

_CODES = {  # the format's name of a dtype -> NumPy's, in the byte order of the file
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "F16": "<f2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
_NAMES = {code: name for name, code in _CODES.items()}
_METADATA = "__metadata__"
_MAX_HEADER = 100_000_000  # bytes, the limit of the reference implementation
_MAX_NDIM = 64  # NumPy's own limit; its older versions allow 32
_MAX_SIZE = 2**63 - 1
# A file may take three times its size in memory while it is read, and this: objects that JSON makes
# are up to thirty times as large as its text. In bytes, for each occurrence:
_SPARE = 50 << 20
_OBJECT_SIZES = {b":": 130, b"[": 60, b"{": 60, b",": 100}
_RANGE = "0 .. 2**63-1"

_CONVERT = 'safetensors.torch.save_file(model.state_dict(), "model.safetensors")'
_PICKLE = f"a pickle, which could run code; where it was made, convert it with {_CONVERT}"
_FOREIGN = {  # how files of other kinds begin -> what they are
    b"PK\x03\x04": "a zip archive: if it is an .npz, convert it with nprnn.weights.save(path, "
    f"dict(numpy.load(npz))); if it comes from PyTorch (.pt, .pth), it is {_PICKLE}",
    **{bytes([0x80, protocol]): _PICKLE for protocol in range(2, 6)},
    b"\x93NUMPY": "an .npy array: load it with NumPy and give it a name in nprnn.weights.save",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file: load its arrays with h5py for nprnn.weights.save",
}
_NOT_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[^][{}"]++', re.DOTALL)
_SURROGATE = re.compile(r"[\ud800-\udfff]")

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # how a system says that it does not sync folders

_brief = reprlib.Repr()  # a hostile name or value must not make a message of megabytes
_brief.maxstring = 120
shown = _brief.repr


class WeightsFileError(ValueError):
    """A file that is not safetensors, or is damaged; says which file, where in it, and why."""


class _Entry(NamedTuple):
    """What the header says of one tensor; begin and end count bytes from the header's end."""

    begin: int
    end: int
    name: str
    dtype: str
    shape: tuple[int, ...]


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays, and strings about them, to a safetensors file.

    The file is replaced as a whole: when this raises, `path` holds what it held before; when the
    machine stops, that or the new file, never a part. (When the disk fails on the very last step,
    which makes the new file outlast a power cut, the error says so and the new file is there.) The
    same arrays give the same bytes, whatever their order and memory layout.

    Parameters
    ----------
    path : str or path-like
        By custom it ends in ``.safetensors``. A symbolic link is followed.
    tensors : mapping of str to ndarray
        Arrays of any shape and memory layout, of bool, integers, or floats of up to 64 bits.
    metadata : mapping of str to str, optional

    Raises
    ------
    TypeError
        If a name or metadata is not a `str`, or an array has a dtype that the format lacks.
    ValueError
        If a tensor is named ``__metadata__``, or names and metadata exceed 100 MB, or would take
        more memory than `load` allows.
    WeightsFileError
        If `path` is a folder, a device or another file that cannot be replaced.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save(f"{folder}/model.safetensors", {"bias": np.arange(3.0)}, {"step": "7"})
    ...     load(f"{folder}/model.safetensors")
    ({'bias': array([0., 1., 2.])}, {'step': '7'})
    """
    path = os.fspath(path)
    arrays = _checked(tensors)
    header = _header(arrays, {} if metadata is None else metadata)
    _refuse_special(path)
    _replace(path, header, arrays)


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """Read the arrays of a safetensors file, and the strings about them.

    The header is checked completely, against the size of the file too, before memory is taken for
    the arrays. Reading takes at most three times the size of the file, and 50 MiB.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    tensors : dict of str to ndarray
        In the order of the file. Each owns its memory, is writable, contiguous and in the byte
        order of the machine.
    metadata : dict of str to str
        Empty if the file has none.

    Raises
    ------
    WeightsFileError
        If the file breaks the format in any way, or is of another kind, such as a pickle.
    OSError
        If there is no such file, or it cannot be read.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save(f"{folder}/model.safetensors", {"weight": np.eye(2), "steps": np.array(7)})
    ...     tensors, metadata = load(f"{folder}/model.safetensors")
    >>> tensors["weight"] @ [3, 4] + tensors["steps"]
    array([10., 11.])
    """
    path = os.fspath(path)
    _refuse_special(path)
    with open(path, "rb") as file:
        try:
            header, size = _read_header(file)
            metadata = header.pop(_METADATA, {})
            if fault := _metadata_fault(metadata):
                raise WeightsFileError(f"{_METADATA}: {fault}")
            entries = sorted(_entry(name, fields) for name, fields in header.items())
            _check_cover(entries, size)
            return {entry.name: _read_array(file, entry) for entry in entries}, metadata
        except WeightsFileError as error:
            raise WeightsFileError(f"{path}: {error}") from None
        except OSError as error:  # of reading: it names no file
            raise OSError(error.errno, error.strerror, path) from None


def _refuse_special(path: str) -> None:
    """Refuse a FIFO, which would block when opened, and a device, which would be replaced."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise WeightsFileError(f"{path}: not a regular file")


def _is_text(value: object) -> bool:
    """Whether `value` is a str that UTF-8 can hold: a lone surrogate is not."""
    return isinstance(value, str) and not _SURROGATE.search(value)


def _metadata_fault(metadata: object) -> str:
    """Return what is wrong with the metadata, "" if nothing is."""
    expected = "must map str to str, both valid Unicode"
    if not isinstance(metadata, Mapping):
        return f"{expected}; got {shown(metadata)}"
    for key, value in metadata.items():
        if not (_is_text(key) and _is_text(value)):
            return f"{expected}; got {shown(key)}: {shown(value)}"
    return ""


# Writing


def _checked(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays with the widest first, so that each begins at a multiple of its width."""
    if not isinstance(tensors, Mapping):
        raise TypeError(f"tensors must be a dict of arrays, got {type(tensors).__name__}")
    arrays = {}
    for name, value in tensors.items():
        if not _is_text(name):
            raise TypeError(f"tensors must have names that are valid Unicode, got {name!r}")
        if name == _METADATA:
            raise ValueError(f"tensors has the name {name!r}, which the format keeps for itself")
        arrays[name] = check.array(f"tensors[{name!r}]", value)
        if _code(arrays[name]) not in _NAMES:
            raise TypeError(
                f"tensors[{name!r}] has dtype {arrays[name].dtype}, which a safetensors file "
                "cannot hold: use bool, integers, or floats of 16, 32 or 64 bits"
            )
    return dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))


def _code(array: Array) -> str:
    return array.dtype.newbyteorder("<").str


def _header(arrays: dict[str, Array], metadata: Mapping[str, str]) -> bytes:
    """Return the header with its length in front, padded so that the numbers are aligned."""
    if fault := _metadata_fault(metadata):
        raise TypeError(f"metadata {fault}")
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        dtype = _NAMES[_code(array)]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise ValueError(
            f"tensors and metadata must have a header of at most {_MAX_HEADER} bytes; it takes "
            f"{len(text)}: shorten names and metadata"
        )
    if fault := _memory_fault(text, 8 + len(text) + end):
        raise ValueError(f"tensors and metadata {fault}: shorten names and metadata")
    return len(text).to_bytes(8, "little") + text


def _replace(path: str, header: bytes, arrays: dict[str, Array]) -> None:
    """Write a complete file beside the old one, then put it in its place in one step."""
    target = os.path.realpath(path)  # a link stays a link
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".weights-{os.urandom(8).hex()}.tmp")
    try:
        _write(temporary, header, arrays)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):  # about a file that nobody knows, or about none
            raise OSError(error.errno, error.strerror, path) from None
        raise
    try:
        _sync_folder(folder)
    except OSError as error:
        reason = f"{error.strerror}: the file is written, but may not outlast a power cut"
        raise OSError(error.errno, reason, path) from None


def _write(path: str, header: bytes, arrays: dict[str, Array]) -> None:
    """Write a new file, and wait until it is on the disk."""
    with open(path, "xb") as file:
        file.write(header)
        for array in arrays.values():  # one at a time: few need a copy, and none keeps it
            file.write(np.asarray(array, _code(array), order="C").data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: str) -> None:
    """Wait until the names in a folder are on the disk, where a system can: Windows cannot."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not isinstance(error, PermissionError) and error.errno not in _NO_SYNC:
            raise


# Reading


def _read_header(file: BufferedReader) -> tuple[dict[str, Any], int]:
    """Return the header as parsed, and how many bytes come after it."""
    size = os.fstat(file.fileno()).st_size
    length = _header_length(file.read(9), size)
    file.seek(8)
    try:
        header = strict_json(_header_text(file, length, size))
    except WeightsFileError:
        raise
    except ValueError as error:
        raise WeightsFileError(f"header: not strict JSON in UTF-8: {error}") from None
    return header, size - 8 - length


def _header_text(file: BufferedReader, length: int, size: int) -> str:
    """Return the header's text, without its bytes beside it in memory while it is parsed."""
    content = file.read(length)
    if fault := _memory_fault(content, size):
        raise WeightsFileError(f"header: {fault}")
    return content.decode()


def _memory_fault(content: bytes, size: int) -> str:
    """Return what is wrong with JSON that takes too much memory for a file of `size` bytes.

    The text and what is made of it are there together; with one character beyond the first 65,536
    a string takes four bytes for each. JSON within its strings counts too.
    """
    plain = content.isascii() and b"\\u" not in content
    needed = (4 if plain else 8) * len(content)
    needed += sum(content.count(sign) * each for sign, each in _OBJECT_SIZES.items())
    if needed <= 3 * size + _SPARE:
        return ""
    return f"would take some {needed >> 20} MiB of memory as JSON of {len(content)} bytes"


def _header_length(head: bytes, size: int) -> int:
    """Return the header's length, from the first nine bytes of the file."""
    length = int.from_bytes(head[:8], "little")
    limit = min(_MAX_HEADER, size - 8)
    # First, because a sound file may begin like a pickle: 80 02 is also a length of 0x0280.
    if length <= limit and head[8:] == b"{":
        return length
    for magic, kind in _FOREIGN.items():
        if head.startswith(magic):
            raise WeightsFileError(f"first bytes: not safetensors but {kind}")
    if size < 8:
        raise WeightsFileError(f"header length: takes 8 bytes, the file has {size}")
    if length > limit:
        raise WeightsFileError(f"header length: {length} bytes, at most {limit} are possible")
    raise WeightsFileError("header: does not begin with '{'")


def strict_json(text: str) -> Any:
    """Return the value of JSON of at most three levels, without duplicate keys and without NaN."""
    _check_depth(text)
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _check_depth(text: str) -> None:
    """Refuse brackets nested deep, through which the JSON parser would recurse."""
    brackets = _NOT_BRACKETS.sub("", text)
    for _ in range(3):  # each round removes at least the innermost level; a header has three
        brackets = brackets.replace("[]", "").replace("{}", "")
    if brackets:
        raise ValueError("brackets are nested too deep, or not paired")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {shown(key)} comes twice")
        result[key] = value
    return result


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _entry(name: str, fields: Any) -> _Entry:
    """Return what the header says of one tensor, checked within itself."""
    if not _is_text(name):
        raise _fault(name, "the name is not valid Unicode")
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        got = sorted(fields) if isinstance(fields, dict) else fields
        raise _fault(name, f"must have the keys dtype, shape, data_offsets; got {shown(got)}")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _CODES:
        hint = "convert others, such as BF16, to float32 before saving"
        raise _fault(name, f"dtype {shown(dtype)} is none of {', '.join(_CODES)}: {hint}")
    if not _are_sizes(shape, _MAX_NDIM):
        raise _fault(
            name, f"shape must be up to {_MAX_NDIM} integers in {_RANGE}, got {shown(shape)}"
        )
    if not _are_sizes(offsets, 2) or len(offsets) != 2:
        raise _fault(name, f"data_offsets must be two integers in {_RANGE}, got {shown(offsets)}")
    begin, end = offsets
    needed = math.prod(shape) * np.dtype(_CODES[dtype]).itemsize
    if end - begin != needed:
        taken = f"shape {shown(shape)} of {dtype} takes {shown(needed)} bytes"
        raise _fault(name, f"{taken}, data_offsets {offsets} hold {end - begin}")
    return _Entry(begin, end, name, dtype, tuple(shape))


def _are_sizes(value: Any, max_length: int) -> bool:
    """Whether `value` is a short list of integers that can be sizes; a bool is no integer here."""
    return (
        isinstance(value, list)
        and len(value) <= max_length
        and all(type(item) is int and 0 <= item <= _MAX_SIZE for item in value)
    )


def _fault(name: str, reason: str) -> WeightsFileError:
    return WeightsFileError(f"tensor {shown(name)}: {reason}")


def _check_cover(entries: Iterable[_Entry], size: int) -> None:
    """Refuse bytes that belong to no tensor, or to two; the entries come sorted."""
    covered = 0
    for entry in entries:
        if entry.begin != covered:
            fault = "leaves a hole" if entry.begin > covered else "overlaps the one before"
            raise _fault(entry.name, f"begins at byte {entry.begin}, not {covered}: it {fault}")
        covered = entry.end
    if covered != size:
        fault = "it was cut short" if covered > size else "the trailing ones belong to no tensor"
        raise WeightsFileError(f"data: {size} bytes, the tensors take {covered}: {fault}")


def _read_array(file: BufferedReader, entry: _Entry) -> Array:
    try:
        array: Array = np.empty(entry.shape, _CODES[entry.dtype])
    except ValueError as error:  # an array without numbers may still have sides beyond NumPy's
        raise _fault(entry.name, str(error)) from None
    content = array.reshape(-1).view(np.uint8).data  # the same memory as bytes
    if file.readinto(content) != len(content):
        raise _fault(entry.name, "the file became shorter while it was read")
    if entry.dtype == "BOOL":  # NumPy's True is the byte 1, other writers may use any but 0
        np.not_equal(array.view(np.uint8), 0, out=array)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
