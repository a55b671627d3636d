"""Damaged and hostile files: each is refused with one kind of error, or gives the intact data.

By default a sample. All single-bit flips, all truncations and 100,000 fuzzed files take minutes:

    python -m pytest -m slow -s tests/test_fuzz.py
"""

import json
import os
import random
import time
import tracemalloc
from contextlib import contextmanager, suppress

import numpy as np
import pytest

import nprnn
from nprnn import checkpoint, optim, weights
from nprnn.checkpoint import Checkpoint, Point
from nprnn.training import Position

try:
    import resource
except ImportError:  # of POSIX
    resource = None

SEED = 20240607
LONGEST = 1.0  # seconds of work; of waiting too, where the machine has nothing else to do
SPARE = 50 << 20  # bytes of memory, beside three times the file's
many = pytest.mark.parametrize("count", [1000, pytest.param(100_000, marks=pytest.mark.slow)])
stride = pytest.mark.parametrize("stride", [23, pytest.param(1, marks=pytest.mark.slow)])


def smallest():
    """Return a checkpoint with as few numbers as possible."""
    model = nprnn.LanguageModel(2, 1, rng=0)
    text = {"name": "", "characters": 2, "sha256": ""}
    return Checkpoint(model, nprnn.Vocabulary("ab"), optim.SGD(model.params, 0.1), Position(), text)


def ordinary():
    """Return a checkpoint in the middle of an epoch, with all that one can hold."""
    vocabulary = nprnn.Vocabulary("aé人😀\n" * 30, unknown="<unk>")
    model = nprnn.LanguageModel(
        len(vocabulary), 3, cell="lstm", num_layers=2, dropout=0.1, embedding_size=2, rng=0
    )
    one = Checkpoint(
        model,
        vocabulary,
        optim.Adam(model.params, amsgrad=True),
        Position(rng=np.random.default_rng(3).bit_generator.state),
        {"name": "sea.txt", "characters": 150, "sha256": "0" * 64},
        {"batch_size": 3, "order": "sequential", "lr": 0.01, "steps": None, "nested": False},
        [Point(1, 5, 2.5, 0.75), Point(1, 6, float("inf"), 0.5, 2.25)],
        (0.1, 0.2, 1),
        2.25,
    )
    tokens = vocabulary.encode("aé人😀\n" * 30)
    steps = nprnn.train(model, tokens, batch_size=2, num_steps=5, epochs=9, max_steps=3, per="step",
                        optimizer=one.optimizer, position=one.position)  # fmt: skip
    assert len(list(steps)) == 3
    return one


def written(folder, one):
    checkpoint.save(folder / "intact", one)
    return (folder / "intact").read_bytes()


def judged(path, content, load=checkpoint.load):
    """Return what is read of a file, None if it is refused: in time, in memory, in one sentence."""
    path.write_bytes(content)
    refusal = None
    with limits(len(content)):
        try:
            return load(path)
        except weights.WeightsFileError as error:
            refusal = error
    message = str(refusal)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 1000
    assert refusal.__suppress_context__ or refusal.__context__ is None
    return None


@contextmanager
def limits(size):
    """Let no memory be had beyond what a file may take, where the system can; take the time."""
    start, waited = time.process_time(), time.perf_counter()
    if resource is None or not os.path.exists("/proc/self/statm"):
        yield
    else:
        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (taken + 3 * size + SPARE, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - start < LONGEST
    assert time.perf_counter() - waited < 10 * LONGEST


def assert_memory(path, size):
    """Hold that reading the file takes as little as is promised, counting each allocation."""
    tracemalloc.start()
    try:
        with suppress(weights.WeightsFileError):
            checkpoint.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 3 * size + SPARE, f"{peak} bytes for {size}"


@stride
def test_every_flipped_bit_and_every_truncation(tmp_path, stride):
    content = written(tmp_path, smallest())
    read = 0
    for place in range(0, 8 * len(content), stride):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        one = judged(tmp_path / "flipped", flipped)
        if one is not None:
            assert written(tmp_path, one) == content
            read += 1
    for length in range(0, len(content), stride):
        assert judged(tmp_path / "cut", content[:length]) is None, length
    print(f"{len(content)} bytes, each {stride}. bit: {read} read, intact; no truncation")


# What can happen to a file: functions of a random.Random and its bytes that return others.

WORDS = [b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"1.5", b"true", b"null", b'""', b"[]",
         b"{}", b"9" * 30, b"9" * 5000, b"1e-400", b'"\\ud800"', b'"\xff"', b"\xc0\x80",
         b"\xf4\x90\x80\x80", b"\x00", b'"__metadata__"', b"18446744073709551615", b"-0", b"0x10",
         b"\xef\xbb\xbf", b"[" * 3000, b'{"a":' * 2000, b'[{"":' * 999 + b"1" + b"}]" * 999,
         ]  # fmt: skip
LENGTHS = [0, 1, 2, 7, 8, 9, 100_000_000, 100_000_001, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1]


def flips(rng, content):
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 3, 8, 64])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def splices(rng, content):
    a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    c, d = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return rng.choice(
        [
            content[:a] + content[b:],
            content[:b] + content[a:],
            content[:a] + content[c:d] + content[b:],
            content[:a] + rng.randbytes(rng.choice([1, 8, 100])) + content[b:],
            content[:a] + rng.randbytes(b - a) + content[b:],
            content + content,
            content[8:],
        ]
    )


def length_field(rng, content):
    length = int.from_bytes(content[:8], "little")
    near = [length + rng.randint(-9, 9), len(content) - 8 + rng.randint(-2, 2), rng.getrandbits(64)]
    return (rng.choice([*LENGTHS, *near]) % 2**64).to_bytes(8, "little") + content[8:]


def parts(content):
    """Return the header's text, and the data."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]


def joined(text, data):
    return len(text).to_bytes(8, "little") + text + data


def words(rng, content):
    """Put what JSON may hold, and what it may not, in place of a number, a string, or anything."""
    text, data = parts(content)
    begin = rng.choice([i for i in range(len(text)) if text[i - 1 : i] in b':,["'])
    end = begin + rng.choice([0, 1, 1, 2, 5])
    return joined(text[:begin] + rng.choice(WORDS) + text[end:], data)


def doubled_key(rng, content):
    text, data = parts(content)
    fields = json.loads(text)
    name = rng.choice(list(fields))
    again = json.dumps({name: fields[name]}).encode()[1:-1]
    return joined(text.rstrip()[:-1] + b"," + again + b"}", data)


def tensor_fields(rng, content):
    """Give a tensor another dtype, shape, place or name, or exchange two, add one, drop one."""
    text, data = parts(content)
    header = json.loads(text)
    one, other = rng.sample([name for name in header if name != "__metadata__"], 2)
    fields = header[one]
    offsets = fields["data_offsets"]
    change = rng.randrange(9)
    if change == 0:
        fields["dtype"] = rng.choice(["F64", "F32", "I32", "I64", "BOOL", "BF16", "f32", "", 7, []])
    elif change == 1:
        sizes = [0, 1, 2, 3, -1, 2**31, 2**62, 2**64, 1.0, True, None]
        fields["shape"] = rng.choices(sizes, k=rng.choice([0, 1, 2, 3, 65]))
    elif change == 2:
        fields["shape"] = fields["shape"][::-1]
    elif change == 3:
        offsets[rng.randrange(2)] += rng.choice([-8, -4, -1, 1, 4, 8, 2**63])
    elif change == 4:
        header[one], header[other] = header[other], header[one]
    elif change == 5:
        fields["shape"], header[other]["shape"] = header[other]["shape"], fields["shape"]
    elif change == 6:
        header[rng.choice(["", "more", "a\u0000", "😀" * 50, one + "x"])] = header.pop(one)
    elif change == 7:
        header["more"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    else:
        del header[one]
    return joined(json.dumps(header).encode(), data)


RAW = (flips, splices, length_field, words, doubled_key, tensor_fields)


def with_hashes(tensors, header):
    """Return the bytes of a file with right hashes, so that it is read to the end."""
    header["data_sha256"] = checkpoint._data_hash(tensors)
    header["header_sha256"] = checkpoint._header_hash(header)
    text = weights._header(tensors, header)
    return text + b"".join(array.tobytes() for array in tensors.values())


VALUES = [None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 2**64, 10**400, 0.0, -1.5, 1e308,
          5e-324, float("nan"), float("inf"), "", "nan", "-inf", "a", "ab" * 999, "\ud800", "rnn",
          "lstm", "SGD", "Adam", "float64",
          [], [[]], [1.0], [[1, 2, 3.0, 4.0, None]], {}, {"a": 1}]  # fmt: skip


def members(value):
    """Return the places in nested lists and objects: pairs of what holds a value, and its key."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    found = [(value, key) for key in keys]
    return found + [place for key in keys for place in members(value[key])]


def edited(rng, value):
    """Return a value of the header with something changed in it, or another one."""
    places = members(value)
    if not places or rng.random() < 0.1:
        return rng.choice(VALUES)
    holder, key = rng.choice(places)
    change = rng.randrange(5)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[rng.choice(["", "more", "name", "lr"])] = rng.choice(VALUES)
    elif change == 2 and isinstance(holder[key], int | float):
        holder[key] = rng.choice([holder[key] + 1, -holder[key], holder[key] * 2, str(holder[key])])
    elif change == 3:
        other, place = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[place])) if place in other else None
    else:
        holder[key] = rng.choice(VALUES)
    return value


def header_values(rng, tensors, header):
    for name in rng.choices(
        [name for name in header if "sha256" not in name], k=rng.choice([1, 2])
    ):
        header[name] = json.dumps(edited(rng, json.loads(header[name])))


def header_texts(rng, tensors, header):
    """Spoil the text of a value."""
    name = rng.choice(list(header))
    text, place = header[name], rng.randrange(len(header[name]) + 1)
    word = rng.choice(WORDS).decode("latin-1")
    header[name] = rng.choice(
        [text[:place] + word + text[place + 1 :], text[:place], text + text, word, word + text]
    )


def header_names(rng, tensors, header):
    name = rng.choice(list(header))
    value = header.pop(name)
    if rng.random() < 0.5:
        header[rng.choice(["", "more", *header])] = value


def arrays(rng, tensors, header):
    """Change numbers, dtypes and shapes, as a file holds them that another program wrote."""
    name = rng.choice(list(tensors))
    array = tensors[name]
    change = rng.randrange(6)
    if change == 0 and array.size:
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice([0, 1, -1, 2**40])
    elif change == 1 and array.dtype.kind == "f" and array.size:
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice([np.nan, np.inf, -np.inf])
    elif change == 2:
        tensors[name] = array.astype(rng.choice(["f8", "f4", "f2", "i8", "?", "u1"]))
    elif change == 3:
        tensors[name] = array.reshape(rng.choice([(-1,), (1, -1), (-1, 1), (*array.shape, 1)]))
    elif change == 4:
        tensors[rng.choice(["more", "state.2", "optimizer.more"])] = array.copy()
    else:
        del tensors[name]


HASHED = (header_values, header_values, header_texts, header_names, arrays)


@many
@pytest.mark.filterwarnings("ignore:overflow encountered in cast", "ignore:invalid value")
def test_fuzzed_checkpoints(tmp_path, count):
    path, again = tmp_path / "fuzzed", tmp_path / "again"
    intact = [written(tmp_path, smallest()), written(tmp_path, ordinary())]
    read, longest = {}, 0.0
    for number in range(count):
        rng = random.Random(SEED + number)
        content = rng.choice(intact)
        change = rng.choice((*RAW, *HASHED))
        if change in RAW:
            fuzzed = change(rng, content)
        else:
            path.write_bytes(content)
            tensors, header = weights.load(path)
            change(rng, tensors, header)
            fuzzed = with_hashes(weights._checked(tensors), header)
        start = time.perf_counter()
        one = judged(path, fuzzed)
        longest = max(longest, time.perf_counter() - start)
        if one is None:
            continue
        read[change.__name__] = read.get(change.__name__, 0) + 1
        checkpoint.save(again, one)  # whatever is read can be written, and is the same again
        if change in RAW:
            assert again.read_bytes() == content, (number, change)
        other = checkpoint.load(again)
        checkpoint.save(path, other)
        assert path.read_bytes() == again.read_bytes(), (number, change)
    print(f"{count} files, at most {1e3 * longest:.0f} ms; read: {read}")
    assert read.keys() >= {"header_values", "arrays"}  # or nothing came as far as that
    assert sum(read.values()) < count / 3


@many
def test_fuzzed_weights(tmp_path, count):
    """Tensors alone: without a hash another number is another number, but nothing else happens."""
    rng = np.random.default_rng(0)
    tensors = {"a": rng.random((2, 3)), "b": np.array([True, False]), "é": np.float16(1)}
    metadata = {"more": "x", "😀": ""}
    weights.save(tmp_path / "intact", tensors | {"none": np.zeros((0, 4), "i8")}, metadata)
    intact = (tmp_path / "intact").read_bytes()
    for number in range(count):
        rng = random.Random(-SEED - number)
        fuzzed = rng.choice(RAW)(rng, intact)
        result = judged(tmp_path / "fuzzed", fuzzed, weights.load)
        if result is not None:
            weights.save(tmp_path / "again", *result)


def json_file(text):
    return joined(text.encode(), b"")


def in_checkpoint(text):
    """Return a file without tensors, but with right hashes, one of whose strings is the text."""
    return with_hashes({}, {"format": "1", "history": text})


MANY = 1_100_000  # bytes, about as much as may be read of the worst
LARGE = 6_000_000
GREEDY = {
    "lists": lambda n: json_file('{"a":[' + ",".join(["[]"] * (n // 3)) + "]}"),
    "objects": lambda n: json_file('{"a":[' + ",".join(['{"":{}}'] * (n // 8)) + "]}"),
    "numbers": lambda n: json_file('{"a":[' + ",".join(["257"] * (n // 4)) + "]}"),
    "floats": lambda n: json_file('{"a":[' + ",".join(["0.5"] * (n // 4)) + "]}"),
    "strings": lambda n: json_file('{"a":[' + ",".join(['"ŋ"'] * (n // 5)) + "]}"),
    "keys": lambda n: json_file("{" + ",".join(f'"{i:x}":0' for i in range(n // 9)) + "}"),
    "wide characters": lambda n: json_file('{"__metadata__":{"format":"' + "a" * n + '😀"}}'),
    "wide escapes": lambda n: json_file('{"__metadata__":{"a":"' + "a" * n + '\\ud83d\\ude00"}}'),
    "brackets": lambda n: json_file('{"a":"' + "[" * n + '"}'),
    "digits": lambda n: json_file('{"a":' + "1" * n + "}"),
    "spaces": lambda n: json_file("{" + " " * n + "}"),
    "a name": lambda n: json_file('{"' + "a" * n + '":{}}'),
    "tensors": lambda n: json_file(
        "{"
        + ",".join(
            f'"{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(n // 53)
        )
        + "}"
    ),
}
GREEDY_VALUES = {
    "lists within": lambda n: "[" + ",".join(["[]"] * (n // 3)) + "]",
    "objects within": lambda n: "[" + ",".join(['{"":0}'] * (n // 7)) + "]",
    "points within": lambda n: "[" + ",".join(["[1,1,0.5,0.5,null]"] * (n // 19)) + "]",
}


def greedy_file(monkeypatch, kind, size):
    """Return a file, and if another program has to write it: without a look at the memory."""
    if kind in GREEDY:
        return GREEDY[kind](size)
    with monkeypatch.context() as patch:
        patch.setattr(weights, "_memory_fault", lambda *_: "")
        return in_checkpoint(GREEDY_VALUES[kind](size))


greedy = pytest.mark.parametrize("kind", [*GREEDY, *GREEDY_VALUES])
sizes = pytest.mark.parametrize("size", [MANY // 2, MANY, LARGE])


@greedy
@sizes
def test_json_that_makes_much_of_little(tmp_path, monkeypatch, kind, size):
    content = greedy_file(monkeypatch, kind, size)
    assert judged(tmp_path / "greedy", content) is None


@pytest.mark.slow
@greedy
@sizes
def test_json_that_makes_much_of_little_counted(tmp_path, monkeypatch, kind, size):
    content = greedy_file(monkeypatch, kind, size)
    (tmp_path / "greedy").write_bytes(content)
    assert_memory(tmp_path / "greedy", len(content))


def test_a_greedy_header_is_told_in_a_sentence(tmp_path):
    (tmp_path / "a").write_bytes(GREEDY["lists"](LARGE))
    with pytest.raises(weights.WeightsFileError, match=r"a: header: would take some \d+ MiB"):
        weights.load(tmp_path / "a")


def test_what_could_not_be_read_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"would take some \d+ MiB of memory.*: shorten"):
        weights.save(tmp_path / "a", {}, {"a": "[]," * 2_000_000})
    assert list(tmp_path.iterdir()) == []
    weights.save(tmp_path / "a", {"a": np.zeros(1 << 22)}, {"a": "[]," * 50_000})
    assert len(weights.load(tmp_path / "a")[1]["a"]) == 150_000


def test_a_large_model_takes_three_times_its_file(tmp_path, monkeypatch):
    """Beside a few MiB: the arrays, those that the model was drawn with, and what is compared."""
    model = nprnn.LanguageModel(2, 800, cell="lstm", rng=0)
    text = {"name": "", "characters": 2, "sha256": ""}
    optimizer = optim.SGD(model.params, 0.1)
    one = Checkpoint(model, nprnn.Vocabulary("ab"), optimizer, Position(), text)
    checkpoint.save(tmp_path / "a", one)
    monkeypatch.setitem(globals(), "SPARE", 4 << 20)
    assert_memory(tmp_path / "a", (tmp_path / "a").stat().st_size)
