"""n-gram divergences against counts by Counter, as the released code takes them."""

import math
from collections import Counter

import pytest
import torch

from wgangp_fast.training.metrics import ngrams
from wgangp_fast.training.metrics.ngrams import NGrams, ngram_js

pytestmark = pytest.mark.usefixtures("one_thread")


def counted(lines, n):
    return Counter(tuple(line[i : i + n]) for line in lines.tolist() for i in range(len(line) - n + 1))


def js_bits(a, b):
    """language_helpers.py, in a loop."""
    p, q = ({key: value / c.total() for key, value in c.items()} for c in (a, b))
    total = 0.0
    for key in p.keys() | q.keys():
        x, y = p.get(key, 0.0), q.get(key, 0.0)
        total += sum(v * math.log2(2 * v / (x + y)) / 2 for v in (x, y) if v)
    return total


def test_counts_and_divergence_against_a_loop():
    g = torch.Generator().manual_seed(0)
    a = torch.randint(0, 6, (40, 9), generator=g)
    b = torch.randint(1, 7, (25, 9), generator=g)
    for n in (1, 2, 3, 4):
        mine = NGrams(a, n, 7)
        counts = counted(a, n)
        digits = [tuple(int(key) // 7 ** (n - 1 - i) % 7 for i in range(n)) for key in mine.keys]
        assert set(digits) == set(counts)
        for key, share in zip(digits, mine.shares.tolist()):
            assert share == pytest.approx(counts[key] / counts.total(), rel=1e-12)
        assert mine.js(NGrams(b, n, 7)) == pytest.approx(js_bits(counts, counted(b, n)), rel=1e-10)
    assert ngram_js(a, b, 7, (1, 3)) == [
        pytest.approx(js_bits(counted(a, n), counted(b, n)), rel=1e-10) for n in (1, 3)
    ]


def test_ends_of_the_scale():
    a = torch.tensor([[1, 2, 1, 2]])
    assert NGrams(a, 2, 4).js(NGrams(a.repeat(5, 1), 2, 4)) == 0
    assert NGrams(a, 2, 4).js(NGrams(torch.tensor([[3, 3, 0, 0]]), 2, 4)) == 1
    # (1/2, 1/2) against (1, 0): the middle is (3/4, 1/4)
    wanted = (math.log2(2 / 3) / 2 + math.log2(2) / 2 + math.log2(4 / 3)) / 2
    assert NGrams(a, 1, 4).js(NGrams(torch.tensor([[1, 1]]), 1, 4)) == pytest.approx(wanted)


def test_no_ngram_crosses_lines():
    assert NGrams(torch.tensor([[0, 1], [2, 3]]), 2, 4).keys.tolist() == [0 * 4 + 1, 2 * 4 + 3]


def test_parts_of_many_lines_add_up(monkeypatch):
    lines = torch.randint(0, 5, (37, 8), generator=torch.Generator().manual_seed(1))
    whole = NGrams(lines, 3, 5)
    monkeypatch.setattr(ngrams, "LINES", 10)
    parts = NGrams(lines, 3, 5)
    assert torch.equal(whole.keys, parts.keys)
    assert torch.equal(whole.shares, parts.shares)


def test_large_vocabulary_keeps_ngrams_apart():
    lines = torch.tensor([[2047, 0, 2046, 2047], [2046, 2047, 0, 1]])
    assert len(NGrams(lines, 4, 2048).keys) == 2
    assert NGrams(lines[:1], 4, 2048).js(NGrams(lines[1:], 4, 2048)) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NGrams(torch.zeros(3, 4), 1, 5), "integers"),
        (lambda: NGrams(torch.zeros(0, 4, dtype=torch.int64), 1, 5), "integers"),
        (lambda: NGrams(torch.zeros(1, 4, dtype=torch.int64), 5, 5), "n must be"),
        (lambda: NGrams(torch.full((1, 4), 5), 1, 5), "outside"),
        (lambda: NGrams(torch.full((1, 4), -1), 1, 5), "outside"),
        (lambda: NGrams(torch.zeros(1, 9, dtype=torch.int64), 6, 2048), "63 bits"),
        (lambda: NGrams(torch.ones(1, 4).long(), 1, 5).js(NGrams(torch.ones(1, 4).long(), 2, 5)), "compare"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
