"""The server of the page: what it streams, what it refuses, and that nothing brings it down."""

import base64
import contextlib
import hashlib
import http.client
import http.server
import itertools
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nprnn
from nprnn import serve
from nprnn.generation import sampler
from nprnn.testing import seeds

CHARACTERS = nprnn.Vocabulary("the quick brown fox jumps over the lazy dog.\n" + "é☃")
MODEL = nprnn.LanguageModel(len(CHARACTERS), 12, num_layers=2, cell="gru", rng=0)


@contextlib.contextmanager
def running(model=MODEL, vocabulary=CHARACTERS, **options):
    """Serve in a thread, and see to it that none is left in the end."""
    before = set(threading.enumerate())
    with serve.make_server(model, vocabulary, **options) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
    assert set(threading.enumerate()) <= before


@pytest.fixture(scope="module")
def server():
    with running() as server:
        yield server


@pytest.fixture(autouse=True)
def silent(capfd):
    yield
    assert capfd.readouterr() == ("", "")


def request(server, method="POST", path="/generate", body=None, headers=None):
    """Return the status, the headers and the body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    own = {"Content-Type": "application/json"} if body is not None else {}
    with contextlib.closing(connection):
        connection.request(method, path, body, own | (headers or {}))
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def generate(server, **order):
    """Return the lines of an answer: what was read, the steps, and why it ended."""
    status, headers, body = request(server, body=json.dumps(order))
    assert (status, headers["Content-Type"]) == (200, "application/x-ndjson"), body
    head, *steps, last = [json.loads(line) for line in body.splitlines()]
    return head, steps, last


def text_of(steps):
    return "".join(step["token"][0] for step in steps)


def expected(model, vocabulary, prefix, length, **settings):
    ids = model.generate(vocabulary.encode(prefix), **settings)
    return vocabulary.decode(list(itertools.islice(ids, length)))


# What it streams


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 3}, {"embedding_size": 12, "tie_weights": True}, {"dtype": np.float64}],
    ids=repr,
)
def test_a_text_is_that_of_generate(cell, options):
    model = nprnn.LanguageModel(len(CHARACTERS), 12, cell=cell, rng=1, **options)
    with running(model) as server:
        for prefix in ("", "the quick brown"):
            for settings in ({}, {"temperature": 0.5, "top_k": 4}, {"temperature": 0}):
                head, steps, last = generate(server, prefix=prefix, seed=7, length=60, **settings)
                assert head["seed"] == 7
                assert last == {"end": "length"}
                assert text_of(steps) == expected(model, CHARACTERS, prefix, 60, rng=7, **settings)


def test_a_seed_is_drawn_and_told(server):
    head, steps, _ = generate(server, length=50)
    again = generate(server, length=50, seed=head["seed"])
    assert again == (head, steps, {"end": "length"})
    assert generate(server, length=50)[0]["seed"] != head["seed"]


def test_state_and_probabilities_are_those_before_the_token(server):
    prefix = "the lazy"
    _, steps, _ = generate(server, prefix=prefix, seed=1, length=20, temperature=0.5, top_k=5)
    read = CHARACTERS.encode(prefix + text_of(steps)[:-1])
    hidden, _ = MODEL.rnn.layer_outputs(read)  # (L, T, H)
    logits, _ = MODEL(read)
    for t, step in enumerate(steps, start=len(prefix) - 1):
        state = np.frombuffer(base64.b64decode(step["state"]), np.int8).reshape(2, 12)
        np.testing.assert_allclose(state * step["scale"] / 127, hidden[:, t], atol=0.005)
        given = np.exp(logits[t]) / np.exp(logits[t]).sum()
        ranked = sorted(range(len(given)), key=lambda i: -given[i])
        cut = given[ranked[:5]] ** 2 / (given[ranked[:5]] ** 2).sum()
        assert [token for token, _, _ in step["top"]] == [CHARACTERS.tokens[i] for i in ranked[:10]]
        np.testing.assert_allclose([p for _, p, _ in step["top"]], given[ranked[:10]], atol=2e-6)
        np.testing.assert_allclose([p for _, _, p in step["top"]], [*cut, *[0] * 5], atol=2e-6)
        assert step["token"] == step["top"][step["rank"] - 1]


def test_a_token_beyond_the_ten_likeliest_is_told_with_its_rank(server):
    _, steps, _ = generate(server, seed=0, length=300, temperature=5.0)
    assert max(step["rank"] for step in steps) > 10
    for step in steps:
        own = step["token"]
        if step["rank"] > 10:
            assert own not in step["top"]
            assert own[1] <= step["top"][-1][1]


@given(
    seeds,
    st.integers(1, 20),
    st.none() | st.integers(1, 25),
    st.sampled_from([0, 1e-300, 0.3, 1.0, 7.0]),
)
def test_what_is_drawn_could_be(seed, V, top_k, temperature):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 5, V).astype(np.float32)
    draw = sampler(temperature, top_k)
    ranked, given, drawn = serve.probabilities(logits, draw)
    assert sorted(ranked) == list(range(V))
    assert (np.diff(given) <= 0).all()
    np.testing.assert_allclose([given.sum(), drawn.sum()], 1)
    token = draw(logits, rng)
    assert drawn[list(ranked).index(token)] > 0


def test_probabilities_are_the_frequencies_of_draws():
    logits, rng = np.log([0.4, 0.05, 0.3, 0.05, 0.2]), np.random.default_rng(0)
    for settings in ({"temperature": 0.5}, {"top_k": 3}, {"temperature": 2.0, "top_k": 4}):
        draw = sampler(**settings)
        ranked, _, drawn = serve.probabilities(logits, draw)
        counts = np.bincount([draw(logits, rng) for _ in range(5000)], minlength=5) / 5000
        np.testing.assert_allclose(counts[ranked], drawn, atol=0.025)


def test_relu_states_are_scaled():
    model = nprnn.LanguageModel(len(CHARACTERS), 6, nonlinearity="relu", rng=0)
    model.params["rnn.bias_ih_l0"] += 30
    with running(model) as server:
        _, steps, _ = generate(server, prefix="f", seed=0, length=1)
    hidden, _ = model.rnn(CHARACTERS.encode("f"))
    state = np.frombuffer(base64.b64decode(steps[0]["state"]), np.int8)
    assert steps[0]["scale"] == pytest.approx(hidden.max())
    np.testing.assert_allclose(state * steps[0]["scale"] / 127, hidden[0], rtol=0.02)


# What it reads of a prefix


def test_a_prefix_of_ten_megabytes_is_answered_from_its_end(server):
    prefix = "lazy dog. " * 1_000_000 + "the quick"
    head, steps, _ = generate(server, prefix=prefix, seed=3, length=40)
    assert head["prefix"] == {"given": 10_000_009, "read": 4000, "skipped": 0, "unknown": []}
    assert text_of(steps) == expected(MODEL, CHARACTERS, prefix[-4000:], 40, rng=3)


def test_unknown_characters_are_left_out_and_told(server):
    head, steps, _ = generate(server, prefix="thé Q☃üicQk\ud800\x00", seed=3, length=40)
    assert head["prefix"] == {
        "given": 13,
        "read": 13,
        "skipped": 5,
        "unknown": ["Q", "ü", "\ud800", "\x00"],
    }
    assert text_of(steps) == expected(MODEL, CHARACTERS, "thé ☃ick", 40, rng=3)


def test_many_unknown_characters_are_counted_not_listed(server):
    head, _, _ = generate(server, prefix="".join(map(chr, range(0x4E00, 0x5E00))), length=1)
    assert head["prefix"]["skipped"] == 4000
    assert len(head["prefix"]["unknown"]) == 20


def test_the_unknown_token_is_neither_read_nor_written():
    vocabulary = nprnn.Vocabulary("abc", unknown="?")
    model = nprnn.LanguageModel(4, 5, rng=0)
    model.params["readout.bias"][0] = 50.0  # which makes it the likeliest by far
    with running(model, vocabulary) as server:
        head, steps, _ = generate(server, prefix="a?b", seed=0, length=200)
        _, coldest, _ = generate(server, seed=0, length=20, temperature=0)
    assert head["prefix"]["unknown"] == ["?"]
    assert set(text_of(steps)) == set("abc")
    assert "?" not in text_of(coldest)
    assert all(["?", 0.0, 0.0] in step["top"] for step in steps)


def test_words():
    vocabulary = nprnn.Vocabulary(["to", "be", "or", "not", "to", "be"], unknown="<unk>")
    model = nprnn.LanguageModel(len(vocabulary), 6, rng=0)
    with running(model, vocabulary) as server:
        assert json.loads(request(server, "GET", "/model")[2])["characters"] is False
        head, steps, _ = generate(server, prefix="not to see", seed=0, length=30)
        cut, _, _ = generate(server, prefix="be " * 1333 + "be", length=1)  # without the first b
    assert head["prefix"] == {"given": 10, "read": 10, "skipped": 1, "unknown": ["see"]}
    assert {step["token"][0] for step in steps} == {"to", "be", "or", "not"}
    assert cut["prefix"] == {"given": 4001, "read": 4000, "skipped": 0, "unknown": []}


def test_a_network_whose_numbers_overflow_says_so():
    model = nprnn.LanguageModel(len(CHARACTERS), 6, rng=0)
    model.params["readout.bias"][3] = np.nan
    with running(model) as server:
        _, _, body = request(server, body='{"length": 5}')
    assert json.loads(body.splitlines()[-1]) == {
        "error": "the network's numbers are no longer finite"
    }


# What it is


def test_the_page_and_its_policy(server):
    status, headers, body = request(server, "GET", "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert (policy["connect-src"], policy["img-src"]) == ("'self'", "data:")
    page = body.decode("utf-8")
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    links = re.findall(r"""(?:src|href)=["'](.*?)["']|url\((.*?)\)|@import""", page)
    assert [link for link, _ in links if not link.startswith("data:")] == []
    assert set(re.findall(r"https?://[^'\"\s]*", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|\beval\b|document\.write|\son\w+=|\sstyle=", page)


def test_head_has_the_headers_only(server):
    status, headers, body = request(server, "HEAD", "/")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) == len(request(server, "GET", "/?x=1")[2])


def test_the_model_is_told():
    with running(name="dog/best") as server:
        facts = json.loads(request(server, "GET", "/model")[2])
    assert facts == {
        "name": "dog/best",
        "cell": "GRU",
        "layers": 2,
        "hidden_size": 12,
        "parameters": sum(array.size for array in MODEL.params.values()),
        "vocabulary": len(CHARACTERS),
        "characters": True,
        "limits": {"prefix": 4000, "length": 5000, "seed": 2**53 - 1},
    }


def test_only_this_machine_reaches_it(server):
    assert isinstance(server, http.server.ThreadingHTTPServer)
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_what_cannot_be_served_is_refused():
    with pytest.raises(ValueError, match=f"vocab_size={len(CHARACTERS)} tokens, got 3"):
        serve.make_server(MODEL, nprnn.Vocabulary("abc"))
    with pytest.raises(ValueError, match="of type str"):
        serve.make_server(nprnn.LanguageModel(2, 3, rng=0), nprnn.Vocabulary([1, 2]))
    for port in (-1, 65536):
        with pytest.raises(ValueError, match="port must be"):
            serve.make_server(MODEL, CHARACTERS, port)


def test_a_port_that_is_taken_is_named(server):
    with pytest.raises(OSError, match=rf"cannot listen on port {server.server_port}: ."):
        serve.make_server(MODEL, CHARACTERS, server.server_port)


# What it refuses

DEEP = "[" * 200_000
MALFORMED = {
    "nothing": ("", "must be JSON"),
    "no JSON": ("{'prefix': 1}", "must be JSON"),
    "cut off": ('{"prefix": "a', "must be JSON"),
    "two values": ("{} {}", "must be JSON"),
    "no UTF-8": (b'{"prefix": "\xff"}', "UTF-8"),
    "UTF-16": ('{"prefix": "a"}'.encode("utf-16"), "UTF-8"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "must be JSON"),
    "too deep": (DEEP, "nested too deeply"),
    "a list": ("[]", "must be a JSON object"),
    "null": ("null", "must be a JSON object"),
    "a long list": ("[" + "1," * 100_000 + "1]", "must be a JSON object"),
    "an unknown key": ('{"prefx": "a"}', "'prefx' means nothing here"),
    "a key twice": ('{"length": 1, "length": 2}', "stands twice"),
    "NaN": ('{"temperature": NaN}', "NaN is not a number"),
    "Infinity": ('{"temperature": -Infinity}', "-Infinity is not a number"),
    "prefix of numbers": ('{"prefix": [1, 2]}', "prefix must be a string"),
    "no prefix": ('{"prefix": null}', "prefix must be a string"),
    "temperature below 0": ('{"temperature": -0.1}', "temperature must be a number in [0, inf)"),
    "infinite temperature": ('{"temperature": 1e999}', "temperature must be a number in"),
    "huge temperature": ('{"temperature": 1' + "0" * 400 + "}", "too large"),
    "hugest temperature": ('{"temperature": 1' + "0" * 9000 + "}", "must be JSON"),
    "temperature in words": ('{"temperature": "1"}', "temperature must be a real number"),
    "no temperature": ('{"temperature": null}', "temperature must be a real number"),
    "true temperature": ('{"temperature": true}', "temperature must be a real number"),
    "top_k 0": ('{"top_k": 0}', "top_k must be at least 1"),
    "top_k 2.0": ('{"top_k": 2.0}', "top_k must be an integer"),
    "length 0": ('{"length": 0}', "length must be at least 1"),
    "length too large": ('{"length": 5001}', "length must be at most 5000"),
    "length true": ('{"length": true}', "length must be an integer"),
    "no length": ('{"length": null}', "length must be an integer"),
    "seed below 0": ('{"seed": -1}', "seed must be at least 0"),
    "seed too large": ('{"seed": 9007199254740992}', "seed must be at most"),
    "seed in words": ('{"seed": "1"}', "seed must be an integer"),
}


@pytest.mark.parametrize(("body", "sentence"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_order_is_answered_with_a_sentence(server, body, sentence):
    refused(request(server, body=body), 400, sentence)


def refused(answer, status, sentence):
    """Compare an answer with what it must be: JSON with one short sentence."""
    given, headers, body = answer
    assert (given, headers["Content-Type"]) == (status, "application/json"), body
    assert headers["X-Content-Type-Options"] == "nosniff"
    error = json.loads(body)
    assert list(error) == ["error"]
    assert sentence in error["error"]
    assert len(error["error"]) < 400
    assert "\n" not in error["error"]
    assert "Traceback" not in error["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/generate", 405, "POST"),
        ("HEAD", "/generate", 405, "POST"),
        ("POST", "/", 405, "GET, HEAD"),
        ("POST", "/model", 405, "GET, HEAD"),
        ("PUT", "/generate", 405, "POST"),
        ("OPTIONS", "/generate", 405, "POST"),
        ("TRACE", "/", 405, "GET, HEAD"),
        ("BREW", "/coffee", 405, "GET, HEAD, POST"),
        ("GET", "/coffee", 404, None),
        ("POST", "/generate/", 404, None),
        ("GET", "/../serve.py", 404, None),
        ("GET", "/%2e%2e/serve.py", 404, None),
        ("GET", "/page.html", 404, None),
        ("GET", "/" + "a" * 60_000, 404, None),
        ("GET", "/" + "a" * 70_000, 414, None),
    ],
)
def test_wrong_methods_and_paths(server, method, path, status, allowed):
    given, headers, body = request(server, method, path)
    assert (given, headers["Allow"]) == (status, allowed)
    if method != "HEAD":
        refused((given, headers, body), status, "")


@pytest.mark.parametrize(
    ("headers", "status", "sentence"),
    [
        ({"Content-Type": "text/plain"}, 415, "application/json"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "application/json"),
        ({"Content-Length": "abc"}, 400, "number of bytes"),
        ({"Content-Length": "-1"}, 400, "number of bytes"),
        ({"Content-Length": "²"}, 400, "number of bytes"),
        ({"Content-Length": "9" * 15}, 413, "at most 67108864 bytes"),
        ({"Content-Length": "9" * 5000}, 400, "number of bytes"),
        ({"Transfer-Encoding": "chunked"}, 400, "in one piece"),
        ({"X-Large": "a" * 70_000}, 431, ""),
        ({f"X-{i}": "a" for i in range(200)}, 431, ""),
        ({"Origin": "http://example.org"}, 403, "only the page"),
        ({"Origin": "null"}, 403, "only the page"),
        ({"Origin": "http://127.0.0.1:1"}, 403, "only the page"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "only the page"),
        ({"Sec-Fetch-Site": "same-site"}, 403, "only the page"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_headers(server, headers, status, sentence):
    refused(request(server, body="{}", headers=headers), status, sentence)


def test_the_page_itself_may_ask(server):
    for host in ("127.0.0.1", "localhost"):
        own = f"{host}:{server.server_port}"
        headers = {"Host": own, "Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin"}
        assert request(server, body='{"length": 1}', headers=headers)[0] == 200


def test_a_link_from_elsewhere_leads_to_the_page(server):
    assert request(server, "GET", "/", headers={"Sec-Fetch-Site": "cross-site"})[0] == 200


@pytest.mark.parametrize("path", ["/", "/model", "/generate"])
@pytest.mark.parametrize(
    "host",
    ["example.org", "example.org:{}", "127.0.0.1", "127.0.0.1:1", "localhost.example.org:{}",
     "127.0.0.1.example.org:{}", "127.0.0.1:{}.example.org", "0.0.0.0:{}", "[::1]:{}", ""],
)  # fmt: skip
def test_a_name_that_was_made_to_lead_here_is_refused(server, path, host):
    headers = {"Host": host.format(server.server_port)}
    answer = request(server, "GET", path, headers=headers)
    refused(answer, 403, f"Host must be 127.0.0.1:{server.server_port} or localhost:")


def raw(server, data):
    """Send bytes, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", b"400"),
        (b"GET / HTTP/banana\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\n\r\n", b"403"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"403"),
        (b"GET /\r\n", b"403"),
        (b"POST /\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"no colon\r\n" * 50 + b"\r\n", b"403"),
    ],
)
def test_what_is_no_http(server, data, status):
    answer = raw(server, data)
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert b'\r\n\r\n{"error": ' in answer


def test_an_answer_reaches_who_still_sends(server):
    refused(request(server, "POST", "/coffee", b"x" * 20_000_000), 404, "there is no /coffee")


def test_no_request_is_no_answer(server):
    assert raw(server, b"") == raw(server, b"\r\n") == b""


def test_a_body_that_ends_early(server):
    head = f"POST /generate HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    answer = raw(server, head.encode() + b'{"prefix": ')
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"100 bytes were announced, 11 came in time" in answer


def test_a_body_that_does_not_come(server, monkeypatch):
    monkeypatch.setattr(serve.Handler, "timeout", 0.2)
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/generate")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "2000000")
        connection.endheaders()
        assert connection.getresponse().status == 408
    assert not server.large_body.locked()


def test_a_mistake_of_ours_is_no_traceback(monkeypatch):
    with running() as server:
        monkeypatch.setattr(server.network, "facts", lambda: 1 / 0)
        refused(request(server, "GET", "/model"), 500, "something went wrong")


# Many at a time


@pytest.fixture
def many_files():
    """Let the process have as many connections as the tests open, on both sides."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if wanted < 2500:
        pytest.skip("the system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_requests_at_once(many_files):
    wrong, count = [], 1000
    start = threading.Barrier(count)

    def ask(server, seed):
        try:
            start.wait()
            _, steps, last = generate(server, prefix="the ", seed=seed, length=8)
            right = expected(MODEL, CHARACTERS, "the ", 8, rng=seed)
            if (text_of(steps), last) != (right, {"end": "length"}):
                wrong.append((seed, steps))
        except Exception as error:
            wrong.append((seed, error))

    with running() as server:
        assert server.request_queue_size >= count
        threads = [threading.Thread(target=ask, args=(server, seed)) for seed in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert request(server, "GET", "/model")[0] == 200


def test_who_waits_too_long_is_told(server, monkeypatch):
    monkeypatch.setattr(serve, "LONGEST_WAIT", 0.05)
    assert all(server.line.enter(0) for _ in range(serve.GENERATIONS))
    try:
        answer = request(server, body="{}")
        refused(answer, 503, "too many requests")
        assert answer[1]["Retry-After"] == "60"
        assert request(server, "GET", "/")[0] == 200
    finally:
        for _ in range(serve.GENERATIONS):
            server.line.leave()
    assert generate(server, length=1)[2] == {"end": "length"}


def test_first_come_first_served():
    line, order = serve.Line(1), []
    assert line.enter(0)

    def wait(number):
        assert line.enter(30)
        order.append(number)
        line.leave()

    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        until(lambda count=number + 1: len(line._waiting) == count)
    assert not line.enter(0)  # nobody passes the others
    assert len(line._waiting) == 8
    line.leave()
    for thread in threads:
        thread.join()
    assert order == list(range(8))
    assert line.enter(0)


def until(holds, seconds=20):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class SlowNetwork(serve.Network):
    """Counts its steps, and takes its time for them."""

    count = 0

    def read(self, tokens, state):
        type(self).count += 1
        time.sleep(0.002)
        return super().read(tokens, state)


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(SlowNetwork, "count", 0)
    monkeypatch.setattr(serve, "Network", SlowNetwork)


def begin(server, length=5000):
    """Return a connection on which a text has begun, and its response."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/generate", json.dumps({"length": length}), headers)
    response = connection.getresponse()
    assert "prefix" in json.loads(response.readline())
    assert "token" in json.loads(response.readline())
    return connection, response


def test_a_text_streams_as_it_is_written(slow):
    with running() as server:
        connection, response = begin(server)
        assert SlowNetwork.count < 1000
        response.close()
        connection.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"POST /generate HTTP/1.1\r\n", None])
def test_a_client_that_breaks_the_connection(server, sent):
    head = f"POST /generate HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    client = socket.create_connection(("127.0.0.1", server.server_port))
    client.sendall(head.encode() if sent is None else sent)
    until(lambda: server._connections)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    client.close()
    until(lambda: not server._connections)


def test_a_client_that_goes_away_ends_its_text(slow):
    with running() as server:
        for _ in range(2 * serve.GENERATIONS):  # else the last ones would find no place
            connection, response = begin(server)
            response.close()
            connection.close()
        until(lambda: server.line._free == serve.GENERATIONS)
        assert SlowNetwork.count < 5000
        until(lambda: not server._connections)
        assert generate(server, length=1)[2] == {"end": "length"}


def test_closing_ends_what_is_being_written(slow):
    before = time.monotonic()
    with running() as server:
        clients = [begin(server) for _ in range(serve.GENERATIONS)]
        idle = socket.create_connection(("127.0.0.1", server.server_port))
        until(lambda: len(server._connections) == serve.GENERATIONS + 1)
        waiting = threading.Thread(target=lambda: raw_or_nothing(server))
        waiting.start()
        until(lambda: server.line._waiting)
        port = server.server_port
    assert time.monotonic() - before < 5  # 5,000 steps would take 10 s
    waiting.join()
    idle.close()
    for connection, response in clients:
        response.close()
        connection.close()
    with running(port=port) as again:  # the port is free
        assert again.server_port == port


def raw_or_nothing(server):
    with contextlib.suppress(OSError, http.client.HTTPException):
        request(server, body="{}")


def test_more_connections_than_places_wait(monkeypatch):
    monkeypatch.setattr(serve, "CONNECTIONS", 2)
    with running() as server:
        idle = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(2)]
        until(lambda: len(server._connections) == 2)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(request(server, "GET", "/model")))
        thread.start()
        time.sleep(0.2)
        assert answers == []
        for client in idle:
            client.close()
        thread.join()
        assert answers[0][0] == 200


def test_closing_while_all_places_are_taken(monkeypatch):
    monkeypatch.setattr(serve, "CONNECTIONS", 1)
    with running() as server:
        clients = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(3)]
        until(lambda: len(server._connections) == 1)
    for client in clients:
        client.close()


@pytest.mark.skipif(sys.platform == "win32", reason="signals work in another way there")
def test_an_interrupt_ends_it():
    code = """
import nprnn
from nprnn.serve import serve_forever
try:
    serve_forever(
        nprnn.LanguageModel(3, 4, rng=0), nprnn.Vocabulary("abc"), name="x",
        on_ready=lambda url: print(url, flush=True),
    )
except KeyboardInterrupt:
    print("interrupted")
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(url, timeout=30) as page:
            assert page.status == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)
