"""Lines of text as samples: vocabulary, padding, one-hot batches, and a training step on them."""

import hashlib
import os

import pytest
import torch

from wgangp_fast.errors import UserError
from wgangp_fast.training import Config, data, models
from wgangp_fast.training.data import text
from wgangp_fast.training.data.text import EMBEDDED, SHOWN, Lines, load_lines
from wgangp_fast.training.parallel import Group
from wgangp_fast.training.trainer import Trainer

SOME = ["abca", "", "bb", "  ", "aacdefgh"]


pytestmark = pytest.mark.usefixtures("one_thread")


def test_vocabulary_cut_and_padding():
    lines = Lines("some", SOME, length=5)
    # a 4 and 1 + 3 of padding, b 3, c 2, d and e once; equals by code point, where the back-tick is before a.
    assert lines.vocabulary == ("unk", "`", "a", "b", "c", "d", "e")
    assert lines.codes.tolist() == [[2, 3, 4, 2, 1], [3, 3, 1, 1, 1], [2, 2, 4, 5, 6]]
    assert (lines.size, lines.shape) == (3, (7, 5))
    assert lines.decode(lines.codes) == ["abca", "bb", "aacde"]
    assert torch.equal(lines.encode(SOME[::2]), lines.codes.long())
    digest = hashlib.sha256(b"abca\nbb\naacde").hexdigest()
    assert lines.sha256 == digest
    assert lines.name == f"some (sha256 {digest[:8]})"


def test_rare_characters_become_unk():
    lines = Lines("some", SOME, length=5, most=4)
    assert lines.vocabulary == ("unk", "`", "a", "b")
    assert lines.codes.tolist() == [[2, 3, 0, 2, 1], [3, 3, 1, 1, 1], [2, 2, 0, 0, 0]]
    assert lines.decode(lines.codes)[2] == "aa" + 3 * SHOWN
    assert lines.encode(["zb☃"]).tolist() == [[0, 3, 0, 1, 1]]


def test_batches_are_one_hot():
    lines = Lines("some", [f"{a}{b}" for a in "abcd" for b in "xyz"], length=3)
    batches = data.Batches(lines, 5, seed=3)
    x = batches(1)
    assert (x.dtype, tuple(x.shape)) == (torch.float32, (5, *lines.shape))
    assert torch.equal(x.sum(1), torch.ones(5, 3))
    assert torch.equal(x.argmax(1), lines.codes[batches.rows(1)].long())
    assert set(x.unique().tolist()) == {0.0, 1.0}
    # one pass shows every line once, but for the remainder
    seen = torch.cat([batches.rows(k) for k in range(2)])
    assert len(seen.unique()) == 10


def test_split_keeps_the_vocabulary_and_shares_no_line():
    lines = Lines("some", [f"line {i}" for i in range(30)])
    train, held = lines.split(7)
    assert (train.size, held.size, lines.size) == (23, 7, 30)
    assert train.vocabulary == held.vocabulary == lines.vocabulary
    kept, other = set(train.decode(train.codes)), set(held.decode(held.codes))
    assert not kept & other
    assert kept | other == {f"line {i}" for i in range(30)}
    for count in (0, 30):
        with pytest.raises(UserError, match="hold out"):
            lines.split(count)


def test_a_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("Grüße\r\nzw\rei\n\n\fdrei\nvier".encode())
    lines = load_lines(str(path))
    assert lines.decode(lines.codes) == ["Grüße", "zw\rei", "\fdrei", "vier"]
    assert lines.name.startswith("a.txt (sha256 ")


def test_lines_end_at_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("a\nb\nc\n")
    monkeypatch.setattr(text, "MOST_LINES", 2)
    assert load_lines(str(path)).size == 2


def test_files_that_are_no_text(tmp_path):
    for name, content, message in (
        ("empty", b"", "no lines"),
        ("blank", b"\n  \n", "no lines"),
        ("zeros", b"a\n\0\0\0", "zero bytes"),
        ("latin", b"caf\xe9\n", "UTF-8"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as found:
            load_lines(str(path))
        assert "\n" not in str(found.value)
    with pytest.raises(UserError, match="folder"):
        load_lines(str(tmp_path))
    with pytest.raises(UserError, match="no text file at"):
        load_lines(str(tmp_path / "absent"))
    if os.geteuid():
        path.chmod(0)
        with pytest.raises(UserError, match="cannot read"):
            load_lines(str(path))


def test_embedded_text():
    lines = load_lines()
    assert lines.name.startswith(EMBEDDED)
    assert lines.size is not None
    assert lines.size > 1000
    assert len(lines.vocabulary) < 200
    shown = lines.decode(lines.codes)
    assert any(line.startswith("The ") for line in shown)
    letters = sum(c.isalpha() or c == " " for line in shown for c in line)
    assert letters > 0.9 * sum(map(len, shown))


def test_the_trainer_takes_lines():
    lines = Lines("some", [f"{a}{b}{c}" for a in "abcd" for b in "xyz" for c in "pq"], length=4)
    train, held = lines.split(8)
    sizes = {"channels": lines.shape[0], "size": 4, "dim": 8, "depth": 1}
    networks = (
        models.build("language-critic", **sizes),
        models.build("language-generator", latent=5, **sizes),
    )
    config = Config(preset="digits", batch=8, latent=5, iters=2, n_critic=2, device="cpu")
    trainer = Trainer(config, train, held, Group(torch.device("cpu")), networks)
    before = [p.detach().clone() for p in trainer.generator.parameters()]
    trainer.iterate()
    assert torch.equal(trainer.last[0].argmax(1), train.codes[trainer.loader.batches.rows(1)].long())
    assert torch.allclose(trainer.last[1].sum(1), torch.ones(8, 4))
    trainer.iterate()
    assert trainer.finite()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.generator.parameters()))
    shown = lines.decode(trainer.held_out(0).argmax(1))
    assert sorted(shown) == sorted(held.decode(held.codes))
    trainer.close()
