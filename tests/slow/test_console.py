"""What a command says: where nobody takes it, under any locale, and when it is interrupted."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lsun_fixture as fixture
import pytest
from paths import ROOT
from train_settings import small, ticks

from wgangp_fast import cli, console
from wgangp_fast.files import read_text
from wgangp_fast.training import checkpoint, eval_cli, train
from wgangp_fast.training.metrics import digits

FLAGS = [
    "--preset", "toy-8gaussians", "--batch", "8", "--critic-dim", "8", "--generator-dim", "8",
    "--device", "cpu", "--threads", "1", "--penalty", "stock", "--iters", "6", "--tick", "1",
    "--snapshot", "3",
]  # fmt: skip


class Broken(io.TextIOWrapper):
    """A stream that takes ``lines`` lines and then no more."""

    def __init__(self, error: OSError, lines: int) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")
        self.error, self.left = error, lines

    def write(self, text: str) -> int:
        self.left -= text.count("\n")
        if self.left < 0:
            raise self.error
        return super().write(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small(iters=2, outdir=str(tmp_path_factory.mktemp("runs"))))


PIPE = BrokenPipeError(errno.EPIPE, "Broken pipe")
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("error", "expected"), [(PIPE, 141), (FULL, 2)])
@pytest.mark.parametrize("lines", [0, 3])
def test_a_training_whose_stdout_is_lost_is_finished_and_saved(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    expected: int,
    lines: int,
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(error, lines))
    assert cli.main(["train", *FLAGS, "--outdir", str(tmp_path)]) == expected
    path = tmp_path / "00000-toy-8gaussians"
    assert checkpoint.newest(path)[0]["iteration"] == 6
    assert [tick["iteration"] for tick in ticks(path)] == [1, 2, 3, 4, 5, 6]
    assert (path / "report.html").exists()
    log = read_text(path / "log.txt")
    assert log.count(f"warning: stdout takes no more lines ({error.strerror}); they are in") == 1
    assert "iter 6/6" in log
    said = "" if error is PIPE else "wgangp-fast train: cannot write to stdout (No space left on device)\n"
    assert capsys.readouterr().err == said


def test_python_callers_keep_their_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(PIPE, 2))
    path = train(small("toy-8gaussians", iters=4, outdir=str(tmp_path)))
    assert checkpoint.newest(path)[0]["iteration"] == 4
    assert "stdout takes no more lines (Broken pipe)" in read_text(path / "log.txt")


def test_an_evaluation_whose_stdout_is_lost_is_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(read_text(run / "metrics.jsonl").splitlines())
    monkeypatch.setattr(sys, "stdout", Broken(PIPE, 0))
    assert cli.main(["eval", "--run", str(run), "--num", "40", "--features", "random"]) == 141
    assert len(read_text(run / "metrics.jsonl").splitlines()) == before + 1


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["report", "--help"], ["train", "--help"]])
def test_help_that_nobody_reads(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(PIPE, 0))
    assert cli.main(arguments) == 141


def test_a_mistake_keeps_its_code_where_stderr_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Broken(FULL, 0))
    assert cli.main(["trane"]) == 2


def python(code: str, *arguments: object, **settings: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}
    environment |= settings.pop("environment", {})
    command = [sys.executable, *(["-c", code] if code else []), *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, encoding="utf-8", env=environment, **{**streams, **settings})


SAYS = """
import sys
from wgangp_fast import cli
cli.COMMANDS["say"] = cli.Command("say", "")
sys.modules["say"] = type(sys)("say")
def main(rest):
    print("x" * 100)
    open(rest[0], "wb").write(b"done")
    return 0
sys.modules["say"].main = main
sys.exit(cli.main(["say", sys.argv[1]]))
"""


def test_a_process_ends_with_its_code_and_no_words_of_pythons(tmp_path: Path) -> None:
    """The closed pipe and the full disk of the system, with what is still buffered when Python ends."""
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as full:
        targets: list[tuple[Any, int, str]] = [
            (writer, 141, ""),
            (full, 2, "wgangp-fast say: cannot write to stdout (No space left on device)\n"),
        ]
        for number, (target, code, words) in enumerate(targets):
            process = python(SAYS, tmp_path / str(number), stdout=target)
            _, err = process.communicate(timeout=120)
            assert (process.returncode, err) == (code, words)
            assert (tmp_path / str(number)).read_bytes() == b"done"


def test_a_closed_stdout_is_not_the_next_file(tmp_path: Path) -> None:
    code = SAYS.replace("import sys\n", "import os, sys\nos.close(1)\n", 1).replace(
        'print("x" * 100)', 'os.write(1, b"x")'
    )
    process = python(code, tmp_path / "file")
    assert process.wait(timeout=120) == 0, process.communicate()
    assert (tmp_path / "file").read_bytes() == b"done"


# Locales

EVERYTHING = """
import sys
from wgangp_fast import cli
folder = sys.argv[1]
def command(*arguments):
    code = cli.main(list(arguments))
    assert code == 0, (arguments, code)
photos, cache, runs = folder + "/" + sys.argv[2], folder + "/prepared-" + sys.argv[2], folder + "/runs"
small = ["--batch", "8", "--critic-dim", "4", "--generator-dim", "4", "--device", "cpu", "--threads", "1",
         "--penalty", "stock", "--iters", "2", "--tick", "1", "--snapshot", "1", "--holdout", "8"]
command("prepare", photos, cache, "--size", "16", "--workers", "2")
command("verify", cache)
command("train", "--preset", "lsun64-dcgan", "--data", cache, "--outdir", runs, *small)
run = runs + "/00000-lsun64-dcgan-prepared-" + sys.argv[2]
command("train", "--resume", run, "--iters", "3")
command("eval", "--run", run, "--num", "32", "--features", "random")
command("report", run, "--title", sys.argv[3])
command("report", run, run, "--out", folder + "/both.html")
"""
POSIX = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
UTF8 = {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "0"}
NAMES = ["caf\u00e9 \u732b".encode(), b"caf\xe9 $x^$ [1]"]


@pytest.mark.parametrize("locale", [POSIX, UTF8], ids=["C", "UTF-8"])
@pytest.mark.parametrize("name", NAMES, ids=["UTF-8 name", "other name"])
def test_every_command_runs_under_every_locale(locale: dict[str, str], name: bytes, tmp_path: Path) -> None:
    photos = tmp_path / os.fsdecode(name)
    fixture.write_folder(photos, 44)
    (photos / os.fsdecode(name + b".jpg")).write_bytes(b"no picture")
    title = os.fsdecode("Fr\u00e9chet".encode())
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LC_")} | locale
    settings: dict[str, Any] = {"environment": environment, "errors": "surrogateescape"}
    process = python(EVERYTHING, tmp_path, photos.name, title, **settings)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    run = tmp_path / "runs" / f"00000-lsun64-dcgan-prepared-{photos.name}"
    assert str(run) in out.splitlines()  # its bytes, whatever the locale
    saved = json.loads(read_text(run / "config.json"))
    assert os.fsencode(Path(saved["data"]).name) == b"prepared-" + name
    assert name in (run / "log.txt").read_bytes()
    page = (run / "report.html").read_text(encoding="ascii")
    assert "<h1>Fr&#233;chet</h1>" in page
    train_again = python("", "-m", "wgangp_fast", "sample", "--run", run, "--out", tmp_path / "x.png",
                         environment=UTF8, errors="surrogateescape")  # fmt: skip
    assert train_again.wait(timeout=120) == 0, train_again.communicate()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_are_printed_as_their_bytes_and_other_characters_escaped(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="wgangp_fast")
    stream.write(os.fsdecode(b"a\xff") + "\u732b")
    stream.flush()
    cat = "\u732b".encode() if encoding == "utf-8" else b"\\u732b"
    assert stream.buffer.getvalue() == b"a\xff" + cat


def test_a_name_with_line_ends_or_colours_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "/nowhere\n\x1b[31mred\u202e"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert r"/nowhere\n\x1b[31mred\u202e" in err
    assert console.printable("caf\u00e9 \u732b") == "caf\u00e9 \u732b"


# Ctrl-C


def test_an_interrupted_evaluation_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = (run / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(eval_cli, "evaluate", interrupted)
    assert cli.main(["eval", "--run", str(run)]) == 130
    assert capsys.readouterr().err == "wgangp-fast eval: interrupted\n"
    assert (run / "metrics.jsonl").read_bytes() == before


def test_ctrl_c_while_scikit_learn_trains_is_not_swallowed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would stop the training, warn, and judge the samples with what it has."""
    from sklearn.neural_network import MLPClassifier

    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(MLPClassifier, "_update_no_improvement_count", interrupted)
    digits.digit_classifier.cache_clear()
    before = (run / "metrics.jsonl").read_bytes()
    assert cli.main(["eval", "--run", str(run), "--num", "40"]) == 130
    assert capsys.readouterr().err == "wgangp-fast eval: interrupted\n"
    assert (run / "metrics.jsonl").read_bytes() == before


# A torch whose import takes for ever, and which swallows what is raised meanwhile.
SLOW_TORCH = """
import time
print("importing", flush=True)
for _ in range(600):
    try:
        time.sleep(0.1)
    except KeyboardInterrupt as error:
        swallowed = error
"""
SCRIPT = "import sys\nfrom wgangp_fast.cli import main\nsys.exit(main())\n"


@pytest.mark.parametrize("how", ["-m", "script", "-u -m"])
def test_ctrl_c_while_torch_is_imported(how: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(SLOW_TORCH, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "wgangp-fast").write_text(SCRIPT, encoding="utf-8")
    words = [tmp_path / "bin" / "wgangp-fast"] if how == "script" else [*how.split(), "wgangp_fast"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    process = python("", *words, "eval", "--run", "x", environment={"PYTHONPATH": path})
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "wgangp-fast: interrupted\n")


def test_a_program_that_imports_the_package_keeps_its_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit\n", encoding="utf-8")
    (tmp_path / "mine.py").write_text("import wgangp_fast\n", encoding="utf-8")
    code = (
        "import signal\ntry:\n    import wgangp_fast\nexcept SystemExit:\n    pass\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    for words in (["-c", code], ["-m", "mine"]):
        process = python("", *words, environment={"PYTHONPATH": path})
        assert process.wait(timeout=60) == 0, process.communicate()


def test_a_command_gets_ctrl_c_back_when_it_begins() -> None:
    code = (
        "import sys, signal; sys.argv = ['wgangp-fast', 'doctor']; from wgangp_fast import cli, doctor\n"
        "assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler\n"
        "doctor.main = lambda rest: int(signal.getsignal(signal.SIGINT) is not signal.default_int_handler)\n"
        "sys.exit(cli.main())"
    )
    process = python(code)
    assert process.wait(timeout=120) == 0, process.communicate()
