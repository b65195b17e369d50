"""The sampler: which tokens it keeps, and how often it draws each of them."""

import numpy as np
import pytest

from blocks2tokens import Sampler


def logits_of(*probabilities):
    """Return logits, float32, whose softmax is the probabilities; any number may be added to all of them."""
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities)).astype(np.float32) + np.float32(3)


def drawn(sampler, logits, n=400, history=()):
    return {sampler(logits, history) for _ in range(n)}


def chi_square(counts, probabilities):
    expected = sum(counts) * np.asarray(probabilities)
    return float(np.sum((counts - expected) ** 2 / expected))


# --- Greedy -----------------------------------------------------------------------------------------------


def test_the_default_takes_the_largest_logit_and_the_first_of_equal_ones():
    sampler = Sampler()
    assert sampler(np.array([0.1, 2.0, -3.0], np.float32)) == 1
    assert sampler(np.array([-5.0, 2.0, 2.0, 1.0, 2.0], np.float32)) == 1
    assert sampler(np.array([-np.inf, -7.0, -np.inf], np.float32)) == 1
    assert type(sampler(np.array([1.0], np.float32))) is int


def test_greedy_ignores_what_it_could_have_kept():
    logits = logits_of(0.1, 0.2, 0.4, 0.3)
    assert drawn(Sampler(temperature=0, top_k=4, top_p=1.0), logits) == {2}


# --- What is no input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("logits", [[1, 2], np.arange(3), np.zeros(3, np.uint8), [True], ["1"], [1j]])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_no_floats_are_refused(logits, temperature):
    with pytest.raises(ValueError, match="logits: expected floating-point numbers, got "):
        Sampler(temperature, seed=1)(logits)


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([0, 3], "expected 0 <= id < 3, got 3"),
        ([-1], "expected 0 <= id < 3, got -1"),
        ([1.0], "expected token ids in one dimension"),
        ([[1, 2]], "expected token ids in one dimension"),
        (["a"], "expected token ids in one dimension"),
    ],
)
def test_tokens_so_far_without_a_logit_are_refused(history, message):
    with pytest.raises(ValueError, match=f"history: {message}"):
        Sampler(repetition_penalty=1.5)(np.zeros(3, np.float32), history)


# --- Temperature ------------------------------------------------------------------------------------------

PROBABILITIES = np.array([0.4, 0.05, 0.25, 0.1, 0.15, 0.05])


def tempered(probabilities, temperature):
    powers = np.asarray(probabilities) ** (1 / temperature)
    return powers / powers.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_the_temperature_says(temperature):
    sampler, logits = Sampler(temperature=temperature, seed=1), logits_of(*PROBABILITIES)
    counts = np.bincount([sampler(logits) for _ in range(6000)], minlength=6)
    limit = 20.5  # 5 degrees of freedom: chance exceeds it once in a thousand seeds
    assert chi_square(counts, tempered(PROBABILITIES, temperature)) < limit
    for other in {0.5, 1.0, 2.0, temperature * 1.3} - {temperature}:
        assert chi_square(counts, tempered(PROBABILITIES, other)) > limit


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 5e-324])
def test_a_tiny_temperature_is_greedy(temperature):
    assert drawn(Sampler(temperature=temperature, seed=1), logits_of(0.2, 0.5, 0.3), n=50) == {1}


def test_a_huge_temperature_draws_all_alike():
    sampler, logits = Sampler(temperature=1e9, seed=2), logits_of(0.9989, 0.001, 0.0001)
    counts = np.bincount([sampler(logits) for _ in range(3000)], minlength=3)
    assert chi_square(counts, [1 / 3] * 3) < 13.8


def test_a_logit_of_minus_infinity_is_never_drawn():
    logits = logits_of(0.5, 0.0, 0.5, 0.0)
    assert drawn(Sampler(temperature=50.0, seed=3), logits) == {0, 2}
    assert drawn(Sampler(temperature=50.0, top_k=3, top_p=0.99, seed=3), logits) == {0, 2}


# --- What is kept -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top_k", "kept"),
    [
        (1, {3}),
        (2, {3, 0}),
        (3, {3, 0, 5}),
        (5, {3, 0, 5, 1, 2}),
        (6, set(range(6))),
        (0, set(range(6))),
        (99, set(range(6))),
    ],
)
def test_top_k_keeps_the_k_most_likely(top_k, kept):
    logits = logits_of(0.25, 0.1, 0.05, 0.3, 0.04, 0.2)
    assert drawn(Sampler(temperature=5.0, top_k=top_k, seed=4), logits) == kept


def test_of_equal_tokens_top_k_keeps_the_first():
    assert drawn(Sampler(temperature=1.0, top_k=2, seed=5), np.zeros(5, np.float32)) == {0, 1}


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (1e-9, {2}),
        (0.4, {2}),
        (0.6, {2, 0}),
        (0.74, {2, 0}),
        (0.76, {2, 0, 3}),
        (0.87, {2, 0, 3}),
        (0.89, {2, 0, 3, 1}),
        (0.9999999, {0, 1, 2, 3}),
        (1.0, {0, 1, 2, 3}),
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 8.0])
def test_top_p_keeps_the_fewest_that_reach_p_whatever_the_temperature(top_p, kept, temperature):
    sampler = Sampler(temperature=temperature, top_p=top_p, seed=6)
    assert drawn(sampler, logits_of(0.25, 0.12, 0.5, 0.13)) == kept


def test_top_p_stops_at_what_reaches_it_exactly():
    assert drawn(Sampler(temperature=1.0, top_p=0.5, seed=7), np.zeros(4, np.float32)) == {0, 1}


def test_top_p_counts_what_top_k_left():
    logits = logits_of(0.4, 0.3, 0.2, 0.1)  # the first of two has 4/7
    assert drawn(Sampler(temperature=5.0, top_k=2, top_p=0.5, seed=8), logits) == {0}
    assert drawn(Sampler(temperature=5.0, top_k=2, top_p=0.6, seed=8), logits) == {0, 1}


def test_what_is_kept_is_drawn_in_proportion():
    sampler = Sampler(temperature=1.0, top_k=3, seed=9)
    counts = np.bincount([sampler(logits_of(0.1, 0.4, 0.3, 0.2)) for _ in range(4000)], minlength=4)
    assert counts[0] == 0 and chi_square(counts[1:], [4 / 9, 3 / 9, 2 / 9]) < 13.8


# --- Repetition -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "history", "penalty", "choice"),
    [
        ([2.0, 1.5], [0], 1.2, 0),  # 1.67
        ([2.0, 1.5], [0], 1.5, 1),  # 1.33
        ([2.0, 1.5], [1], 1.5, 0),
        ([-1.0, -1.3], [0], 1.2, 0),  # -1.2
        ([-1.0, -1.3], [0], 1.5, 1),  # -1.5
        ([2.0, 1.5], [0, 0, 0, 0], 1.2, 0),  # once, however often it was seen
        ([2.0, 1.5], [], 9.0, 0),
        ([2.0, 2.5], [0], 0.5, 0),  # below 1: 4
        ([-2.0, -1.5], [0], 0.5, 0),  # -1
        ([-np.inf, -9.0], [0, 1], 1.5, 1),
        ([2.0, 1.5, 1.4], [0, 1], 1.5, 2),
    ],
)
def test_tokens_seen_before_become_less_likely(logits, history, penalty, choice):
    assert Sampler(repetition_penalty=penalty)(np.array(logits, np.float32), history) == choice


@pytest.mark.parametrize(("window", "choice"), [(1, 0), (2, 0), (3, 1), (100, 1)])
def test_only_the_last_tokens_count_as_seen(window, choice):
    sampler = Sampler(repetition_penalty=2.0, repetition_window=window)
    assert sampler(np.array([2.0, 1.5, 0.0], np.float32), [0, 2, 2]) == choice


def test_the_penalty_comes_before_the_choice_of_what_to_keep():
    sampler = Sampler(temperature=1.0, top_k=1, repetition_penalty=2.0, seed=10)
    assert drawn(sampler, np.array([2.0, 1.5], np.float32), history=[0]) == {1}


def test_logits_and_history_are_left_as_they_were():
    logits, history = np.array([2.0, 1.5, -3.0], np.float32), [0, 2]
    Sampler(temperature=1.0, top_k=2, top_p=0.9, repetition_penalty=2.0, seed=11)(logits, history)
    assert logits.tolist() == [2.0, 1.5, -3.0] and history == [0, 2]
    logits.flags.writeable = False
    Sampler(repetition_penalty=2.0)(logits, history)


# --- Seeds ------------------------------------------------------------------------------------------------


def test_a_seed_repeats_its_choices_and_no_seed_does_not():
    def choices(seed):
        sampler = Sampler(temperature=1.0, seed=seed)
        return [sampler(np.zeros(1000, np.float32)) for _ in range(20)]

    assert choices(1) == choices(1) != choices(2)
    assert choices(None) != choices(None)


def test_one_sampler_goes_on_and_does_not_start_again():
    sampler = Sampler(temperature=1.0, seed=1)
    first, second = ([sampler(np.zeros(1000, np.float32)) for _ in range(20)] for _ in range(2))
    assert first != second


# --- What is refused --------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-0.1, NAN, INF, -INF]),
        ("top_k", [-1, 1.5, 2.0, NAN, INF, "2", None]),
        ("top_p", [0, -0.5, 1.0001, NAN, INF]),
        ("repetition_penalty", [0, -1.0, NAN, INF]),
        ("repetition_window", [0, -1, 1.5, INF, None]),
        ("seed", [-1]),
    ],
)
def test_bad_settings_are_refused(name, values):
    for value in values:
        with pytest.raises(ValueError, match="expected" if name == "seed" else f"{name}: expected .* got "):
            Sampler(**{name: value})


@pytest.mark.parametrize(
    "sampler", [Sampler(), Sampler(temperature=1.0, top_p=0.9, seed=0)], ids=["greedy", "draw"]
)
@pytest.mark.parametrize(
    "logits",
    [[1.0, NAN, 2.0], [NAN], [1.0, INF], [-INF, -INF], [], [[1.0, 2.0]], 1.0],
    ids=str,
)
def test_logits_without_a_most_likely_token_are_refused(sampler, logits):
    with pytest.raises(ValueError, match="logits: expected one dimension and a finite largest value"):
        sampler(np.array(logits, np.float32))
