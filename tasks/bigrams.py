"""Fits unigram and bigram models to a stream of tokens, as baselines for a language model."""

from __future__ import annotations

import numpy as np


class Bigrams:
    """Counts tokens and pairs of tokens in a stream."""

    def __init__(self, stream: np.ndarray, vocabulary: int):
        self.vocabulary = vocabulary
        self.singles = np.bincount(stream, minlength=vocabulary)
        codes = stream[:-1].astype(np.int64) * vocabulary + stream[1:]
        self.pairs, self.counts = np.unique(codes, return_counts=True)

    def successor(self) -> np.ndarray:
        """Finds the token that most often follows each token, [V].

        For a token that nothing follows, this is the most frequent token of the stream.
        """
        best = np.full(self.vocabulary, self.singles.argmax())
        # Of a token's pairs, the most frequent comes last and stays.
        order = np.argsort(self.counts, kind="stable")
        best[self.pairs[order] // self.vocabulary] = self.pairs[order] % self.vocabulary
        return best

    def losses(self, stream: np.ndarray) -> dict[str, np.ndarray]:
        """Computes the nats of each token of a stream but the first, by two models.

        The unigram model adds one to each count; the bigram model falls back on it as much as a
        token's followers vary (Witten & Bell 1991).
        """
        before, token = stream[:-1].astype(np.int64), stream[1:].astype(np.int64)
        single = (self.singles[token] + 1) / (self.singles.sum() + self.vocabulary)
        codes = before * self.vocabulary + token
        place = np.minimum(np.searchsorted(self.pairs, codes), len(self.pairs) - 1)
        seen = np.where(self.pairs[place] == codes, self.counts[place], 0)
        first = self.pairs // self.vocabulary
        followers = np.bincount(first, minlength=self.vocabulary)[before]
        total = np.bincount(first, self.counts, self.vocabulary)[before]
        known = (seen + followers * single) / np.maximum(total + followers, 1)
        return {"unigram": -np.log(single), "bigram": -np.log(np.where(total > 0, known, single))}
