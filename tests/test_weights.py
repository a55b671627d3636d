"""Weights files: bits through a round trip, the reference implementation, and hostile files."""

import errno
import json
import os
import pickle
import stat
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from nprnn import weights
from nprnn.testing import seeds
from nprnn.weights import WeightsFileError, load, save

DTYPES = ["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"]
LAYOUTS = ["C", "F", "strided", "reversed", "transposed", "big-endian", "read-only", "broadcast"]
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
tensor_names = names.filter(lambda name: name != "__metadata__")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("weights") / "model.safetensors"


@pytest.fixture(scope="module")
def referee():
    """The reference implementation, for NumPy."""
    return pytest.importorskip("safetensors.numpy")


def random_bits(rng, shape, dtype):
    """Every pattern of bits, NaNs with payloads among them; bools are the bytes 0 and 1."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    content = rng.integers(2 if dtype.kind == "b" else 256, size=size, dtype=np.uint8)
    return content.view(dtype).reshape(shape)


def in_layout(array, layout):
    """Return the same numbers (for "broadcast", fewer of them) in another layout in memory."""
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "strided":
        wide = np.zeros([2 * side for side in array.shape], array.dtype)
        view = wide[(slice(None, None, 2),) * array.ndim + (...,)]
        view[...] = array
        return view
    if layout == "reversed":
        return np.flip(np.array(np.flip(array), order="C"))
    if layout == "transposed":
        return array.T
    if layout == "big-endian":
        return array.astype(array.dtype.newbyteorder(">"))
    if layout == "broadcast":
        return np.broadcast_to(array, (3, *array.shape))
    if layout == "read-only":
        array.flags.writeable = False
    return array


@st.composite
def tensor_dicts(draw, names=tensor_names):
    rng = np.random.default_rng(draw(seeds))
    shapes = array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    recipe = st.tuples(shapes, st.sampled_from(DTYPES), st.sampled_from(LAYOUTS))
    recipes = draw(st.dictionaries(names, recipe, max_size=5))
    return {
        name: in_layout(random_bits(rng, shape, dtype), layout)
        for name, (shape, dtype, layout) in recipes.items()
    }


def plain(array):
    """Return the array contiguous and in the machine's byte order, with the same bits."""
    return np.array(array, array.dtype.newbyteorder("="), order="C")


def assert_same_bits(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype.newbyteorder("=")
        assert actual[name].shape == array.shape
        assert actual[name].tobytes() == plain(array).tobytes()


def file_of(header, data=b""):
    """Return the bytes of a file with this header: an object, a str or bytes."""
    if not isinstance(header, str | bytes):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode()
    return struct.pack("<Q", len(header)) + header + data


def tensor(shape=(2,), offsets=(0, 8), dtype="F32", **others):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **others}


SMALL = file_of(
    {"__metadata__": {"step": "7"}, "a": tensor(), "b": tensor([], [8, 9], "BOOL")}, b"\x01" * 9
)

# Round trips


@settings(max_examples=200, deadline=None)
@given(tensor_dicts(), st.dictionaries(names, names, max_size=3))
def test_what_is_saved_is_loaded_bit_for_bit(path, tensors, metadata):
    save(path, tensors, metadata)
    loaded, strings = load(path)
    assert_same_bits(loaded, tensors)
    assert strings == metadata
    for array in loaded.values():
        assert array.flags.writeable
        assert array.flags.owndata
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert array.dtype.isnative


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_in_every_layout(path, dtype, layout):
    rng = np.random.default_rng(3)
    shapes = {"matrix": (3, 5), "vector": (7,), "number": (), "empty": (2, 0, 3)}
    tensors = {
        name: in_layout(random_bits(rng, shape, dtype), layout) for name, shape in shapes.items()
    }
    save(path, tensors)
    assert_same_bits(load(path)[0], tensors)


@settings(max_examples=100, deadline=None)
@given(tensor_dicts(), st.randoms(use_true_random=False))
def test_the_bytes_do_not_depend_on_order_or_layout(path, tensors, random):
    save(path, tensors, {"a": "1", "b": "2"})
    before = path.read_bytes()
    shuffled = list(tensors)
    random.shuffle(shuffled)
    save(path, {name: plain(tensors[name]) for name in shuffled}, {"b": "2", "a": "1"})
    assert path.read_bytes() == before


@settings(max_examples=100, deadline=None)
@given(tensor_dicts())
def test_every_array_begins_at_a_multiple_of_its_width(path, tensors):
    save(path, tensors)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    for fields in json.loads(content[8 : 8 + length]).values():
        width = np.dtype(weights._CODES[fields["dtype"]]).itemsize
        assert fields["data_offsets"][0] % width == 0


def test_arrays_are_independent_of_each_other(path):
    save(path, {"a": np.zeros(2), "b": np.zeros(2)})
    tensors, _ = load(path)
    tensors["a"][...] = 1
    assert not tensors["b"].any()


def test_a_bool_of_another_writer_is_any_byte_but_zero(path):
    path.write_bytes(file_of({"a": tensor([4], [0, 4], "BOOL")}, b"\x00\x01\x02\xff"))
    assert load(path)[0]["a"].tobytes() == b"\x00\x01\x01\x01"


def test_a_header_as_long_as_a_pickle_begins(path):
    """The length 0x0280 gives a sound file the first bytes of a pickle."""
    header = json.dumps({"a": tensor()}).ljust(0x0280)
    path.write_bytes(file_of(header, bytes(8)))
    assert path.read_bytes().startswith(b"\x80\x02")
    assert load(path)[0]["a"].tolist() == [0, 0]


def test_brackets_in_strings_are_not_nesting(path):
    metadata = {'[[[[[[[[[["{{{{{{{{{{': '\\"[[[[[[[[[[[[[{{{{{{{{{{{\\'}
    save(path, {'[[[[[[[[[[[[["': np.zeros(1)}, metadata)
    assert load(path)[1] == metadata


# The reference implementation


@settings(max_examples=150, deadline=None)
@given(tensor_dicts(), st.dictionaries(names, names, min_size=1, max_size=3))
def test_the_reference_reads_what_is_saved(referee, path, tensors, metadata):
    from safetensors import safe_open

    save(path, tensors, metadata)
    assert_same_bits(referee.load_file(path), tensors)
    with safe_open(path, framework="np") as file:
        assert file.metadata() == metadata


@settings(max_examples=150, deadline=None)
@given(tensor_dicts(), st.dictionaries(names, names, max_size=3))
def test_what_the_reference_saves_is_read(referee, path, tensors, metadata):
    # For an empty dict beside no tensors it writes a header that is no JSON: pass None instead.
    plain_tensors = {name: plain(array) for name, array in tensors.items()}
    referee.save_file(plain_tensors, path, metadata or None)
    loaded, strings = load(path)
    assert_same_bits(loaded, tensors)
    assert strings == metadata


# Hostile files

A = json.dumps(tensor())
NO_DATA = {"shape": [0], "data_offsets": [0, 0]}
HOSTILE = {  # name -> (bytes of the file, words of the message)
    "hole at the start": (file_of({"a": tensor([1], [4, 8])}, bytes(8)), "'a'.*hole"),
    "hole": (
        file_of({"a": tensor([1], [0, 4]), "b": tensor([1], [8, 12])}, bytes(12)),
        "'b': begins at byte 8, not 4: it leaves a hole",
    ),
    "overlap": (
        file_of({"a": tensor(), "b": tensor([2], [4, 12])}, bytes(12)),
        "'b': begins at byte 4, not 8: it overlaps",
    ),
    "same place twice": (file_of({"a": tensor(), "b": tensor()}, bytes(8)), "'b'.*overlaps"),
    "empty inside another": (
        file_of({"a": tensor(), "e": tensor([0], [4, 4])}, bytes(8)),
        "'e'.*overlaps",
    ),
    "empty past the end": (
        file_of({"a": tensor(), "e": tensor([0], [12, 12])}, bytes(8)),
        "'e'.*hole",
    ),
    "trailing bytes": (
        file_of({"a": tensor()}, bytes(9)),
        "data: 9 bytes, the tensors take 8: .*trailing",
    ),
    "data without tensors": (file_of({}, bytes(4)), "4 bytes, the tensors take 0"),
    "short data": (
        file_of({"a": tensor()}, bytes(7)),
        "data: 7 bytes, the tensors take 8: it was cut short",
    ),
    "tensor twice": (file_of(f'{{"a":{A},"a":{A}}}', bytes(8)), "key 'a' comes twice"),
    "field twice": (
        file_of(f'{{"a":{A[:-1]},"dtype":"F32"}}}}', bytes(8)),
        "key 'dtype' comes twice",
    ),
    "metadata twice": (
        file_of('{"__metadata__":{},"__metadata__":{}}'),
        "key '__metadata__' comes twice",
    ),
    "metadata key twice": (
        file_of('{"__metadata__":{"k":"1","k":"2"}}'),
        "key 'k' comes twice",
    ),
    "shape against offsets": (
        file_of({"a": tensor([3])}, bytes(8)),
        r"'a': shape \[3\] of F32 takes 12 bytes, data_offsets \[0, 8\] hold 8",
    ),
    "end before begin": (file_of({"a": tensor([2], [8, 0])}, bytes(8)), "hold -8"),
    "huge header": (struct.pack("<Q", 2**63) + b"{}", "header length: 9223372036854775808"),
    "header past the end": (struct.pack("<Q", 3) + b"{}", "3 bytes, at most 2 are possible"),
    "header over the limit": (
        struct.pack("<Q", 100_000_001) + b"{}",
        "header length: 100000001 bytes",
    ),
    "no header": (file_of(""), "does not begin with '{'"),
    "no file content": (b"", "header length: takes 8 bytes, the file has 0"),
    "seven bytes": (bytes(7), "header length: takes 8 bytes, the file has 7"),
    "zeros": (bytes(64), "does not begin with '{'"),
    "unknown dtype": (file_of({"a": tensor(dtype="F12")}, bytes(8)), "'a': dtype 'F12' is none of"),
    "bfloat16": (file_of({"a": tensor(dtype="BF16")}, bytes(4)), "BF16, to float32 before saving"),
    "dtype in lower case": (file_of({"a": tensor(dtype="f32")}, bytes(8)), "dtype 'f32'"),
    "dtype is a list": (file_of({"a": tensor(dtype=["F32"])}, bytes(8)), "dtype \\['F32'\\]"),
    "dtype of another format": (file_of({"a": tensor(dtype="<f4")}, bytes(8)), "dtype '<f4'"),
    "long name": (file_of({"a" * 10**6: None}), "tensor 'aaa.*[.][.][.].*got None"),
    "long dtype": (file_of({"a": tensor(dtype="F" * 10**6)}, bytes(8)), "dtype 'FFF.*[.][.][.]"),
    "long shape": (file_of({"a": tensor([1] * 10**5, [0, 4])}, bytes(4)), "up to 64 integers"),
    "negative side": (file_of({"a": tensor([-2])}, bytes(8)), r"'a': shape must be.*got \[-2\]"),
    "two negative sides": (file_of({"a": tensor([-1, -2])}, bytes(8)), r"got \[-1, -2\]"),
    "bool as side": (file_of({"a": tensor([True, 2])}, bytes(8)), r"got \[True, 2\]"),
    "float as side": (file_of({"a": tensor([2.0])}, bytes(8)), r"got \[2.0\]"),
    "shape is a number": (
        file_of({"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, bytes(8)),
        "shape must be.*got 2",
    ),
    "float as offset": (
        file_of({"a": tensor([2], [0, 8.0])}, bytes(8)),
        r"'a': data_offsets must be two integers.*got \[0, 8.0\]",
    ),
    "bool as offset": (
        file_of({"a": tensor([1], [False, True], "U8")}, bytes(1)),
        r"got \[False, True\]",
    ),
    "negative offset": (file_of({"a": tensor([2], [-8, 0])}, bytes(8)), r"got \[-8, 0\]"),
    "one offset": (file_of({"a": tensor([2], [8])}, bytes(8)), r"two integers.*got \[8\]"),
    "three offsets": (file_of({"a": tensor([2], [0, 8, 8])}, bytes(8)), r"got \[0, 8, 8\]"),
    "product overflows to 0": (
        file_of({"a": tensor([2**32, 2**32], [0, 0])}),
        r"shape \[4294967296, 4294967296\] of F32 takes 73786976294838206464 bytes",
    ),
    "side over 64 bits": (file_of({"a": tensor([2**64, 0], [0, 0])}), "18446744073709551616, 0"),
    "side of 5000 digits": (file_of('{"a":' + "9" * 5000 + "}"), "4300 digits"),
    "empty beyond NumPy": (file_of({"a": tensor([0, 2**62, 4], [0, 0])}), "'a': .*too big"),
    "too many sides": (file_of({"a": tensor([1] * 65, [0, 4])}, bytes(4)), "up to 64 integers"),
    "bomb of lists": (file_of('{"a":' + "[" * 100_000), "nested too deep"),
    "bomb of closed lists": (
        file_of('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
        "nested too deep",
    ),
    "bomb of objects": (file_of('{"a":' * 100_000 + "0" + "}" * 100_000), "nested too deep"),
    "bomb beside strings": (
        file_of('{"]\\"]":"}","a":' + '{"]":[],"b":' * 500 + "0" + "}" * 501),
        "nested too deep",
    ),
    "NaN": (file_of('{"a":NaN}'), "header: not strict JSON.*NaN"),
    "infinity": (file_of('{"a":-Infinity}'), "header: not strict JSON.*-Infinity"),
    "number out of range": (file_of('{"a":1e999}'), "'a': must have the keys.*got inf"),
    "missing key": (
        file_of({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
        r"'a': must have the keys dtype, shape, data_offsets; got \['dtype', 'shape'\]",
    ),
    "extra key": (file_of({"a": tensor(stride=[1])}, bytes(8)), "'a': must have.*'stride'"),
    "tensor is a list": (file_of({"a": ["F32", [2], [0, 8]]}, bytes(8)), "'a': must have the keys"),
    "tensor is null": (file_of({"a": None}), "'a': must have the keys.*got None"),
    "header not UTF-8": (file_of(b'{"\xff":1}'), "header: not strict JSON in UTF-8: .*0xff"),
    "header in UTF-16": (file_of("{}".encode("utf-16-le")), "header: not strict JSON"),
    "byte order mark": (file_of("\ufeff{}"), "does not begin with '{'"),
    "space in front": (file_of(" {}"), "does not begin with '{'"),
    "header is a list": (file_of("[]"), "does not begin with '{'"),
    "two objects": (file_of("{}{}"), "header: not strict JSON.*Extra data"),
    "zero padding": (file_of("{}\0\0"), "header: not strict JSON.*Extra data"),
    "trailing comma": (file_of(f'{{"a":{A},}}', bytes(8)), "header: not strict JSON"),
    "control character": (file_of('{"a\n":"b"}'), "header: not strict JSON.*control"),
    "lone surrogate in a name": (file_of(f'{{"\\ud800":{A}}}', bytes(8)), "not valid Unicode"),
    "lone surrogate in metadata": (
        file_of('{"__metadata__":{"a":"\\udc00"}}'),
        "__metadata__: must map str to str",
    ),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "__metadata__: .*got 'a': 1"),
    "metadata is a string": (file_of({"__metadata__": "a"}), "__metadata__: .*got 'a'"),
    "metadata is null": (file_of({"__metadata__": None}), "__metadata__: .*got None"),
    "metadata is a tensor": (file_of({"__metadata__": tensor()}, bytes(8)), "__metadata__: must"),
}
LENIENT = {  # what the reference reads all the same, and why this package does not
    "tensor twice": "which of the two is meant is a guess",
    "metadata key twice": "which of the two is meant is a guess",
    "metadata is null": "the format says an object of strings",
    "extra key": "what it asks for would be ignored",
    "tensor is a list": "the format says an object; names in place of positions are its point",
    "space in front": "the format says that the header begins with a brace",
}


def refusal(path):
    """Return the message of the error, after checking that it is one sentence on this file."""
    with pytest.raises(WeightsFileError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 600
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(path, name):
    content, words = HOSTILE[name]
    path.write_bytes(content)
    refusal(path)
    with pytest.raises(WeightsFileError, match=words):
        load(path)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_reference_agrees_on_hostile_files(referee, path, name):
    path.write_bytes(HOSTILE[name][0])
    if name in LENIENT:
        referee.load_file(path)
    else:
        # Of shapes that are only beyond NumPy, and of bfloat16, NumPy is what complains there.
        with pytest.raises((ValueError, TypeError, OSError, referee_error())):
            referee.load_file(path)


def referee_error():
    return pytest.importorskip("safetensors").SafetensorError


fields = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "BOOL", "F16", "F32", "F13"]),
        "shape": st.lists(st.sampled_from([0, 1, 2, 3, -1, True, 1.0, 2**62]), max_size=3),
        "data_offsets": st.lists(st.integers(0, 8), min_size=2, max_size=2).map(sorted),
    }
)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), fields, max_size=3), st.integers(0, 8))
def test_what_is_read_is_what_the_reference_reads(referee, path, header, size):
    path.write_bytes(file_of(header, bytes([1] * size)))
    try:
        expected = referee.load_file(path)
    except Exception:
        refusal(path)
    else:
        assert_same_bits(load(path)[0], expected)


@pytest.mark.parametrize("size", range(len(SMALL)))
def test_every_truncation_is_refused(path, size):
    path.write_bytes(SMALL[:size])
    refusal(path)


def flipped_bits():
    for place in range(len(SMALL)):
        for bit in range(8):
            content = bytearray(SMALL)
            content[place] ^= 1 << bit
            yield content


def test_every_flipped_bit_is_refused_or_read(path):
    num_read = 0
    for content in flipped_bits():
        path.write_bytes(content)
        try:
            load(path)
        except WeightsFileError:
            continue
        num_read += 1
    assert num_read >= 8 * 9  # at least those in the numbers


def test_a_flipped_bit_is_not_read_where_the_reference_refuses(referee, path):
    for content in flipped_bits():
        path.write_bytes(content)
        try:
            tensors, _ = load(path)
        except WeightsFileError:
            continue
        expected = referee.load_file(path)
        assert tensors.keys() == expected.keys()
        for name, array in tensors.items():
            np.testing.assert_array_equal(array, expected[name])


# Files of other kinds

CONVERSION = 'safetensors.torch.save_file(model.state_dict(), "model.safetensors")'


class Bomb:
    """Would make a folder if it were unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_named_not_run(tmp_path, protocol):
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), protocol))
    message = refusal(path)
    assert "pickle, which could run code" in message
    assert CONVERSION in message
    assert not (tmp_path / "ran").exists()


def test_the_shortest_pickle_is_named(path):
    path.write_bytes(pickle.dumps(None))
    assert "pickle" in refusal(path)


def test_a_zip_archive_is_named(tmp_path):
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"weight": 1}))
    assert "pickle, which could run code" in refusal(path)
    assert CONVERSION in refusal(path)


def test_the_advice_for_npz_and_npy_works(tmp_path):
    old, new = tmp_path / "old.npz", tmp_path / "new.safetensors"
    arrays = {"weight": np.arange(6.0).reshape(2, 3)}
    np.savez(old, **arrays)
    assert "nprnn.weights.save(path, dict(numpy.load(npz)))" in refusal(old)
    with np.load(old) as archive:
        save(new, dict(archive))
    assert_same_bits(load(new)[0], arrays)
    np.save(tmp_path / "old.npy", arrays["weight"])
    assert ".npy" in refusal(tmp_path / "old.npy")


def test_hdf5_is_named(path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "HDF5" in refusal(path)


def test_a_folder_is_refused(tmp_path):
    assert "not a regular file" in refusal(tmp_path)
    with pytest.raises(WeightsFileError, match="not a regular file"):
        save(tmp_path, {})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFOs")
def test_a_fifo_is_refused_without_waiting(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    assert "not a regular file" in refusal(path)
    with pytest.raises(WeightsFileError, match="not a regular file"):
        save(path, {})
    assert os.listdir(tmp_path) == ["fifo"]


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "absent" / "model.safetensors", {})


def test_a_file_that_shrinks_while_it_is_read(path, monkeypatch):
    class Status:
        st_size = len(SMALL)

    path.write_bytes(SMALL[:-1])
    monkeypatch.setattr(os, "fstat", lambda descriptor: Status)
    with pytest.raises(WeightsFileError, match="'b': the file became shorter"):
        load(path)


# Memory


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 64 << 20) + b"{}",
        file_of({"a": tensor([1 << 24], [0, 1 << 26])}),
        file_of({"a": tensor([2**62, 0, 2], [0, 0])}),
    ],
    ids=["header", "array", "empty array"],
)
def test_claims_take_no_memory(path, content):
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsFileError):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_header_over_the_limit_is_not_read_even_if_it_is_there(tmp_path):
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 100_000_001) + b"{")
        file.truncate(8 + 100_000_001)  # a hole on the disk
    tracemalloc.start()
    try:
        assert "at most 100000000 are possible" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_arrays_are_in_memory_once(path):
    size = 1 << 23
    array = np.ones((2, size // 16), "f8").T  # Fortran order: one copy on writing
    tracemalloc.start()
    try:
        save(path, {"a": array, "b": array, "c": array})
        assert tracemalloc.get_traced_memory()[1] < 1.1 * size
        tracemalloc.reset_peak()
        load(path)
        assert tracemalloc.get_traced_memory()[1] < 3.1 * size
    finally:
        tracemalloc.stop()


# Writing


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("existing", [True, False])
def test_a_failing_save_changes_nothing(tmp_path, monkeypatch, call, existing, error):
    path = tmp_path / "model.safetensors"
    if existing:
        path.write_bytes(b"old")

    def fail(*arguments):
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(error):
        save(path, {"a": np.ones(3)})
    assert os.listdir(tmp_path) == ([path.name] if existing else [])
    assert not existing or path.read_bytes() == b"old"


def test_the_file_is_synced_whole_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    path, calls = tmp_path / "model.safetensors", []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        calls.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    def recorded_replace(source, target):
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    save(path, {"a": np.ones(3)})
    assert calls == [path.stat().st_size, "replace", tmp_path.stat().st_size]


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    monkeypatch.setattr(os, "open", lambda *arguments: (_ for _ in ()).throw(PermissionError))
    save(path, {"a": np.ones(3)})
    assert load(path)[0]["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL])
def test_a_disk_that_fails_at_the_folder_is_told(tmp_path, monkeypatch, number):
    path, fsync = tmp_path / "model.safetensors", os.fsync

    def fail_at_folder(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_at_folder)
    if number == errno.EINVAL:  # folders cannot be synced here at all
        save(path, {"a": np.ones(3)})
    else:
        with pytest.raises(OSError, match="written, but may not outlast a power cut") as caught:
            save(path, {"a": np.ones(3)})
        assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert os.listdir(tmp_path) == [path.name]
    assert load(path)[0]["a"].tolist() == [1, 1, 1]


def test_errors_of_the_system_name_the_file(path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    save(path, {"a": np.ones(3)})
    for name, task in (
        ("_read_header", lambda: load(path)),
        ("_write", lambda: save(path, {"a": np.ones(3)})),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(weights, name, fail)
            with pytest.raises(OSError, match="Input") as caught:
                task()
        assert caught.value.filename == str(path)


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "epoch-3.safetensors", tmp_path / "latest.safetensors"
    target.write_bytes(b"old")
    link.symlink_to(target)
    save(link, {"a": np.ones(3)})
    assert link.is_symlink()
    assert load(target)[0].keys() == {"a"}


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    save(tmp_path / "model.safetensors", {})
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "words"),
    [
        ([np.ones(2)], None, TypeError, "tensors must be a dict of arrays, got list"),
        ({"w": np.ones(2, complex)}, None, TypeError, r"tensors\['w'\] has dtype complex128"),
        ({"w": np.ones(2, object)}, None, TypeError, r"tensors\['w'\] .*dtype object"),
        ({"w": np.array(["a"])}, None, TypeError, r"tensors\['w'\] .*dtype <U1"),
        ({"w": np.zeros(2, "m8[s]")}, None, TypeError, r"tensors\['w'\] .*timedelta"),
        ({"w": np.zeros(2, "f4,f4")}, None, TypeError, r"tensors\['w'\] .*dtype"),
        ({"w": [[1], [1, 2]]}, None, TypeError, r"tensors\['w'\] must be an array"),
        ({1: np.ones(2)}, None, TypeError, "names.*got 1"),
        ({"\ud800": np.ones(2)}, None, TypeError, "names that are valid Unicode"),
        ({"__metadata__": np.ones(2)}, None, ValueError, "the name '__metadata__'"),
        ({}, {"step": 7}, TypeError, "metadata must map str to str.*got 'step': 7"),
        ({}, {7: "step"}, TypeError, "metadata must map str to str.*got 7: 'step'"),
        ({}, {"a": "\ud800"}, TypeError, "metadata must map str to str"),
        ({}, ["a"], TypeError, "metadata must map str to str"),
        ({}, {"a": "x" * 2000}, ValueError, "header of at most 1000 bytes"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(path, monkeypatch, tensors, metadata, error, words):
    monkeypatch.setattr(weights, "_MAX_HEADER", 1000)
    path.write_bytes(b"old")
    with pytest.raises(error, match=words):
        save(path, tensors, metadata)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="longdouble is float64 here")
def test_long_doubles_are_refused(path):
    with pytest.raises(TypeError, match="tensors\\['w'\\] has dtype"):
        save(path, {"w": np.ones(2, np.longdouble)})
