import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nprnn import Vocabulary, encode_file, encoding, one_hot, read_text


@given(st.lists(st.integers(0, 9), max_size=20), st.sampled_from([np.float32, np.float64, bool]))
def test_one_hot_is_rows_of_the_identity(indices, dtype):
    vectors = one_hot(indices, 10, dtype)
    assert vectors.dtype == dtype
    np.testing.assert_array_equal(vectors, np.eye(10, dtype=dtype)[np.array(indices, int)])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 0, 3), (1, 2, 3, 4)])
def test_one_hot_adds_an_axis_at_the_end(shape):
    indices = np.random.default_rng(0).integers(0, 5, shape)
    vectors = one_hot(indices, 5)
    assert vectors.shape == (*shape, 5)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors.argmax(-1), indices)
    np.testing.assert_array_equal(vectors.sum(-1), np.ones(shape))


@pytest.mark.parametrize(
    ("indices", "num_classes", "error", "words"),
    [
        ([3], 3, ValueError, ["indices", "0 .. num_classes-1 = 2", "3"]),
        ([-1], 3, ValueError, ["indices", "-1"]),
        ([1.0], 3, TypeError, ["indices", "integers", "float64"]),
        ([True], 3, TypeError, ["indices", "integers", "bool"]),
        ("ab", 3, TypeError, ["indices", "numbers"]),
        ([0], 0, ValueError, ["num_classes", "at least 1"]),
        ([0], 2.5, TypeError, ["num_classes", "integer"]),
        (None, 2, TypeError, ["indices", "numbers"]),
    ],
)
def test_one_hot_refuses(indices, num_classes, error, words):
    with pytest.raises(error) as caught:
        one_hot(indices, num_classes)
    assert all(word in str(caught.value) for word in words), caught.value


@given(st.text(min_size=1))
def test_characters_round_trip(text):
    vocabulary = Vocabulary(text)
    assert vocabulary.tokens == sorted(set(text))
    assert len(vocabulary) == len(set(text))
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int32
    assert [vocabulary.tokens[i] for i in ids] == list(text)
    assert vocabulary.decode(ids) == text
    assert vocabulary.frequencies == Counter(text)


@given(st.lists(st.text(min_size=2), min_size=1))
def test_words_round_trip(words):
    vocabulary = Vocabulary(words)
    assert vocabulary.tokens == sorted(set(words))
    assert vocabulary.decode(vocabulary.encode(words)) == " ".join(words)


@given(st.lists(st.tuples(st.integers(), st.booleans()), min_size=1))
def test_any_hashable_tokens_round_trip(tokens):
    vocabulary = Vocabulary(tokens)
    assert vocabulary.decode(vocabulary.encode(tokens)) == tokens


def test_tokens_that_cannot_be_sorted_keep_their_order():
    assert Vocabulary(["b", 2, "a", None, 2]).tokens == ["b", 2, "a", None]


@given(st.text(min_size=1), st.text())
def test_the_unknown_token_stands_for_the_rest(known, text):
    vocabulary = Vocabulary(known, unknown="<unk>")
    assert vocabulary.unknown_id == 0
    decoded = vocabulary.decode(vocabulary.encode(text))
    assert decoded == "".join(c if c in known else "<unk>" for c in text)


def test_reserved_tokens_come_first_and_min_freq_leaves_the_rare_out():
    vocabulary = Vocabulary("aaabbc<", min_freq=2, unknown="?", reserved=["<", ">"])
    assert vocabulary.tokens == ["?", "<", ">", "a", "b"]
    assert vocabulary.encode("abc<>").tolist() == [3, 4, 0, 1, 2]
    assert vocabulary.frequencies["c"] == 1
    assert "a" in vocabulary
    assert "c" not in vocabulary


def test_a_string_is_split_into_words_by_a_vocabulary_of_words():
    vocabulary = Vocabulary(["the", "time", "machine", "the"])
    np.testing.assert_array_equal(vocabulary.encode("time the\nmachine"), [2, 1, 0])


@pytest.mark.parametrize("position", [0, 5, (1 << 20) - 1, 1 << 20, (1 << 20) + 7])
def test_an_unknown_character_is_named_with_its_position(position):
    """Also at the edges of the blocks that a long text is encoded in."""
    text = "a" * position + "é" + "a" * 5
    with pytest.raises(ValueError, match=rf"'é' \(U\+00E9\) at position {position}:"):
        Vocabulary("ab").encode(text)


def test_a_character_beyond_the_largest_known_is_unknown():
    with pytest.raises(ValueError, match=r"U\+10FFFF\) at position 1"):
        Vocabulary("ab").encode("a\U0010ffff")
    assert Vocabulary("ab", unknown="?").encode("\U0010ffffc\x00").tolist() == [0, 0, 0]


def test_every_code_point_can_be_encoded():
    text = "".join(map(chr, range(0, 0x110000, 97)))  # lone surrogates among them
    vocabulary = Vocabulary(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Vocabulary("ab", min_freq=0), ValueError, ["min_freq", "at least 1"]),
        (lambda: Vocabulary(5), TypeError, ["tokens", "iterable"]),
        (lambda: Vocabulary(None), TypeError, ["tokens", "iterable"]),
        (lambda: Vocabulary("ab", reserved=None), TypeError, ["reserved", "None"]),
        (lambda: Vocabulary("ab", unknown=["x"]), TypeError, ["unknown", "hashable"]),
        (lambda: Vocabulary([["a"]]), TypeError, ["tokens", "hashable"]),
        (lambda: Vocabulary("ab", reserved="xy"), TypeError, ["reserved", "'xy'"]),
        (lambda: Vocabulary("ab", unknown="x", reserved=["x"]), ValueError, ["distinct"]),
        (lambda: Vocabulary("ab").decode([2]), ValueError, ["ids", "0 .. len(vocabulary)-1 = 1"]),
        (lambda: Vocabulary("ab").decode([[0]]), ValueError, ["ids", "shape", "(1, 1)"]),
        (lambda: Vocabulary("ab").decode([0.5]), TypeError, ["ids", "integers"]),
        (lambda: Vocabulary(["to", "be"]).encode(["or"]), ValueError, ["'or'", "position 0"]),
        (lambda: Vocabulary("ab").encode(5), TypeError, ["text", "iterable", "5"]),
    ],
)
def test_vocabulary_refuses(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value


def test_empty_vocabularies_and_texts():
    assert len(Vocabulary("")) == 0
    assert Vocabulary("ab").encode("").shape == (0,)
    assert Vocabulary("ab").decode([]) == ""
    assert Vocabulary([]).encode([]).dtype == np.int32
    with pytest.raises(ValueError, match="'a'"):
        Vocabulary("").encode("a")


def test_the_order_does_not_depend_on_hashing():
    code = "from nprnn import Vocabulary; print(Vocabulary(set('the time machine'.split())).tokens)"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": str(seed)}, capture_output=True
        ).stdout
        for seed in range(3)
    }
    assert runs == {b"['machine', 'the', 'time']\n"} or runs == {b"['machine', 'the', 'time']\r\n"}


def test_odd_arguments_are_named():
    with pytest.raises(TypeError, match="dtype must be one of NumPy's, got 'nope'"):
        one_hot([0], 2, "nope")
    with pytest.raises(TypeError, match="path must be a str or path-like, got int"):
        read_text(5)


def test_repr_is_short():
    assert repr(Vocabulary("ba")) == "<Vocabulary of 2 characters: 'a', 'b'>"
    assert len(repr(Vocabulary("".join(map(chr, range(1000)))))) < 100


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_file_is_encoded_block_by_block_as_its_text_is(tmp_path, monkeypatch, newline):
    text = "\ufeffzoë 漢字 🙂 end\nof line\n\n" * 40
    path = tmp_path / "book.txt"
    path.write_bytes(text.replace("\n", newline).encode("utf-8"))
    whole = read_text(path)
    assert whole == text[1:]
    for size in (1, 2, 3, 7, 1 << 20):  # cuts characters and line ends in two
        monkeypatch.setattr(encoding, "_BLOCK", size)
        tokens, vocabulary = encode_file(path)
        assert read_text(path) == whole
        assert vocabulary.tokens == Vocabulary(whole).tokens
        assert vocabulary.frequencies == Vocabulary(whole).frequencies
        np.testing.assert_array_equal(tokens, Vocabulary(whole).encode(whole))
        assert isinstance(tokens, np.memmap)
        assert (tokens.dtype, tokens.flags.writeable) == (np.uint8, False)


def test_encoding_a_file_with_a_vocabulary_of_ones_own_into_a_file_of_ones_own(tmp_path):
    path, out = tmp_path / "book.txt", tmp_path / "ids"
    path.write_text("abcabx" * 10, encoding="utf-8")
    with pytest.raises(ValueError, match=r"'x' .* at position 5: it is not among the 3"):
        encode_file(path, Vocabulary("abc"))
    tokens, _ = encode_file(path, Vocabulary("abc", unknown="?"), out=out)
    assert out.read_bytes() == tokens.tobytes() == bytes([1, 2, 3, 1, 2, 0] * 10)
    with pytest.raises(ValueError, match="one of characters"):
        encode_file(path, Vocabulary(["two", "words"]))


def test_many_characters_need_a_wider_type(tmp_path):
    path = tmp_path / "many.txt"
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 1000)))
    path.write_text(text, encoding="utf-8")
    tokens, vocabulary = encode_file(path)
    assert tokens.dtype == np.uint16
    assert vocabulary.decode(tokens) == text


@pytest.mark.parametrize("size", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"abc\xffdef", "byte 0xff at position 3"),
        ("äö€".encode()[:-1], "byte 0xe2 at position 4"),
        (b"abcde\0f", "NUL byte at position 5"),
        (b"", "is empty"),
    ],
)
def test_a_bad_byte_is_named_wherever_blocks_end(tmp_path, monkeypatch, size, data, words):
    monkeypatch.setattr(encoding, "_BLOCK", size)
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    for read in (read_text, encode_file):
        with pytest.raises(ValueError, match=words):
            read(path)


def test_frequencies_make_a_vocabulary():
    assert Vocabulary(Counter(b=2, a=3), min_freq=3).tokens == ["a"]
