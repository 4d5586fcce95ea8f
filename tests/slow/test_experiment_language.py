"""The experiment ``language``: a smoke run, its measures against counts by hand, and its verdicts."""

import json
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from experiment_settings import smoke_run

from wgangp_fast.errors import UserError
from wgangp_fast.experiments import language
from wgangp_fast.experiments.cli import open_study, run
from wgangp_fast.experiments.study import SCALES
from wgangp_fast.training.data.text import Lines, load_lines


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, one_thread):
    study, results = smoke_run("language", tmp_path_factory.mktemp("language"))
    return study.path, results


def bits(a, b, n):
    """Divergence of the n-grams of two lists of strings, counted one by one."""
    p, q = (Counter(line[i : i + n] for line in x for i in range(len(line) - n + 1)) for x in (a, b))
    total = 0.0
    for gram in p.keys() | q.keys():
        x, y = p[gram] / p.total(), q[gram] / q.total()
        total += sum(v * math.log2(2 * v / (x + y)) / 2 for v in (x, y) if v)
    return total


def test_the_page_is_complete(smoke):
    folder, results = smoke
    page = (folder / "README.md").read_text()
    assert (folder / "language.png").stat().st_size > 10_000
    assert "](language.png)" in page
    assert page.count("~~~~") == 6
    assert all(line in page for line in results["numbers"]["samples"])
    assert [claim["held"] for claim in results["claims"]] == [None] * 4
    assert all("too few to tell" in claim["measured"] for claim in results["claims"])
    assert [row["critic"] for row in results["kernels"]] == ["language-critic, width 16"]
    assert results["kernels"][0]["path"] != "stock"


def test_reference_is_of_the_held_out_lines(smoke):
    _, results = smoke
    train, held = load_lines(most=32).split(128)
    for n in (1, 2):
        # one character for each code, unk among them, so that counts are of the same things
        texts = (
            ["".join(map(chr, row)) for row in held.codes.tolist()],
            ["".join(map(chr, row)) for row in train.codes.tolist()],
        )
        assert results["numbers"]["held-out lines"][f"js{n}"] == pytest.approx(bits(*texts, n), rel=1e-9)


def test_a_second_run_finds_everything_done(smoke, monkeypatch):
    folder, results = smoke
    monkeypatch.setattr(language.Measure, "__call__", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(
        "wgangp_fast.training.trainer.Trainer.iterate", lambda *_: pytest.fail("trained again")
    )
    run(open_study("language", "smoke", folder, device="cpu"))
    again = json.loads((folder / "results.json").read_text())
    assert again["numbers"] == results["numbers"]
    assert again["claims"] == results["claims"]


def test_measure_by_hand():
    train = Lines("some", ["the cat sat", "the dog ran"], length=11)
    measure = language.Measure(train)
    made = ["the cat dog", "tha dog ran"]
    found = measure(train.encode(made))
    for n in (1, 2, 3, 4):
        assert found[f"js{n}"] == pytest.approx(bits(made, ["the cat sat", "the dog ran"], n), rel=1e-9)
    assert found["words"] == pytest.approx(5 / 6)
    assert measure(train.encode(["a b", "xy"]))["words"] is None


def test_words():
    assert language.words(["it's 3rd_place: Grüße", "ab abc"]) == ["place", "Grüße", "abc"]


def test_orderless_has_the_letters_and_no_order():
    train = load_lines()
    torch.manual_seed(0)
    codes = language.orderless(train, 640)
    found, known = language.Measure(train)(codes), language.Measure(train)(train.codes[:640])
    assert codes.shape == (640, 32)
    assert found["js1"] < 0.01
    assert found["js2"] > 5 * known["js2"]


def test_a_text_of_the_user(tmp_path):
    path = tmp_path / "verses.txt"
    path.write_text("".join(f"line number {i} of this text\n" for i in range(200)))
    study = open_study("language", "smoke", tmp_path / "out", data=str(path), device="cpu")
    lines = language._lines(study)
    assert lines.name.startswith("verses.txt")
    assert lines.size == 200
    path.write_text("only one line\n")
    with pytest.raises(UserError, match="at least 80"):
        language._lines(study)


def test_paper_scale(tmp_path):
    study = open_study("language", "paper", tmp_path, device="cpu")
    with pytest.raises(UserError, match="Billion Word"):
        language.run(study)
    assert vars(study.settings).items() >= {
        "n_critic": 10, "lr": 1e-4, "batch": 64, "iters": 200_000, "vocabulary": 2048, "samples": 640,
    }.items()  # fmt: skip
    lines = Lines("some", [chr(97 + i) for i in range(18)])
    critic, generator = language._networks(study, lines)()
    counts = [sum(p.numel() for p in network.parameters()) for network in (critic, generator)]
    v = len(lines.vocabulary)
    assert counts == [13_129_217 + 512 * v, 15_225_856 + 513 * v]
    study = open_study("language", "smoke", tmp_path / "smoke", device="cpu")
    smaller = language._networks(study, lines)()[0]
    assert sum(p.numel() for p in smaller.parameters()) == 16 * v + 16 + 2 * (5 * 16 * 16 + 16) + 32 * 16 + 1
    assert set(language.SCALES) == set(SCALES)
    assert len({frozenset(values) for values in language.SCALES.values()}) == 1


def verdicts(tmp_path, last, gan=None, diverged=False):
    """What the claims say of rows that are made up."""
    study = open_study("language", "cpu", tmp_path, device="cpu")
    first = {"js1": 0.4, "js2": 0.8, "js3": 0.95, "js4": 1.0, "words": None, "largest": 0.1}
    gan = gan or {"js1": 0.5, "js2": 0.8, "js3": 0.9, "js4": 0.95}
    found = {
        "wgan-gp": SimpleNamespace(rows=[first, last], diverged=diverged),
        "gan": SimpleNamespace(rows=[first, gan], diverged=False),
    }
    random = {"js1": 0.0, "js2": 0.3, "js3": 0.7, "js4": 0.9, "words": 0.1}
    language._claims(study, found, {"random letters": random, "held out": random})
    return [claim["held"] for claim in study.claims]


def test_verdicts(tmp_path):
    good = {"js1": 0.05, "js2": 0.2, "js3": 0.5, "js4": 0.8, "words": 0.3, "largest": 0.95}
    assert verdicts(tmp_path, good) == [True] * 4
    assert verdicts(tmp_path, good | {"js1": 0.11}) == [False, True, True, True]
    assert verdicts(tmp_path, good | {"js4": 0.91}) == [True, False, True, True]
    assert verdicts(tmp_path, good | {"words": 0.19}) == [True, False, True, True]
    assert verdicts(tmp_path, good | {"words": None}) == [True, False, True, True]
    assert verdicts(tmp_path, good | {"largest": 0.89}) == [True, True, False, True]
    better = {"js1": 0.5, "js2": 0.19, "js3": 0.9, "js4": 0.9}
    assert verdicts(tmp_path, good, gan=better) == [True, True, True, False]
    assert verdicts(tmp_path, {"iteration": 5}, diverged=True) == [False] * 4
