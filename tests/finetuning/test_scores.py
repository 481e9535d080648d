"""Scores, beside scikit-learn's, beside sacrebleu's, and beside formulas written down slowly."""

import math
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF
from sklearn import metrics

from gptlab.finetuning.scores import BINS, Classification, of_texts

WORDS = st.lists(st.sampled_from(["the", "fox", "a", "bell", "saw", "lost", "river", "in"]), min_size=4, max_size=12)
TEXTS = WORDS.map(" ".join)


@st.composite
def classifications(draw: st.DrawFn) -> Classification:
    """Labels that never occur, or are never given, included; probabilities round or not, ties among them."""
    K, N = draw(st.integers(2, 6)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    some = draw(st.lists(st.integers(0, K - 1), min_size=1))
    scores = rng.random((N, K)) ** draw(st.sampled_from([0, 1, 4, 20])) + 1e-9
    if draw(st.booleans()):
        scores[:, draw(st.integers(0, K - 1))] = 0  # never given, unless all are
        scores += 1e-12
    if draw(st.booleans()):
        scores = np.round(scores, 1) + 0.1
    return Classification(tuple("abcdef"[:K]), scores / scores.sum(1, keepdims=True), rng.choice(some, N))


@settings(max_examples=300)
@given(found=classifications())
def test_as_scikit_learn(found: Classification) -> None:
    """Accuracy, the confusion matrix, precision, recall and F1 of each label, and F1's mean over those that occur."""
    truth, guess, numbers = found.truth, found.probabilities.argmax(1), range(len(found.labels))
    assert found.given.tolist() == guess.tolist()
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, guess))
    assert found.confusion.tolist() == metrics.confusion_matrix(truth, guess, labels=numbers).tolist()
    each = metrics.precision_recall_fscore_support(truth, guess, labels=numbers, zero_division=0)
    for ours, theirs in zip((found.precision, found.recall, found.f1), each, strict=False):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert found.macro_f1 == pytest.approx(metrics.f1_score(truth, guess, average="macro", zero_division=0))
    assert found.told() == {
        "accuracy": found.accuracy,
        "macro_f1": found.macro_f1,
        "calibration_error": found.calibration_error,
    }


@settings(max_examples=300)
@given(found=classifications())
def test_calibration_beside_a_slow_twin(found: Classification) -> None:
    """Each tenth's examples counted one by one; the error is the mean, over examples, of the gap in their tenth."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, truth in zip(found.probabilities.tolist(), found.truth.tolist(), strict=True):
        tenth = min(math.floor(max(row) * BINS), BINS - 1)
        bins.setdefault(tenth, []).append((max(row), row.index(max(row)) == truth))
    gap, rows = 0.0, []
    for _, members in sorted(bins.items()):
        confidence = sum(p for p, _ in members) / len(members)
        share = sum(right for _, right in members) / len(members)
        rows.append((len(members), confidence, share))
        gap += abs(confidence - share) * len(members) / len(found.truth)
    np.testing.assert_allclose(found.calibration, rows, atol=1e-12)
    assert found.calibration_error == pytest.approx(gap)
    assert 0 <= found.calibration_error <= 1


@given(rights=st.lists(st.tuples(st.integers(11, 20), st.integers(1, 3)), min_size=1, unique_by=lambda pair: pair[0]))
def test_who_is_calibrated_has_no_error(rights: list[tuple[int, int]]) -> None:
    """Of those said to be right with probability k/20, k of every 20 are."""
    probabilities, truth = [], []
    for k, times in rights:
        probabilities += [[k / 20, 1 - k / 20]] * 20 * times
        truth += ([0] * k + [1] * (20 - k)) * times
    found = Classification(("a", "b"), np.array(probabilities), np.array(truth))
    assert found.calibration_error == pytest.approx(0, abs=1e-12)
    assert found.calibration[:, 0].sum() == len(truth)


def test_who_is_sure_and_wrong() -> None:
    """Everything is 0, but for the calibration error, which is 1, the greatest there can be."""
    found = Classification(("a", "b", "never"), np.array([[1.0, 0, 0], [0, 1.0, 0]]), np.array([1, 0]))
    assert found.told() == {"accuracy": 0, "macro_f1": 0, "calibration_error": 1}
    assert found.precision.tolist() == found.recall.tolist() == found.f1.tolist() == [0, 0, 0]
    assert found.calibration.tolist() == [[2, 1, 0]]


# Texts


@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_the_same_texts(texts: list[str]) -> None:
    """What is as wanted has all there is to have."""
    assert of_texts(texts, texts) == {"exact": 1, "bleu": pytest.approx(100), "chrf": pytest.approx(100)}


@given(pairs=st.lists(st.tuples(TEXTS | st.just(""), TEXTS), min_size=1, max_size=5))
def test_as_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    """sacrebleu's numbers at its own defaults, and the share of texts that are exactly the same."""
    written, wanted = map(list, zip(*pairs, strict=True))
    found = of_texts(tuple(written), tuple(wanted))
    assert found["exact"] == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(written, [wanted]).score)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(written, [wanted]).score)


def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
def test_bleu_by_its_formula(pairs: list[tuple[str, str]]) -> None:
    """exp(min(0, 1 - r / c)) times the geometric mean of the clipped precisions of 1 to 4 words: what was written is
    beside what was wanted, and not the other way round."""
    pairs = [*pairs, ("the fox saw a bell in", "the fox saw a bell in the river")]  # so that none is 0
    precisions = []
    for n in range(1, 5):
        found = [(grams(a, n) & grams(b, n)).total() for a, b in pairs]
        precisions.append(sum(found) / sum(grams(a, n).total() for a, _ in pairs))
    lengths = [sum(len(texts[side].split()) for texts in pairs) for side in (0, 1)]
    expected = 100 * math.exp(min(0, 1 - lengths[1] / lengths[0])) * math.prod(precisions) ** 0.25
    written, wanted = zip(*pairs, strict=True)
    assert of_texts(written, wanted)["bleu"] == pytest.approx(expected)


def test_without_sacrebleu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs no package is there without it."""
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert of_texts(["a", "b", "c", "d"], ["a", "b", "c", "x"]) == {"exact": 0.75}


def test_as_many_texts_as_wanted() -> None:
    with pytest.raises(ValueError):
        of_texts(["a"], ["a", "b"])
