"""What comes from somebody else is not run, does not leave its folder, and is escaped where it is shown."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import lsun_fixture as fixture
import numpy as np
import pytest
import torch
from lsun_fixture import quick
from test_report import Page, run_folder
from train_settings import small

from wgangp_fast import cli
from wgangp_fast.errors import UserError
from wgangp_fast.training import Config, checkpoint, train
from wgangp_fast.training.config import read_config
from wgangp_fast.training.data.sources import read_array
from wgangp_fast.training.metrics import weights
from wgangp_fast.training.metrics.features import Classifier
from wgangp_fast.training.report import write_report
from wgangp_fast.training.runs import open_run

lmdb = pytest.importorskip("lmdb")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small(iters=2, outdir=str(tmp_path_factory.mktemp("runs"))))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "00000-digits"))


class Calls:
    """An object whose pickle makes a file when it is loaded by a loader that runs what pickles name."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def commands(run: Path) -> list[list[str]]:
    return [
        ["train", "--resume", str(run), "--iters", "9"],
        ["sample", "--run", str(run), "--out", str(run.parent / "x.png")],
        ["eval", "--run", str(run), "--iteration", "2"],
    ]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_calls_anything_is_refused_uncalled_and_nobody_is_told_to_allow_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], legacy: bool
) -> None:
    (path,) = checkpoint.listing(run)
    state = {**checkpoint.load(path), "more": Calls(tmp_path / "called")}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    for command in commands(run):
        assert cli.main(command) == 2
        err = capsys.readouterr().err
        assert (
            "it is not a checkpoint of wgangp_fast, which holds nothing but tensors and plain values" in err
        )
        assert err.count("\n") == 1
        assert not any(word in err for word in ("weights_only", "trust", "option", "safe_globals"))
    assert not (tmp_path / "called").exists()
    torch.load(path, weights_only=False)  # the trap does work
    assert (tmp_path / "called").exists()


def test_other_files_in_a_checkpoints_place_are_called_what_they_are(run: Path) -> None:
    (path,) = checkpoint.listing(run)
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(path))  # torch: "use weights_only=False"
    with pytest.raises(UserError, match="it is not a checkpoint of wgangp_fast"):
        checkpoint.load(path)
    path.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match=r"it is damaged, or not a checkpoint of wgangp_fast$"):
        checkpoint.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"cannot read .*\(Is a directory\)"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iteration", "2"), ("iteration", None), ("shape", [1, -8, 8]), ("shape", "abc"), ("sums", [1]),
        ("seconds", {}), ("torch_random", torch.zeros(3)), ("critic", 7), ("critic_optimizer", []),
        ("average", None), ("rollbacks", "x"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_other_contents_gets_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], name: str, value: Any
) -> None:
    (path,) = checkpoint.listing(run)
    torch.save({**checkpoint.load(path), name: value}, path)
    codes = []
    for command in commands(run)[:2]:
        codes.append(cli.main(command))
        assert capsys.readouterr().err.count("\n") == (codes[-1] != 0)
    assert 2 in codes


def test_a_classifier_that_calls_anything_is_refused_uncalled(tmp_path: Path) -> None:
    torch.save({"format": Classifier.FORMAT, "state": Calls(tmp_path / "called")}, tmp_path / "c.pt")
    for read in (lambda p: weights.read(p, "x"), Classifier.load):
        with pytest.raises(UserError, match="not a file of weights") as caught:
            read(tmp_path / "c.pt")
        assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000, "[]", "7", "{half", '{"batch": "8"}', '{"batch": [8]}', '{"preset": []}',
        '{"data": 5}',
        '{"critic": null}', '{"lr": "fast"}', '{"iters": 1e400}', '{"batch": 8.5}', '{"graphs": "yes"}',
        '{"seed": -1}', '{"preset": "no such"}', '{"batch": 0}', '{"generator": "../../x"}',
    ],
    ids=lambda content: content[:20],
)  # fmt: skip
def test_settings_of_another_kind_are_refused_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    saved = json.loads((run / "config.json").read_text(encoding="utf-8"))
    whole = content if not content.startswith('{"') else json.dumps({**saved, **json.loads(content)})
    (run / "config.json").write_text(whole, encoding="utf-8")
    for command in commands(run):
        assert cli.main(command) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1, err


def test_settings_are_plain_values_of_known_names(run: Path) -> None:
    saved = json.loads((run / "config.json").read_text(encoding="utf-8"))
    extra = {**saved, "__class__": "os.system", "resume": "/elsewhere", "outdir": "/elsewhere", "force": True}
    (run / "config.json").write_text(json.dumps(extra), encoding="utf-8")
    assert not {"__class__", "resume", "force"} & set(read_config(run))
    config = Config(resume=str(run))
    assert config.outdir == str(run.parent)  # never where the file says
    assert open_run(run).iteration == 2


def test_statistics_of_another_kind_are_left_out(run: Path) -> None:
    with open(run / "stats.jsonl", "a", encoding="utf-8") as file:
        file.write('7\n{"iteration": "x"}\n{}\n' + "[" * 100_000 + "\n")
    train(Config(resume=str(run), iters=3))


@pytest.mark.parametrize(
    "change",
    [
        {"count": -1}, {"count": True}, {"channels": "3"}, {"size": 0}, {"digests": [7]}, {"digest_rows": -4},
        {"labels_digest": 7}, {"request": []}, {"size": 1 << 40},
    ],
    ids=str,
)  # fmt: skip
def test_headers_of_another_kind_are_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    fixture.write_folder(tmp_path / "photos", 4)
    path = quick(tmp_path / "photos", tmp_path / "c").path / "header.json"
    header = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**header, **change}), encoding="utf-8")
    assert cli.main(["verify", str(path.parent)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    path.write_text("[" * 100_000, encoding="utf-8")
    assert cli.main(["verify", str(path.parent)]) == 1


def test_arrays_of_objects_are_refused_and_nobody_is_told_to_allow_them(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([Calls(tmp_path / "called")] * 3, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="holds Python objects, not numbers, and was not loaded") as caught:
        read_array(tmp_path / "x.npy")
    assert "allow" not in str(caught.value)
    assert not (tmp_path / "called").exists()


def test_names_in_a_zip_lead_nowhere(tmp_path: Path) -> None:
    picture = fixture.encoded()[0]
    names = ["/absolute/a.jpg", "a/../../b.jpg", "../c.jpg", "..\\d.jpg", "e\n\x1b[31m.jpg", "f/g.jpg"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), picture)
        archive.writestr("broken\n\x1b[31m.jpg", b"no picture")
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    before = {path for path in tmp_path.parent.iterdir() if path != tmp_path}
    cache = quick(tmp_path / "x.zip", tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "x.zip"]
    assert {path for path in tmp_path.parent.iterdir() if path != tmp_path} == before
    assert cache.header["skipped"] == 2
    lines = (tmp_path / "c" / "skipped.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[1] for line in lines] == [r"broken\n\x1b[31m.jpg", "link.jpg"]
    assert sorted(path.name for path in cache.path.iterdir()) == ["header.json", "images.npy", "skipped.txt"]


@pytest.mark.parametrize(
    "name", ["it's", 'a"b', "{0} {x!r}", "line\nend", "back\\slash", "'+__import__('os')+'"]
)
def test_names_of_databases_are_not_code_and_keys_are_one_line(name: str, tmp_path: Path) -> None:
    source = tmp_path / name
    source.mkdir()
    with (
        lmdb.open(str(source), map_size=1 << 20) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"../../key\n\x1b[31m\xff", b"no picture")
        transaction.put(b"k", fixture.encoded()[0])
    cache = quick(source, tmp_path / "c")
    assert cache.header["count"] == 1
    (line,) = (tmp_path / "c" / "skipped.txt").read_text(encoding="utf-8").splitlines()
    assert line.split("\t")[1] == r"../../key\n\x1b[31m\xff"


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;"


def allowed(page: Page) -> None:
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "iframe", "object", "link", "base", "a"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/")


def test_a_report_shows_what_it_is_given_and_runs_none_of_it(tmp_path: Path) -> None:
    name = EVIL.replace("/", "\u2215")
    run = run_folder(tmp_path / f"00000-{name}", **{EVIL: EVIL, "preset": EVIL, "iters": EVIL})
    tick = {"iteration": 50, "critic_loss": EVIL, EVIL: EVIL, "kimg": EVIL}
    with open(run / "stats.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(tick) + "\n")
    evaluation = {"iteration": EVIL, "features": EVIL, "kid": EVIL, "real_kid": EVIL, EVIL: {EVIL: [EVIL]}}
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(evaluation) + "\n")
    (run / "log.txt").write_text(f"{EVIL}\n</pre>{EVIL}\n", encoding="utf-8")
    (run / f"fakes_{name}.png").write_bytes(b"x")
    other = run_folder(tmp_path / f"00001-{name}", **{EVIL: "else"})
    for runs in ([run], [run, other]):
        page = Page(write_report(runs, tmp_path / "r.html", EVIL))
        allowed(page)
        assert "alert(1)" in page.text
        assert "<script" not in page.source


def test_a_report_does_not_show_files_from_elsewhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"token": "abc123"}\n', encoding="utf-8")
    run = run_folder(tmp_path / "00000-x")
    picture = tmp_path / "private.png"
    picture.write_bytes((run / "reals.png").read_bytes())
    for name in ("log.txt", "config.json", "stats.jsonl", "metrics.jsonl"):
        (run / name).unlink()
        (run / name).symlink_to(secret)
    (run / "reals.png").unlink()
    (run / "reals.png").symlink_to(picture)
    (run / "fakes_000000.png").unlink()
    (run / "fakes_000000.png").symlink_to(run / "fakes_000000.png")  # in a circle
    linked = tmp_path / "linked"
    linked.symlink_to(run)  # the folder itself may be a link
    for path in (run, linked):
        page = Page(write_report([path], tmp_path / "r.html"))
        assert "abc123" not in page.source
        assert "real data: reals.png cannot be read" in page.text
        assert len(page.all("img")) > 2
