"""Optimizers, schedules and averages of PyTorch beside those here, where PyTorch is installed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_optim import PATH, STEPS, draw_problem, record, torch_run
from record_torch import load
from test_torch_live import assert_near
from test_torch_reference import assert_same

import nprnn
from nprnn.schedules import cosine, exponential, step_decay, warm_up
from nprnn.testing import seeds

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

POSITIVE = st.sampled_from([0.0, 0.01, 0.3])
OPTIONS = {
    "SGD": {"momentum": st.sampled_from([0.0, 0.5, 0.9]), "weight_decay": POSITIVE},
    "Adagrad": {
        "lr_decay": POSITIVE,
        "weight_decay": POSITIVE,
        "initial_accumulator_value": POSITIVE,
        "eps": st.sampled_from([1e-10, 1e-2]),
    },
    "RMSprop": {
        "alpha": st.sampled_from([0.99, 0.5]),
        "eps": st.sampled_from([1e-8, 1e-2]),
        "weight_decay": POSITIVE,
        "momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "centered": st.booleans(),
    },
    "Adam": {
        "betas": st.sampled_from([(0.9, 0.999), (0.0, 0.5), (0.95, 0.7)]),
        "eps": st.sampled_from([1e-8, 1e-2]),
        "weight_decay": POSITIVE,
        "amsgrad": st.booleans(),
    },
}
OPTIONS["AdamW"] = OPTIONS["Adam"]


@st.composite
def runs(draw):
    name = draw(st.sampled_from(list(OPTIONS)))
    options = draw(st.fixed_dictionaries(OPTIONS[name]))
    if name == "SGD" and options["momentum"]:
        extra = st.sampled_from([{}, {"nesterov": True}, {"dampening": 0.3}])
        options |= draw(extra)
    return name, {"lr": draw(st.sampled_from([0.001, 0.01, 0.1]))} | options


@settings(max_examples=150, deadline=None)
@given(runs(), seeds, st.booleans())
def test_fifty_steps(run, seed, scheduled):
    name, options = run
    rng = np.random.default_rng(seed)
    start, grads = draw_problem(rng)
    if options["weight_decay"] and name not in ("SGD", "AdamW"):
        # With no gradient but the decay these go to 0 and around it in steps as if it were large,
        # and what a last bit does there grows without a bound. The record has such a run.
        for key in ("still", "late"):
            grads[key] = rng.normal(size=grads[key].shape)
    lrs = rng.uniform(0, 0.1, STEPS).tolist() if scheduled else []
    expected, expected_state = torch_run(name, options, start, grads, lrs)
    params = {key: np.array(value, np.float64) for key, value in start.items()}
    optimizer = getattr(nprnn, name)(params, **options)
    for step in range(STEPS):
        if scheduled:
            optimizer.lr = lrs[step]
        optimizer.step({key: np.array(g[step], np.float64) for key, g in grads.items()})
    # What is drawn is of the size of 1; a lone entry may come near 0, where rounding does not.
    assert_same(params, expected, 1e-12, floor=1.0)
    state = optimizer.state_dict()
    assert sorted(state) == sorted(expected_state)
    assert_same(state, {key: expected_state[key] for key in state}, 1e-12, floor=1.0)


def test_the_record_is_what_this_version_computes():
    """If this fails after a change of record_optim.py, run it; else PyTorch or NumPy changed."""
    assert_near(record(), load(PATH))


@pytest.mark.parametrize("name", ["Adagrad", "RMSprop", "Adam", "AdamW"])
def test_the_defaults_are_the_same(name):
    defaults = getattr(torch.optim, name)([torch.zeros(1)]).defaults
    ours = getattr(nprnn, name)({})
    for setting in ours.settings:
        assert getattr(ours, setting) == defaults[setting], setting


def torch_rates(make_schedulers, steps=60, lr=0.3):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    schedulers = [make(optimizer) for make in make_schedulers]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates


LR = torch.optim.lr_scheduler
RISE = {"start_factor": 1 / 9, "total_iters": 8}


@pytest.mark.parametrize(
    ("ours", "theirs", "steps"),
    [
        (exponential(0.3, 0.9), [lambda o: LR.ExponentialLR(o, 0.9)], 60),
        (step_decay(0.3, 7, 0.5), [lambda o: LR.StepLR(o, 7, 0.5)], 60),
        # After its end PyTorch's cosine rises again.
        (cosine(0.3, 59, 0.02), [lambda o: LR.CosineAnnealingLR(o, 59, 0.02)], 60),
        (
            warm_up(lambda step: 0.3, 9),
            [lambda o: LR.LinearLR(o, **RISE)],
            60,
        ),
        (
            warm_up(exponential(0.3, 0.9), 9),
            [lambda o: LR.LinearLR(o, **RISE), lambda o: LR.ExponentialLR(o, 0.9)],
            60,
        ),
    ],
)
def test_schedules(ours, theirs, steps):
    expected = torch_rates(theirs, steps)
    np.testing.assert_allclose([ours(t) for t in range(steps)], expected, rtol=1e-12)


def test_an_average_of_weights():
    """PyTorch's average starts as a copy at its first update; ours where it is made."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    module = torch.nn.Linear(3, 2, dtype=torch.float64)
    theirs = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    theirs.update_parameters(module)
    params = {name: p.detach().numpy() for name, p in module.named_parameters()}
    ours = nprnn.ExponentialMovingAverage(params, 0.8, bias_correction=False)
    rng = np.random.default_rng(0)
    for _ in range(20):
        for value in params.values():  # the memory is shared with the module
            value += rng.normal(size=value.shape)
        theirs.update_parameters(module)
        ours.update()
    expected = {name: p.detach().numpy() for name, p in theirs.module.named_parameters()}
    assert_same(ours.params, expected, 1e-14)


def ours_and_theirs(name, **options):
    p = torch.zeros(2)
    return (
        lambda: getattr(torch.optim, name)([p], **options),
        lambda: getattr(nprnn, name)({"p": p.numpy()}, **options),
    )


@pytest.mark.parametrize(
    "calls",
    [
        ours_and_theirs(name, **options)
        for name, settings_ in {
            "Adagrad": ["lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"],
            "RMSprop": ["lr", "alpha", "eps", "weight_decay", "momentum"],
            "Adam": ["lr", "eps", "weight_decay"],
            "AdamW": ["lr", "eps", "weight_decay"],
        }.items()
        for options in [{setting: -0.1} for setting in settings_]
    ]
    + [ours_and_theirs(n, betas=b) for n in ("Adam", "AdamW") for b in [(1.0, 0.9), (0.9, -0.1)]],
)
def test_what_torch_refuses_is_refused(calls):
    for call in calls:
        with pytest.raises(ValueError, match="0"):
            call()
