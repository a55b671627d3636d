"""The course: right answers pass, wrong ones are caught, and every failure has its sentence."""

import ast
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import nprnn
from nprnn import course
from nprnn.course.catalogue import EXERCISES, exercise, template
from nprnn.course.grading import grade
from nprnn.course.mistakes import MISTAKES
from nprnn.course.report import Report

NAMES = course.exercises()


def planted(name, *edits):
    """A solution's source with some of it replaced."""
    source = course.solution(name)
    for old, new in edits:
        assert source.count(old) == 1, (old, source.count(old))
        source = source.replace(old, new)
    return source


def graded(name, source):
    """Check an exercise in this process, which is quicker."""
    namespace = {}
    exec(compile(source, "learner.py", "exec"), namespace)
    chosen = exercise(name)
    functions = {f.name: namespace.get(f.name) for f in chosen.functions}
    return {result.function: result for result in grade(chosen, functions, "learner.py")}


def statuses(results):
    return {result.status for result in results}


def checked(folder, source, **settings):
    """Check a file as a learner would."""
    path = folder / "learner.py"
    path.write_text(textwrap.dedent(source), "utf-8")
    return course.check(path, **settings)


# Right answers


@pytest.mark.parametrize("name", NAMES)
def test_each_solution_passes(name, tmp_path):
    report = checked(tmp_path, course.solution(name))
    assert report.passed, str(report)
    assert [result.function for result in report.results] == [
        function.name for function in exercise(name).functions
    ]
    assert str(report).endswith(f"{len(report.results)} of {len(report.results)} passed")
    assert [path.name for path in tmp_path.iterdir()] == ["learner.py"]  # nothing is left beside it


RNN_IN_PLACE = """
import numpy as np

def rnn_forward(x, h_0, W_ih, W_hh, b):
    T, B, _ = x.shape
    h = np.zeros((T + 1, B, len(b)))
    h[0] = h_0
    h_0 *= 0
    for t in range(T):
        np.matmul(x[t], W_ih.T, out=h[t + 1])
        h[t + 1] += h[t] @ W_hh.T
        h[t + 1] += b
        np.tanh(h[t + 1], out=h[t + 1])
    return h[1:], {"x": x, "h": h, "W": (W_ih, W_hh)}

def rnn_backward(d_h, cache):
    x, h, (W_ih, W_hh) = cache["x"], cache["h"], cache["W"]
    d_W_ih, d_W_hh, d_b = np.zeros_like(W_ih), np.zeros_like(W_hh), np.zeros(len(W_hh))
    for t in range(len(x) - 1, -1, -1):
        d_h[t] *= 1 - h[t + 1] ** 2
        d_W_ih += d_h[t].T @ x[t]
        d_W_hh += d_h[t].T @ h[t]
        d_b += d_h[t].sum(0)
        d_before = d_h[t] @ W_hh
        if t:
            d_h[t - 1] += d_before
        x[t] = d_h[t] @ W_ih
    return [x, d_before, d_W_ih, d_W_hh, d_b]
"""

SINGLE = """
import numpy as _np

def _single(value):
    if isinstance(value, dict):
        return {name: _single(array) for name, array in value.items()}
    if isinstance(value, _np.ndarray) and value.dtype == _np.float64:
        return value.astype(_np.float32)
    return value

def _in_single_precision(function):
    return lambda *arguments: function(*map(_single, arguments))
"""

VARIANTS = {
    "rnn, in place": ("rnn", RNN_IN_PLACE),
    "one_hot, filled": (
        "one_hot",
        """
import numpy as np

def one_hot(indices, num_classes):
    vectors = np.zeros((*indices.shape, num_classes), int)
    for place in np.ndindex(indices.shape):
        vectors[(*place, indices[place])] = 1
    indices[...] = -1
    return vectors
""",
    ),
    "one_hot, lists": (
        "one_hot",
        planted("one_hot", ("astype(np.float64)", "tolist()")),
    ),
    "sgd, in place": (
        "sgd",
        "def sgd_step(params, grads, lr):\n    for k in params: params[k] -= lr * grads[k]",
    ),
    "sgd, in place and returned": (
        "sgd",
        "def sgd_step(p, g, lr):\n    for k in p: p[k] -= lr * g[k]\n    return p",
    ),
    "clip, in place": (
        "clip_grad_norm",
        """
def clip_grad_norm(grads, max_norm):
    norm = sum((g ** 2).sum() for g in grads.values()) ** 0.5
    if norm > max_norm:
        for g in grads.values():
            g *= max_norm / norm
    return norm
""",
    ),
    "clip, in place and returned": (
        "clip_grad_norm",
        """
import numpy as np

def clip_grad_norm(grads, max_norm):
    norm = np.linalg.norm(np.concatenate([g.ravel() for g in grads.values()]))
    for g in grads.values():
        g *= min(1, max_norm / norm)
    return grads, norm
""",
    ),
    "softmax, in place": (
        "softmax_cross_entropy",
        """
import numpy as np

def softmax_cross_entropy(logits, targets):
    logits -= logits.max(-1, keepdims=True)
    place = (*np.indices(targets.shape), targets)
    loss = np.mean(np.log(np.exp(logits).sum(-1)) - logits[place])
    np.exp(logits, out=logits)
    logits /= logits.sum(-1, keepdims=True)
    logits[place] -= 1
    logits /= targets.size
    return np.array(loss), logits
""",
    ),
    "step, the same buffers each time": (
        "rnn_step",
        planted("rnn_step", ("import numpy as np", "import numpy as np\nBUFFERS = {}")).replace(
            "    return h_next, (x,",
            "    h_next = np.add(h_next, 0, out=BUFFERS.setdefault(h_next.shape, h_next.copy()))\n"
            "    return h_next, (x,",
        ),
    ),
}
for each in EXERCISES:
    wrapped = [f"{f.name} = _in_single_precision({f.name})\n" for f in each.functions]
    VARIANTS[f"{each.name}, float32"] = (
        each.name,
        course.solution(each.name) + SINGLE + "".join(wrapped),
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_way_to_write_it_passes(variant):
    name, source = VARIANTS[variant]
    results = graded(name, source).values()
    assert statuses(results) == {"passed"}, "\n".join(
        line for result in results for line in result.lines(20)
    )


# Wrong answers: the exercise, what is replaced by what, and the name of the mistake, if it has one.

PLANTED = [
    ("one_hot", "(indices[..., None] ==", "(indices.T[..., None] ==", "time and batch are exch"),
    ("one_hot", "np.arange(num_classes)", "np.arange(1, num_classes + 1)", "counted from 1"),
    ("one_hot", ").astype(np.float64)", ") * indices[..., None]", "the index itself"),
    ("one_hot", "(indices[..., None] ==", "(indices[..., None] <=", None),
    ("one_hot", "(indices[..., None] ==", "(indices[None] ==", None),
    ("rnn_step", "np.tanh(x @ W_ih.T + h_prev @ W_hh.T + b)", "x @ W_ih.T + h_prev @ W_hh.T + b",
     "tanh is missing"),
    ("rnn_step", "h_prev @ W_hh.T + b", "h_prev @ W_hh + b", "W_hh is transposed"),
    ("rnn_step", "W_hh.T + b)", "W_hh.T)", "the bias is missing"),
    ("rnn_step", "x @ W_ih.T + h_prev", "x @ W_ih + h_prev", None),
    ("rnn_step", "1 - h_next**2", "1 - h_next", None),
    ("rnn_step", " * (1 - h_next**2)", "", "the factor f'(a), for tanh 1 - h², is missing"),
    ("rnn_step", "d_h_prev = d_a @ W_hh", "d_h_prev = d_a @ W_hh.T", "transpose of W_hh is miss"),
    ("rnn_step", "d_W_hh = d_a.T @ h_prev", "d_W_hh = h_prev.T @ d_a", "are exchanged"),
    ("rnn_step", "d_W_hh = d_a.T @ h_prev", "d_W_hh = d_a.T @ h_next", "h_t stands in place"),
    ("rnn_step", "d_a.sum(axis=0)", "d_a.mean(axis=0)", "a mean over the batch"),
    ("rnn_step", "d_a.sum(axis=0)", "d_a", "not summed over the batch"),
    ("rnn", "states = [h_0]", "states = [np.zeros_like(h_0)]", "h_0 is left out"),
    ("rnn", "states[-1] @", "states[0] @", "every step starts from h_0"),
    ("rnn", "np.stack(states[1:])", "np.stack(states[:-1])", "the states before each step"),
    ("rnn", "np.stack(states[1:])", "np.stack(states)", "h_0 stands among the states"),
    ("rnn", "for x_t in x:", "for x_t in x[::-1]:", None),
    ("rnn", "d_h[t] + carried", "d_h[t]", "carried back from later steps is dropped"),
    ("rnn", "d_h[t] + carried", "carried", "the carried gradient replaces the step's own"),
    ("rnn", "(d_h[t] + carried) * (1 - h[t] ** 2)", "d_h[t] * (1 - h[t] ** 2) + carried", None),
    ("rnn", " * (1 - h[t] ** 2)", "", "the factor f'(a), for tanh 1 - h², is missing"),
    ("rnn", "carried = d_a[t] @ W_hh", "carried = d_a[t] @ W_hh.T", "the transpose of W_hh"),
    ("rnn", "carried = d_a[t] @ W_hh", "carried += d_a[t] @ W_hh", "is added up over the steps"),
    ("rnn", "carried = d_a[t] @ W_hh", "carried = d_a[t]", "the product with W_hh is missing"),
    ("rnn", "reversed(range(len(x)))", "range(len(x))", "from the first step to the last"),
    ("rnn", "d_a, h_before)", "d_a, h)", "h_t stands in place of h_(t-1)"),
    ("rnn", '"tbh,tbk->hk"', '"tbh,tbk->kh"', "are exchanged"),
    ("rnn", "[h_0[None], h[:-1]]", "[0 * h_0[None], h[:-1]]", "that of h_0, is left out"),
    ("rnn", "d_b = d_a.sum(axis=(0, 1))", "d_b = d_a[-1].sum(axis=0)", "is not summed over time"),
    ("rnn", "return d_x, carried,", "return d_x, 0 * carried,", None),
    ("softmax_cross_entropy", "logits - logits.max(axis=-1, keepdims=True)", "logits",
     "exp overflows"),
    ("softmax_cross_entropy", "(y * log_p)", "(y * np.log(np.exp(log_p)))", "has become 0"),
    ("softmax_cross_entropy", ".sum() / (T * B)", ".sum() / B", "the loss is a sum over time,"),
    ("softmax_cross_entropy", ".sum() / (T * B)", ".sum()", "a sum over time and batch"),
    ("softmax_cross_entropy", " - y) / (T * B)", " - y)", "that of a sum over time and batch"),
    ("softmax_cross_entropy", "(np.exp(log_p) - y)", "(y - np.exp(log_p))", "sign of the gradient"),
    ("softmax_cross_entropy", "(np.exp(log_p) - y)", "np.exp(log_p)", "target is not subtracted"),
    ("softmax_cross_entropy", "loss = -(y", "loss = (y", "the sign of the loss"),
    ("softmax_cross_entropy", "np.exp(shifted).sum(axis=-1,", "np.exp(shifted).sum(axis=0,", None),
    ("clip_grad_norm", "min(1.0, max_norm / (norm + 1e-6))", "max_norm / norm", "shorter than"),
    ("clip_grad_norm", "min(1.0, max_norm / (norm + 1e-6))", "1.0", "are not clipped"),
    ("clip_grad_norm", "min(1.0", "max(1.0", "min and max are exchanged"),
    ("clip_grad_norm", "np.sqrt(sum(", "(sum(", "the square root is missing"),
    ("clip_grad_norm", "* factor", "* min(1, max_norm / np.linalg.norm(gradient))",
     "each array is clipped by its own norm"),
    ("clip_grad_norm", "gradient * factor", "np.clip(gradient, -max_norm, max_norm)", "one by one"),
    ("clip_grad_norm", "grads.items()}, norm", "grads.items()}, min(norm, max_norm)",
     "the norm is that after clipping"),
    ("sgd", "value - lr", "value + lr", "it climbs"),
    ("sgd", "lr * grads", "grads", "the learning rate is missing"),
    ("sgd", "value - lr * grads[name]", "-lr * grads[name]", "the step is returned"),
    ("truncated_bptt", "        state = h[-1]\n", "", "each window starts from h_0"),
    ("truncated_bptt", "x[window], state,", "x[window], 0 * state,", None),
    ("truncated_bptt", "state = h_0", "state = h_0\n    num_steps = len(x)", "not cut between"),
    ("truncated_bptt", "len(x), num_steps)", "len(x) - num_steps + 1, num_steps)",
     "the last window, which is shorter, is left out"),
    ("truncated_bptt", "[sum(pair) for pair in zip(totals, gradients, strict=True)]", "gradients",
     "those of the last window"),
    ("truncated_bptt", "        state = h[-1]\n", "        state = h[0]\n", None),
    ("gru_step", "(1 - z) * n + z * h_prev", "z * n + (1 - z) * h_prev", "z and 1 - z are exch"),
    ("gru_step", "np.tanh(x_n + r * h_n)", "np.tanh(x_n + h_n)", "r is not applied"),
    ("gru_step", "x_r, x_z, x_n = np", "x_z, x_r, x_n = np", None),
    ("gru_step", " @ W_hh + d_h_next * z", " @ W_hh", "the direct way from h to h' is missing"),
    ("gru_step", "(h_prev - n) * z", "(n - h_prev) * z", "the gradient of z has the wrong sign"),
    ("gru_step", "[d_r, d_z, d_n * r]", "[d_r, d_z, d_n]", "r is missing between the candidate"),
    ("gru_step", "h_n * r * (1 - r)", "h_n", "the slope of r"),
    ("gru_step", " * (1 - n**2)", "", "the slope of tanh"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "old", "new", "mistake"), PLANTED, ids=[f"{p[0]}: {p[1]} → {p[2]}" for p in PLANTED]
)
def test_a_planted_mistake_is_caught_and_named(name, old, new, mistake):
    results = graded(name, planted(name, (old, new)))
    caught = [result for result in results.values() if result.status in ("failed", "error")]
    assert len(caught) == 1  # what comes after it waits
    (result,) = caught
    assert result.message
    names = [each for each, _ in result.diagnosis]
    if mistake is None:
        assert names == []
    else:
        assert len(names) == 1, names
        assert mistake in names[0]
    # The smallest case is small, and `case` gives the arrays in which the mistake is seen.
    sizes = dict(result.case)
    seed = sizes.pop("seed")
    assert seed <= 9
    assert all(size <= 3 for letter, size in sizes.items() if letter in "TBIHV")
    inputs = course.case(name, seed=seed, **sizes)
    namespace = {"__builtins__": __builtins__}
    exec(planted(name, (old, new)), namespace)
    assert differs(name, result.function, namespace, inputs)
    assert all(len(line) <= 80 for line in result.lines(21))


KNOWN = [
    pytest.param(each.name, function.name, row, id=f"{function.name}: {row[0]}")
    for each in EXERCISES
    for function in each.functions
    for row in MISTAKES.get(function.name, ())
]


@pytest.mark.parametrize(("name", "function", "mistake"), KNOWN)
def test_each_known_mistake_is_planted_caught_and_named(name, function, mistake):
    text, mathematics, *edits = mistake
    result = graded(name, planted(name, *edits))[function]
    assert result.status == "failed"
    assert (text, mathematics) in result.diagnosis
    assert len(result.diagnosis) == 1, result.diagnosis


def differs(name, wrong, functions, inputs):
    """Whether a learner's functions differ from the solution's on arrays from `case`."""
    module = importlib.import_module(f"nprnn.course.solutions.{name}")
    answers = []
    for get in (functions.__getitem__, lambda function: getattr(module, function)):
        known = {k: dict(v) if isinstance(v, dict) else np.copy(v) for k, v in inputs.items()}
        try:
            for function in exercise(name).functions:
                call = get(function.name)
                arguments = inspect.signature(call).parameters
                results = call(*(known[argument] for argument in arguments))
                results = results if len(function.results) > 1 else (results,)
                known.update(zip(function.results, results, strict=True))
                if function.name == wrong:
                    break
        except Exception as error:
            answers.append(type(error).__name__)
            continue
        flat = []
        for result, shape in function.results.items():
            if shape is not None:
                value = known[result]
                flat += value.values() if isinstance(value, dict) else [value]
        answers.append(flat)
    yours, right = answers
    if isinstance(yours, str):
        return True
    return any(
        np.shape(a) != np.shape(b) or not np.allclose(a, b, rtol=1e-6, atol=1e-9)
        for a, b in zip(yours, right, strict=True)
    )


def test_a_small_mistake_in_a_large_array_is_caught():
    source = planted("rnn", ("d_x = d_a @ W_ih", "d_x = d_a @ W_ih * 1.0001"))
    result = graded("rnn", source)["rnn_backward"]
    assert result.status == "failed"
    assert result.message.startswith("d_x: ")


def test_a_mistake_that_only_long_sequences_show_is_shown_in_the_shortest():
    source = planted("rnn", ("carried = d_a[t] @ W_hh", "carried = d_a[t] @ W_hh * (t != 2)"))
    assert graded("rnn", source)["rnn_backward"].case["T"] == 3
    source = planted("rnn", ("(d_h[t] + carried)", "(d_h[t] + carried * (t + 4 != len(x)))"))
    assert graded("rnn", source)["rnn_backward"].case["T"] == 4


def test_the_same_file_gives_the_same_report():
    source = planted("rnn", ("d_h[t] + carried", "d_h[t]"))
    assert graded("rnn", source) == graded("rnn", source)


# Each kind of failure has its own sentence


ONE = "def one_hot(indices, num_classes):\n    "
SENTENCES = {
    "return np.zeros((2, 2))": "vectors has shape (2, 2), expected (T=1, B=1, V=1)",
    "return np.full((*indices.shape, num_classes), np.nan)": "vectors is NaN (not a number)",
    "return np.full((*indices.shape, num_classes), np.inf)": "vectors is infinite",
    "return 'text'": "vectors is a str, expected (T=1, B=1, V=1)",
    "return [[1], [1, 2]]": "vectors is a list, expected",
    "return (n for n in indices)": "vectors is a generator, expected",
    "return 1j * np.ones((*indices.shape, num_classes))": "an array of complex128",
    "pass": "returns None, expected vectors: is a return missing?",
    "return np.eye(num_classes)[indices + 9]": "IndexError in line 3: index 9 is out of bounds",
    "raise KeyboardInterrupt": "KeyboardInterrupt in line 3",
    "raise ValueError('\\x1b[1m' + 'long ' * 999)": "ValueError in line 3:  [1mlong long",
    "raise SystemExit": "ends the program in line 3 (sys.exit or quit): leave that out",
    "return one_hot(indices, num_classes)": "RecursionError in line 3",
    "return np.empty((10**9, 10**9))": "MemoryError in line 3",
    "return np.random.random((*indices.shape, num_classes))": "gives different answers to the same",
}


@pytest.mark.parametrize("body", SENTENCES)
def test_each_failure_has_its_sentence(body):
    result = graded("one_hot", "import numpy as np\n" + ONE + body)["one_hot"]
    assert result.status in ("failed", "error")
    assert SENTENCES[body] in result.message
    assert all(len(line) <= 80 and line.isprintable() for line in result.lines(7))


def test_results_that_do_not_fit_are_told_apart():
    forward = "def rnn_forward(x, h_0, W_ih, W_hh, b):\n    return x\n"
    expected = "returns one ndarray, expected 2 results: h, cache"
    assert graded("rnn", forward)["rnn_forward"].message == expected
    forward = "def rnn_forward(x, h_0, W_ih, W_hh, b):\n    return x, h_0, b\n"
    assert (
        graded("rnn", forward)["rnn_forward"].message == "returns 3 results, expected 2: h, cache"
    )
    step = "def sgd_step(params, grads, lr):\n    return {'W': 1}"
    assert "must be a dict with keys W_ih, W_hh, b; got keys ['W']" in (
        graded("sgd", step)["sgd_step"].message
    )
    step = "def sgd_step(params, grads):\n    return params"
    assert "it is called as sgd_step(params, grads, lr)" in graded("sgd", step)["sgd_step"].message


ODD = ("None", "np.zeros(0)", "{{2}}", "{name}[None]", "{name}.T", "np.nan * {name}", "{{}}")


@pytest.mark.parametrize("odd", ODD)
def test_no_result_is_too_odd_for_the_check(odd):
    for each in EXERCISES:
        function = each.functions[-1]
        for position, (name, shape) in list(enumerate(function.results.items()))[-2:]:
            if isinstance(shape, str):
                many = len(function.results) > 1
                result = odd.format(name="results[i]" if many else "results")
                source = f"""
import numpy as np
_right, i = {function.name}, {position}
def {function.name}(*arguments):
    results = _right(*arguments)
    return {f"(*results[:i], {result}, *results[i + 1:])" if many else result}
"""
                result = graded(each.name, course.solution(each.name) + source)[function.name]
                unchanged = odd.endswith(".T") and shape in ("", "H", "3*H")
                assert result.status == ("passed" if unchanged else "failed"), (each.name, name)
                assert unchanged or result.message.startswith((name, "returns None"))


def test_missing_and_unwritten_functions():
    results = graded("rnn", planted("rnn", ("def rnn_backward", "def backward")))
    assert [result.status for result in results.values()] == ["passed", "missing"]
    assert results["rnn_backward"].lines(12) == ["rnn_backward  is missing"]
    results = graded("rnn", planted("rnn", ("    states = [h_0]\n", "    return h_0[9]\n")))
    assert [result.status for result in results.values()] == ["error", "skipped"]
    assert results["rnn_backward"].lines(12) == [
        "rnn_backward  was not checked: rnn_forward comes first"
    ]


# Files, in processes of their own


IN_A_PROCESS = {
    "a loop": (ONE + "while True: pass", "still running after 1 s, in line 2: does a loop"),
    "a loop, loading": ("while True: pass\n" + ONE + "pass", "still loading the file after 1 s"),
    "memory": (ONE + "return [bytes(2**30) for _ in range(99)]", "MemoryError in line 2"),
    "exit": ("import sys\nsys.exit(0)\n" + ONE + "pass", "cannot load the file: ends the program"),
    "_exit, loading": (
        "import os\nos._exit(0)\n" + ONE + "pass",
        "the process ended while the file was loaded, with status 0",
    ),
    "_exit": (
        "import os\n" + ONE + "os._exit(0)",
        "the process ended, with status 0: is there an os._exit?",
    ),
    "killed": (
        "import os\n" + ONE + "os.kill(os.getpid(), 9)",
        "the process was killed, by signal 9",
    ),
    "input": ("n = input()\n" + ONE + "pass", "cannot load the file: EOFError in line 1"),
    "an import": (
        "import no_such_module\n" + ONE + "pass",
        "ModuleNotFoundError in line 1: No module named 'no_such_module'",
    ),
    "interrupt": ("raise KeyboardInterrupt\n" + ONE + "pass", "KeyboardInterrupt in line 1"),
    "unwritten": ("raise NotImplementedError\n" + ONE + "pass", "outside of a function"),
    "another NumPy": (
        "import numpy as np\nnp.allclose = lambda *a, **k: True\n" + ONE + "return indices",
        "the file replaces numpy.allclose, which checking needs: leave that out",
    ),
    "another NumPy, later": (
        "import numpy as np\n" + ONE + "np.allclose = lambda *a, **k: True\n    return 0",
        "the file replaces numpy.allclose",
    ),
    "cheating": (
        'print(\'loaded\\n{"status": "passed"}\\n1 of 1 passed\' * 10000)\n' + ONE + "return 0",
        "vectors has shape ()",
    ),
}


@pytest.mark.parametrize("kind", IN_A_PROCESS)
def test_what_a_file_does_to_its_process_has_its_sentence(kind, tmp_path, capfd):
    if kind == "memory" and not sys.platform.startswith("linux"):
        pytest.skip("the limit is kept on Linux")
    source, sentence = IN_A_PROCESS[kind]
    report = checked(tmp_path, source, time_limit=1 if "loop" in kind else 20)
    assert not report.passed
    told = " ".join(str(report).split())
    assert sentence in told
    assert told.startswith("one_hot fails")
    assert told.endswith("0 of 1 passed")
    assert capfd.readouterr() == ("", "")


FILES = {
    b"def one_hot(indices)\n    pass": "learner.py, line 1: expected ':'",
    b"# caf\xe9\n": "is not UTF-8 text (line 1): save it as UTF-8",
    b"x = 1\0": "is not a Python file: it holds null bytes",
    b"x = 1\n": "defines none of the exercises' functions: one_hot, rnn_step_forward,",
    b"": "defines none of the exercises' functions",
}


@pytest.mark.parametrize("content", FILES)
def test_a_file_without_functions_to_check(content, tmp_path):
    path = tmp_path / "learner.py"
    path.write_bytes(content)
    report = course.check(path)
    assert not report.passed
    assert report.results == ()
    assert FILES[content] in report.error
    assert json.loads(report.to_json())["error"] == report.error


def test_a_file_that_cannot_be_read(tmp_path):
    assert course.check(tmp_path / "none.py").error.endswith("none.py: No such file or directory")
    assert course.check(tmp_path).error.endswith(": Is a directory")


def test_several_exercises_and_files_of_any_name(tmp_path):
    (tmp_path / "helper.py").write_text("def climb(W, g, lr):\n    return W + lr * g")
    path = tmp_path / "my work"
    sgd = planted("sgd", ("value - lr * grads[name]", "climb(value, grads[name], lr)"))
    path.write_text(course.solution("one_hot") + "\nfrom helper import climb\n" + sgd, "utf-8")
    report = course.check(str(path))
    assert [result.status for result in report.results] == ["passed", "failed"]
    assert "it climbs" in str(report)
    assert str(report).endswith("\n1 of 2 passed")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["helper.py", "my work"]


def test_a_name_may_be_given_to_a_function_by_assignment_and_a_docstring_hold_backslashes(tmp_path):
    report = checked(tmp_path, 'def f(i, n):\n    "\\d"\n    return i\n\none_hot = f\n')
    assert [result.function for result in report.results] == ["one_hot"]


def test_an_edit_within_the_same_second_counts(tmp_path):
    wrong = planted("sgd", ("value - lr", "value + lr"))
    assert not checked(tmp_path, wrong).passed
    assert checked(tmp_path, course.solution("sgd")).passed


def test_the_time_limit_is_checked(tmp_path):
    for limit in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="time_limit must be a number in"):
            course.check(tmp_path, time_limit=limit)


def test_without_hypothesis_there_is_a_hint(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"^checking needs the package hypothesis: pip install"):
        course.check(tmp_path)


# Reports


def test_json_says_what_the_report_says(tmp_path):
    source = planted("rnn", ("carried = d_a[t] @ W_hh", "carried = d_a[t] @ W_hh.T"))
    report = checked(tmp_path, source)
    told = json.loads(report.to_json())
    assert told == report.to_dict()
    assert set(told) == {"file", "passed", "error", "results"}
    assert told["passed"] is False
    assert told["error"] is None
    forward, backward = told["results"]
    assert forward == {
        "exercise": "rnn",
        "function": "rnn_forward",
        "status": "passed",
        "message": "",
        "case": None,
        "diagnosis": [],
    }
    assert backward["status"] == "failed"
    assert backward["case"] == {"T": 1, "B": 1, "I": 1, "H": 2, "seed": 0}
    assert backward["diagnosis"][0]["name"] == "the transpose of W_hh is missing"
    assert str(report) == textwrap.dedent("""\
        rnn_forward   passes
        rnn_backward  fails
          d_h_0: 2 of 2 entries wrong, worst at (0, 0): yours -0.9235, right -0.6687
          smallest failing case: T=1, B=1, I=1, H=2, seed 0; its arrays:
            nprnn.course.case("rnn", T=1, B=1, I=1, H=2, seed=0)
          this explains it:
          - the transpose of W_hh is missing
              d_h_(t-1) = W_hhᵀ d_a_t + d_output_(t-1)
        1 of 2 passed""")


def test_a_report_without_results_has_not_passed():
    assert not Report("file").passed


# Exercises


@pytest.mark.parametrize("name", NAMES)
def test_a_template_holds_descriptions_and_no_code(name, tmp_path):
    path = course.start(name, tmp_path / "new" / "folder")
    text = path.read_text("utf-8")
    assert text == template(name)
    assert all(len(line) <= 80 for line in text.splitlines())
    description, imported, *functions = ast.parse(text).body
    assert f"nprnn exercise check {name}.py" in description.value.value
    assert ast.unparse(imported) == "import numpy as np"
    assert [each.name for each in functions] == [each.name for each in exercise(name).functions]
    for function, known in zip(functions, exercise(name).functions, strict=True):
        docstring, body = function.body
        assert "Returns\n-------" in inspect.cleandoc(docstring.value.value)
        assert ast.unparse(body) == "raise NotImplementedError"
        assert [argument.arg for argument in function.args.args] == list(known.arguments)
    results = graded(name, text)
    assert statuses(results.values()) == {"not_written"}
    with pytest.raises(FileExistsError, match="is there already and was left as it is"):
        course.start(name, tmp_path / "new" / "folder")
    assert path.read_text("utf-8") == text


def test_a_template_can_be_checked(tmp_path):
    report = course.check(course.start("gru_step", tmp_path))
    assert str(report) == textwrap.dedent("""\
        gru_step_forward   is not written yet
        gru_step_backward  is not written yet
        0 of 2 passed""")


def test_a_file_cannot_be_written_into_a_file(tmp_path):
    path = course.start("sgd", tmp_path)
    with pytest.raises(NotADirectoryError, match="is a file, not a folder"):
        course.start("one_hot", path)


@pytest.mark.parametrize("name", NAMES)
def test_solutions_are_short_and_their_lines_too(name):
    lines = course.solution(name).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 85
    assert len(exercise(name).title) <= 57


def test_unknown_names_and_sizes_are_refused():
    for call in (course.solution, course.start, course.case):
        with pytest.raises(ValueError, match="there is no exercise 'lstm'; there are one_hot, "):
            call("lstm")
    with pytest.raises(ValueError, match="one_hot has the sizes T, B, V; got T"):
        course.case("one_hot", T=1)
    with pytest.raises(ValueError, match="T must be at least 1, got 0"):
        course.case("one_hot", T=0, B=1, V=1)


def test_the_solutions_agree_with_the_library():
    i = course.case("rnn", T=4, B=3, I=2, H=5)
    solution = importlib.import_module("nprnn.course.solutions.rnn")
    layer = nprnn.RNN(2, 5, dtype=np.float64, rng=0).with_params(
        {"weight_ih_l0": i["W_ih"], "weight_hh_l0": i["W_hh"], "bias_ih_l0": i["b"],
         "bias_hh_l0": 0 * i["b"]}
    )  # fmt: skip
    output, _, cache = layer.forward(i["x"], i["h_0"][None])
    d_x, d_state, grads = layer.backward(i["d_h"], None, cache)
    h, cache = solution.rnn_forward(i["x"], i["h_0"], i["W_ih"], i["W_hh"], i["b"])
    np.testing.assert_allclose(h, output, rtol=1e-12)
    expected = [d_x, d_state[0], *(grads[f"{k}_l0"] for k in ("weight_ih", "weight_hh", "bias_ih"))]
    for one, other in zip(solution.rnn_backward(i["d_h"], cache), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    i = course.case("softmax_cross_entropy", T=4, B=3, V=5, scale=1000)
    solution = importlib.import_module("nprnn.course.solutions.softmax_cross_entropy")
    for one, other in zip(
        solution.softmax_cross_entropy(**i), nprnn.softmax_cross_entropy(**i), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)


def test_the_gradients_of_the_gru_are_those_of_its_loss():
    i = course.case("gru_step", B=3, I=2, H=4)
    solution = importlib.import_module("nprnn.course.solutions.gru_step")
    d_h = i.pop("d_h_next")
    _, cache = solution.gru_step_forward(**i)
    gradients = solution.gru_step_backward(d_h, cache)
    nprnn.gradcheck.check_gradients(
        lambda params: (solution.gru_step_forward(**params)[0] * d_h).sum(),
        i,
        dict(zip(i, gradients, strict=True)),
        method="complex",
    )


def test_the_course_is_loaded_when_it_is_asked_for():
    code = """
import sys, nprnn
assert 'nprnn.course' not in sys.modules
assert 'one_hot' in nprnn.course.exercises()
assert 'hypothesis' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_functions_are_documented():
    for name in course.__all__:
        assert re.search(r"\n +Parameters\n|Examples", getattr(course, name).__doc__), name
