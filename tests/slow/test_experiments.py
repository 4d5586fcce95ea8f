"""What all experiments share: parts that are computed once, trainings that go on, pages, the command."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import PACKAGE
from torch import Tensor, nn

from wgangp_fast import explain
from wgangp_fast.cli import main
from wgangp_fast.errors import UserError
from wgangp_fast.experiments import page, training
from wgangp_fast.experiments.catalog import EXPERIMENTS
from wgangp_fast.experiments.publish import index, publish
from wgangp_fast.experiments.speed import kernels
from wgangp_fast.experiments.study import SCALES, Entry, Study
from wgangp_fast.experiments.training import trained
from wgangp_fast.training import Config
from wgangp_fast.training.trainer import Trainer

ENTRY = Entry("none", "A title", "Somebody 1999, figure 1", "a line")
SMALL = {
    "batch": 8, "critic_dim": 8, "generator_dim": 8, "n_critic": 2, "threads": 1, "ema_kimg": 0.0,
}  # fmt: skip


def study_in(path: Path, settings: dict[str, Any] | None = None, **changes: Any) -> Study:
    return Study("trial", ENTRY, "smoke", settings or {"iters": 3}, path, **changes)


def config_of(study: Study, **changes: Any) -> Config:
    return study.config("toy-8gaussians", **{**SMALL, "penalty": "stock", **changes})


class TestParts:
    def test_a_part_is_computed_once(self, tmp_path: Path) -> None:
        calls: list[int] = []

        def work() -> dict[str, Any]:
            calls.append(1)
            return {"a": [1.5, 2], "b": float("nan"), "c": torch.tensor([1.0])}

        for _ in range(2):
            study = study_in(tmp_path)
            assert study.part("some name/1", work) == {"a": [1.5, 2], "b": "nan", "c": [1.0]}
        assert len(calls) == 1
        assert study.seconds["some name/1"] >= 0
        assert [p.name for p in (tmp_path / "parts").iterdir()] == ["some-name-1.json"]

    def test_tensors_come_back(self, tmp_path: Path) -> None:
        value = torch.randn(3, 2, dtype=torch.float64)
        assert torch.equal(study_in(tmp_path).tensors("x", lambda: {"v": value})["v"], value)
        assert torch.equal(study_in(tmp_path).tensors("x", dict)["v"], value)

    def test_work_that_fails_leaves_no_part(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError):
            study_in(tmp_path).part("x", lambda: 1 / 0)
        assert study_in(tmp_path).part("x", lambda: 2) == 2

    @pytest.mark.parametrize(
        "change", [{"settings": {"iters": 4}}, {"seed": 1}, {"penalty": "stock"}, {"data": "digits"}]
    )
    def test_a_folder_is_of_one_experiment(self, tmp_path: Path, change: dict[str, Any]) -> None:
        study_in(tmp_path)
        with pytest.raises(UserError, match=f"was begun with another {next(iter(change))}.*--fresh"):
            study_in(tmp_path, **change)

    def test_a_damaged_folder_is_named(self, tmp_path: Path) -> None:
        study_in(tmp_path)
        (tmp_path / "study.json").write_text("{")
        with pytest.raises(UserError, match="is damaged"):
            study_in(tmp_path)


class TestTraining:
    def test_goes_on_where_it_was_stopped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Bit for bit, rows included, with an interruption at any place."""
        monkeypatch.setattr(training, "SAVED_EVERY", 0.0)
        stop = [7]

        def watch(trainer: Trainer) -> dict[str, Any]:
            if trainer.iteration == stop[0]:
                raise KeyboardInterrupt
            return {"sum": float(sum(p.detach().sum() for p in trainer.critic.parameters()))}

        whole, cut = study_in(tmp_path / "whole"), study_in(tmp_path / "cut")
        stop[0] = -1
        first = trained(whole, "run", config_of(whole, iters=12), every=1, watch=watch)
        stop[0] = 7
        with pytest.raises(KeyboardInterrupt):
            trained(cut, "run", config_of(cut, iters=12), every=1, watch=watch)
        stop[0] = -1
        again = trained(cut, "run", config_of(cut, iters=12), every=1, watch=watch)
        assert again.trainer.iteration == 12
        timeless = [
            [{k: v for k, v in row.items() if k != "seconds"} for row in t.rows] for t in (first, again)
        ]
        assert timeless[0] == timeless[1]
        assert [row["iteration"] for row in again.rows] == list(range(13))
        for a, b in zip(first.trainer.critic.parameters(), again.trainer.critic.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_a_finished_one_is_not_trained_again(self, tmp_path: Path) -> None:
        study = study_in(tmp_path)
        before = trained(study, "run", config_of(study, iters=3))
        seconds = study.seconds["run"]

        class Idle(Trainer):
            def iterate(self) -> None:
                raise AssertionError("trained again")

        after = trained(study, "run", config_of(study, iters=3), kind=Idle)
        assert after.rows == before.rows
        assert study.seconds["run"] == seconds

    def test_stops_when_a_loss_is_not_finite(self, tmp_path: Path) -> None:
        study = study_in(tmp_path)
        found = trained(study, "run", config_of(study, iters=20, lr=1e30, lambda_gp=1e30), every=1)
        assert found.diverged
        assert found.trainer.iteration < 20
        assert trained(study, "run", config_of(study, iters=20, lr=1e30, lambda_gp=1e30), every=1).diverged

    def test_takes_networks_and_a_preparation(self, tmp_path: Path) -> None:
        study = study_in(tmp_path)

        def networks() -> tuple[nn.Module, nn.Module]:
            critic = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0))
            return critic, nn.Linear(2, 2)

        def decay(trainer: Trainer) -> None:
            trainer.critic_optimizer.param_groups[0]["weight_decay"] = 0.25

        for _ in range(2):  # the second is loaded
            found = trained(study, "run", config_of(study, iters=2), networks=networks, prepare=decay)
            assert isinstance(found.trainer.generator, nn.Linear)
            assert found.trainer.critic_optimizer.param_groups[0]["weight_decay"] == 0.25
        torch.manual_seed(99)  # the networks' weights are of the seed, whatever was drawn before
        other = study_in(tmp_path / "other")
        again = trained(other, "run", config_of(other, iters=2), networks=networks, prepare=decay)
        for a, b in zip(found.trainer.critic.parameters(), again.trainer.critic.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_the_same_seed_is_the_same_training(self, tmp_path: Path) -> None:
        losses = []
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            torch.manual_seed(hash(name) % 1000)  # what was drawn before does not matter
            study = study_in(tmp_path / name, seed=seed)
            losses.append(trained(study, "run", config_of(study, iters=3)).rows[-1]["critic_loss"])
        assert losses[0] == losses[1] != losses[2]


def test_kernels_are_measured_and_explained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
    study = study_in(tmp_path)
    row = kernels(study, "a critic", critic, torch.randn(8, 2), torch.randn(8, 2))
    assert row["path"] == "engine"
    assert row["batch"] == 8
    assert row["forward_units"] == explain(critic, torch.randn(8, 2), loss=True).forward_units
    for ratio, stock, fast in zip(
        row["ratios"], *(row["seconds"][k] for k in ("stock", "fast")), strict=True
    ):
        assert ratio == pytest.approx(stock / fast)
    assert all(p.grad is None for p in critic.parameters())
    assert study.speeds == [row]
    study.finish()
    text = (tmp_path / "README.md").read_text()
    assert f"| a critic | 8 | {row['kernels']} |" in text


def test_a_critic_on_the_stock_path_is_said_to_be(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).squeeze(1) * (2.0 if x.sum().item() > 0 else 1.0)

    study = study_in(tmp_path)
    row = kernels(study, "branching", Branching(), torch.randn(8, 2), torch.randn(8, 2))
    assert row["path"] == "stock"
    assert row["kernels"].startswith("stock path: ")


class TestPage:
    def filled(self, path: Path, **changes: Any) -> Study:
        study = study_in(path, {"iters": 3, "parts": {"a": 1, "b": [2, 3]}}, **changes)
        study.heading("Results")
        study.text("A paragraph.")
        study.table("Numbers", ["name", "value"], [["x|y", 0.00001234], ["z", None], ["n", 3.14159265]])
        study.picture("dot.png", "A dot.", lambda path: path.write_bytes(b"png"))
        study.claim("It holds", "section 1", "1.0", True)
        study.claim("It does not", "section 2", "2.0", False)
        study.claim("Unknown", "section 3", "too small", None)
        study.choice("Ten, not eleven.")
        study.number("x", float("inf"))
        study.part("slow", lambda: time.sleep(0.01))
        study.finish()
        return study

    def test_has_claims_numbers_scale_and_choices(self, tmp_path: Path) -> None:
        self.filled(tmp_path)
        text = (tmp_path / "README.md").read_text()
        for line in (
            "# A title",
            "wgangp-fast experiment trial --scale smoke",
            "| It holds | section 1 | 1.0 | yes |",
            "| It does not | section 2 | 2.0 | **no** |",
            "| Unknown | section 3 | too small | cannot tell |",
            "| x\\|y | 1.23e-05 |",
            "| z | - |",
            "| n | 3.142 |",
            "![A dot.](dot.png)",
            "| parts | a 1, b 2, 3 |",
            "- Ten, not eleven.",
        ):
            assert line in text, line
        results = json.loads((tmp_path / "results.json").read_text())
        assert [claim["held"] for claim in results["claims"]] == [True, False, None]
        assert results["numbers"] == {"x": "inf"}
        assert results["seconds"] == pytest.approx(results["seconds_of_parts"]["slow"], abs=0.06)
        assert results["environment"]["torch"] == torch.__version__

    def test_says_at_which_commit_it_was_begun_and_drawn(self, tmp_path: Path) -> None:
        study = self.filled(tmp_path)
        now = json.loads((tmp_path / "results.json").read_text())["drawn"]
        assert "drawn at" not in (tmp_path / "README.md").read_text()
        study.about["environment"] = {**study.about["environment"], "commit": "a" * 40, "dirty": True}
        study.finish()
        text = (tmp_path / "README.md").read_text()
        assert f"commit aaaaaaaaaa (with changes); drawn at commit {str(now['commit'])[:10]}" in text

    def test_does_not_say_where_the_data_lay(self, tmp_path: Path) -> None:
        data = tmp_path / "secret place" / "set"
        data.mkdir(parents=True)
        study_in(tmp_path / "study", data=str(data)).finish()
        assert "secret" not in (tmp_path / "study" / "README.md").read_text()
        assert "secret" not in (tmp_path / "study" / "results.json").read_text()

    def test_times(self) -> None:
        assert [page.seconds(s) for s in (3.2, 99.0, 600.0, 5 * 3600.0)] == ["3 s", "99 s", "10 min", "5.0 h"]

    def test_is_published_with_an_index(self, tmp_path: Path) -> None:
        study = self.filled(tmp_path / "study")
        study.speeds = []
        publish(study.path, tmp_path / "docs")
        names = {p.name for p in (tmp_path / "docs" / "trial").iterdir()}
        assert names == {"README.md", "results.json", "dot.png"}
        index = (tmp_path / "docs" / "README.md").read_text()
        assert "[A title](trial/README.md)" in index
        assert "1 of 2" in index
        publish(study.path, tmp_path / "docs")
        assert (tmp_path / "docs" / "README.md").read_text() == index

    def test_another_seed_goes_beside_the_page(self, tmp_path: Path) -> None:
        for seed in (0, 1):
            publish(self.filled(tmp_path / str(seed), seed=seed).path, tmp_path / "docs")
        place = tmp_path / "docs" / "trial"
        assert json.loads((place / "results.json").read_text())["seed"] == 0
        assert json.loads((place / "seed-1.json").read_text())["seed"] == 1
        assert "seed 1: 1 of 2" in (tmp_path / "docs" / "README.md").read_text()
        publish(self.filled(tmp_path / "stock", seed=1, penalty="stock").path, tmp_path / "docs")
        assert json.loads((place / "results.json").read_text())["seed"] == 1  # another study replaces it
        assert not (place / "seed-1.json").exists()


class TestCatalogue:
    def test_every_entry_can_be_run(self) -> None:
        for name, entry in EXPERIMENTS.items():
            module = importlib.import_module(f"wgangp_fast.experiments.{entry.module}")
            assert callable(getattr(module, entry.function)), name
            scales = getattr(module, f"{entry.function.upper()}_SCALES", None) or module.SCALES
            assert tuple(scales) == SCALES, name
            keys = [set(values) for values in scales.values()]
            assert keys[0] == keys[1] == keys[2], name

    def test_has_all_experiments_of_the_papers(self) -> None:
        assert set(EXPERIMENTS) == {
            "distances", "value-surfaces", "toy", "gradient-norms", "weight-histogram", "optimal-critic",
            "robustness", "random-architectures", "cifar", "overfitting", "wasserstein-curve", "mnist-wgan",
            "language", "inception-score",
        }  # fmt: skip

    def test_every_module_is_in_it(self) -> None:
        shared = {
            "__init__", "catalog", "cli", "demo", "figures", "page", "publish", "speed", "study", "training",
        }  # fmt: skip
        modules = {p.stem for p in (PACKAGE / "experiments").glob("*.py")} - shared
        used = {entry.module for entry in EXPERIMENTS.values()}
        helpers = {m for m in modules - used if not hasattr(_import(m), "SCALES")}
        assert modules - helpers == used

    def test_docs_have_every_page_and_their_index_is_of_them(self, tmp_path: Path) -> None:
        docs = PACKAGE.parent / "docs" / "paper"
        shutil.copytree(docs, tmp_path / "paper")
        again = index(tmp_path / "paper", list(EXPERIMENTS)).read_text()
        assert again == (docs / "README.md").read_text()
        for name in EXPERIMENTS:
            results = json.loads((docs / name / "results.json").read_text())
            assert results["environment"]["dirty"] is results["drawn"]["dirty"] is False
            text = (docs / name / "README.md").read_text()
            for claim in results["claims"]:
                assert page.cell(claim["measured"]) in text
            for link in re.findall(r"\]\(([\w.-]+)\)", text):
                assert (docs / name / link).exists(), link


def _import(name: str) -> Any:
    return importlib.import_module(f"wgangp_fast.experiments.{name}")


class TestCommand:
    def test_paper_scale_of_images_and_text_needs_data(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, entry in EXPERIMENTS.items():
            if entry.takes:
                assert main(["experiment", name, "--scale", "paper", "--outdir", str(tmp_path)]) == 2, name
                err = capsys.readouterr().err
                assert "--data" in err
                assert err.count("\n") == 1
        assert not list(tmp_path.iterdir())  # so that the same command with --data is not refused

    def test_list_has_a_line_for_each(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["experiment", "list"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == list(EXPERIMENTS)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nonsense"], "unknown experiment 'nonsense'; known: "),
            (["toy", "--scale", "huge"], "--scale"),
            (["toy", "--device", "cuda:99"], "cannot be used"),
            (["toy", "--seed", "x"], "--seed"),
            (["toy", "--data", "digits"], "--data is for robustness"),
            (["all", "--data", "digits"], "all takes none"),
            (["cifar", "--scale", "smoke", "--data", "nowhere/"], "no data at nowhere"),
            (["language", "--scale", "smoke", "--data", "nowhere.txt"], "nowhere.txt"),
            (["cifar", "--scale", "paper"], "--data"),
        ],
    )
    def test_mistakes_are_one_line(
        self, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["experiment", *arguments, "--outdir", str(tmp_path)]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1

    def test_fresh_deletes_nothing_but_experiments(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "weight-histogram-smoke"
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine")
        assert (
            main(["experiment", "weight-histogram", "--scale", "smoke", "--outdir", str(tmp_path), "--fresh"])
            == 2
        )
        assert "is not an experiment's folder" in capsys.readouterr().err
        assert (folder / "thesis.txt").read_text() == "mine"

    def test_interrupted_it_goes_on(self, tmp_path: Path) -> None:
        command = [
            sys.executable, "-m", "wgangp_fast", "experiment", "weight-histogram", "--scale", "smoke",
            "--device", "cpu", "--outdir", str(tmp_path),
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        folder = tmp_path / "weight-histogram-smoke"
        first = folder / "parts" / "clipping--c---0.01.pt"
        deadline = time.monotonic() + 60
        while not first.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 143, err
        assert err.splitlines()[-1] == "wgangp-fast experiment: interrupted; the same command goes on"
        kept = first.read_bytes()
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(folder / "README.md")
        assert first.read_bytes() == kept
        assert (folder / "weight-histogram.png").stat().st_size > 5000
