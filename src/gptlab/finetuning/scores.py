"""How good answers are: of labels, and of texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10  # of confidence, in a calibration


@dataclass(frozen=True)
class Classification:
    """probabilities (N, K) that were given to K labels, and the true ones (N,), by number.

    confusion (K, K): how many examples of each true label (row) were given each label (column).
    """

    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]
    truth: NDArray[np.int64]

    @property
    def given(self) -> NDArray[np.int64]:
        return self.probabilities.argmax(1)

    @property
    def confusion(self) -> NDArray[np.int64]:
        K = len(self.labels)
        return np.bincount(self.truth * K + self.given, minlength=K * K).reshape(K, K)

    @property
    def accuracy(self) -> float:
        """The share of examples that were given their label."""
        return float((self.given == self.truth).mean())

    @property
    def precision(self) -> NDArray[np.float64]:
        """By label: of what was given it, the share that it is the label of; 0 where it was never given."""
        return np.diag(self.confusion) / np.maximum(1, self.confusion.sum(0))

    @property
    def recall(self) -> NDArray[np.float64]:
        """By label: of what it is the label of, the share that was given it; 0 where there is none."""
        return np.diag(self.confusion) / np.maximum(1, self.confusion.sum(1))

    @property
    def f1(self) -> NDArray[np.float64]:
        """By label: the harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN); 0 where all are 0."""
        both = self.confusion.sum(0) + self.confusion.sum(1)
        return 2 * np.diag(self.confusion) / np.maximum(1, both)

    @property
    def macro_f1(self) -> float:
        """The mean of F1 over the labels that occur, each counting alike, however rare."""
        there = (self.confusion.sum(0) + self.confusion.sum(1)) > 0
        return float(self.f1[there].mean())

    @property
    def calibration(self) -> NDArray[np.float64]:
        """(bins, 3): of the examples whose label was given with a probability in each tenth, how many they are, the
        mean of it, and the share that is right; rows of empty bins are left out."""
        confidence, right = self.probabilities.max(1), self.given == self.truth
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        rows = [(m.sum(), confidence[m].mean(), right[m].mean()) for b in range(BINS) if (m := bins == b).any()]
        return np.array(rows, np.float64).reshape(-1, 3)

    @property
    def calibration_error(self) -> float:
        """The mean difference of probability and share, over examples (ECE). Guo et al. 2017, arXiv 1706.04599."""
        n, confidence, right = self.calibration.T
        return float((n * abs(confidence - right)).sum() / n.sum())

    def told(self) -> dict[str, float]:
        return {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "calibration_error": self.calibration_error,
        }


def of_texts(written: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """Of texts that were written, beside those that were wanted: the share that is exactly these, and, where sacrebleu
    is installed, BLEU (Papineni et al. 2002) and chrF (Popović 2015), from 0 to 100."""
    found = {"exact": float(np.mean([a == b for a, b in zip(written, wanted, strict=True)]))}
    try:
        from sacrebleu import corpus_bleu, corpus_chrf
    except ImportError:
        return found
    references = [list(wanted)]
    bleu, chrf = corpus_bleu(list(written), references), corpus_chrf(list(written), references)
    return {**found, "bleu": float(bleu.score), "chrf": float(chrf.score)}
