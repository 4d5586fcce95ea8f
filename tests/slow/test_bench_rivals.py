"""The rivals of the benchmark: right where they claim to be, absent with a reason, found out where wrong."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wgangp_fast.bench import (
    accuracy,
    contestants,
    correctness,
    critics,
    jax_rival,
    measures,
    report,
    rivals,
    suite,
)
from wgangp_fast.bench.limits import time_limit
from wgangp_fast.bench.modes import FLOAT32, MODES
from wgangp_fast.bench.steps import CRITIC_STEP, PENALTY, Absent, Contestant, Step, Task, eager
from wgangp_fast.bench.train_step import TRAIN_STEP, with_generators
from wgangp_fast.bench.workloads import WORKLOADS, Workload
from wgangp_fast.training import models
from wgangp_fast.training.models.residual import BottleneckBlock, ResidualBlock

CPU = torch.device("cpu")
TASKS = (PENALTY, CRITIC_STEP)


def workload(critic: Callable[[], nn.Module], *sample: int, **more: Any) -> Workload:
    return Workload(critic, sample, 3, 3, "quick", "tiny", **more)


def small(norm: str | None, activation: str) -> Workload:
    settings = {"size": 8, "dim": 2, "depth": 2, "norm": norm, "activation": activation}
    return workload(lambda: models.build("dcgan64-critic", **settings), 3, 8, 8)


def scored(block: nn.Module) -> nn.Module:
    return nn.Sequential(block, nn.Flatten(), nn.Linear(32, 1))


TINY = workload(lambda: critics.perceptron((3, 8, 8, 1), lambda: [nn.Tanh()]), 3)
DROPPING = workload(lambda: critics.perceptron((3, 32, 32, 1), lambda: [nn.ReLU(), nn.Dropout(0.5)]), 3)
LAYER_NORM = workload(lambda: nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1)), 3)
SPECTRAL = workload(lambda: critics.spectral(2, 16), 3, 16, 16)
TRAINED = workload(
    lambda: models.build("toy-critic", dim=16, depth=2),
    2,
    generator=lambda: models.build("toy-generator", dim=8, depth=1),
)
DOWN: dict[str, Any] = {"resample": "down", "norm": "layer"}
CRITICS = {
    "mlp": TINY,
    "layernorm": small("layer", "leaky_relu"),
    "instancenorm-tanh": small("instance", "tanh"),
    "gated": small("layer", "gate"),
    "resnet": workload(lambda: scored(ResidualBlock(4, 8, **DOWN)), 4, 4, 4),
    "bottleneck": workload(lambda: scored(BottleneckBlock(4, 8, **DOWN)), 4, 4, 4),
    "attention": workload(lambda: critics.attention(4), 3, 32, 32),
    "audio": workload(lambda: critics.audio(1, 4096), 1, 4096),
    "language": workload(lambda: critics.language(4, 5, 6), 5, 6),
    "row-norm": LAYER_NORM,
}  # fmt: skip


def verdict(
    contestant: Contestant, row: Workload, task: Task = PENALTY, mode: str = "float32"
) -> tuple[bool, list[correctness.Draw]]:
    """The judge's word on a contestant that was built and called first, as a suite does it."""
    critic, real, fake = row.build(CPU)
    built = correctness.make(contestant, critic, real, fake, 0)
    built.step(*built.inputs)
    return correctness.Judge(row, CPU, task=task, mode=MODES[mode]).judge(contestant, built)


@pytest.fixture
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of torch.compile but its code generator, which takes half a minute."""
    monkeypatch.setattr(rivals, "_compile", lambda function: torch.compile(function, backend="aot_eager"))
    torch._dynamo.reset()


@pytest.mark.usefixtures("_no_compiler")
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("row", ["mlp", "instancenorm-tanh"])
@pytest.mark.parametrize("name", [name for name, rival in contestants.RIVALS.items() if rival.compiles])
def test_compiled_rivals_are_right(name: str, row: str, task: Task) -> None:
    right, draws = verdict(contestants.table(task)[name], CRITICS[row], task)
    assert right, draws


def test_tracing_leaves_buffers_and_random_state_alone() -> None:
    critic, real, fake = SPECTRAL.build(CPU)
    buffers, state = [b.clone() for b in critic.buffers()], torch.get_rng_state()
    rivals.make_fx_compiled(PENALTY, FLOAT32)(critic, real, fake, correctness.sample_alpha(real, 0))
    assert all(torch.equal(old, new) for old, new in zip(buffers, critic.buffers(), strict=True))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("row", CRITICS)
def test_jax_is_right(row: str) -> None:
    pytest.importorskip("jax")
    right, draws = verdict(jax_rival.jitted(CRITIC_STEP, FLOAT32), CRITICS[row], CRITIC_STEP)
    assert right, draws


@pytest.mark.parametrize("row", ["layernorm", "instancenorm-tanh", "gated"])
def test_channels_last_is_right(row: str) -> None:
    critic, real, fake = CRITICS[row].build(CPU)
    built = correctness.make(contestants.channels_last(CRITIC_STEP, FLOAT32), critic, real, fake, 0)
    assert any(
        p.is_contiguous(memory_format=torch.channels_last) for p in critic.parameters() if p.dim() == 4
    )
    right, draws = correctness.Judge(CRITICS[row], CPU, task=CRITIC_STEP).judge(contestants.stock, built)
    assert right, draws


def test_channels_last_stays_out_where_it_can_crash() -> None:
    _, real, fake = CRITICS["layernorm"].build(CPU)
    critic = nn.Sequential(nn.Conv2d(real.shape[1], 4, 1, 2), nn.Flatten())
    with pytest.raises(contestants.Absent, match="can crash"):
        correctness.make(contestants.channels_last(CRITIC_STEP, FLOAT32), critic, real, fake, 0)


def grad_over_jvp(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
    """The penalty's gradient as <g, J seed> by torch.func.jvp, which is wrong through some norms."""

    def step(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        parameters = dict(critic.named_parameters())
        x = alpha[:, None] * real + (1 - alpha[:, None]) * fake
        gradient = torch.func.grad(lambda x: critic(x).sum())(x)
        norm = gradient.norm(2, dim=1)
        seed = (2 / len(x) * (norm - 1) / norm)[:, None] * gradient

        def directional(parameters: dict[str, Tensor]) -> Tensor:
            score = rivals.with_tensors(critic, parameters)
            return torch.func.jvp(lambda x: score(x).sum(), (x,), (seed.detach(),))[1]

        found = torch.func.grad(directional)(parameters)
        for name, parameter in critic.named_parameters():
            parameter.grad = found[name].detach()
        return ((norm - 1) ** 2).mean().detach()

    return step


def test_the_judge_catches_torch_funcs_wrong_norms() -> None:
    """Right without a norm. With one, torch 2.13's answers are off; a version that mends it is right."""
    assert verdict(grad_over_jvp, TINY)[0]
    right, draws = verdict(grad_over_jvp, LAYER_NORM)
    mended = tuple(int(n) for n in torch.__version__.split(".")[:2]) > (2, 13)
    assert not right or mended
    assert mended or draws[0].error > 0.01


def test_a_traced_detach_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What make_fx saves behind a detach loses the second order of tanh, if it is left there."""
    monkeypatch.setattr(rivals, "_compile", lambda function: function)
    monkeypatch.setattr(rivals, "DETACH", None)
    right, draws = verdict(rivals.make_fx_compiled(PENALTY, FLOAT32), TINY)
    assert not right, draws


@pytest.mark.parametrize("mode", ["float32", "bf16-autocast"])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_dropout_in_any_order_is_compared_with_fixed_masks(task: Task, mode: str) -> None:
    for name in ("stock", "ours"):
        right, draws = verdict(contestants.table(task, MODES[mode])[name], DROPPING, task, mode)
        assert right, (name, draws)
    judge = correctness.Judge(DROPPING, CPU, task=task)
    assert judge.fixed == (task is CRITIC_STEP)
    twice = eager(lambda *inputs: 2 * task.stock(*inputs))
    assert not judge.judge(twice)[0]


def test_absent_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_module(name: str) -> None:
        raise ImportError(name)

    _, real, fake = TINY.build(CPU)
    alpha = correctness.sample_alpha(real, 0)
    table = contestants.table(PENALTY)
    for name, reason in (("stock-channels-last", "4-D"), ("stock-cuda-graph", "CUDA device")):
        with pytest.raises(Absent, match=reason):
            table[name](TINY.network(CPU), real, fake, alpha)
    if real.device.type == "cpu":
        monkeypatch.setattr(jax_rival.importlib, "import_module", no_module)
        with pytest.raises(Absent, match="not installed: pip install"):
            table["jax"](TINY.network(CPU), real, fake, alpha)


def test_what_the_converter_lacks_is_named() -> None:
    pytest.importorskip("jax")
    row = workload(lambda: nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 1)), 3)
    with pytest.raises(Absent, match=r"no aten\.softplus"):
        verdict(jax_rival.jitted(PENALTY, FLOAT32), row)


def test_every_rival_has_a_line_in_the_result() -> None:
    def endless(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
        while True:
            time.sleep(0.01)

    table = {"stock": contestants.stock, "absent": contestants.absent("not here"), "endless": endless}
    settings = measures.Settings(rounds=1, first_call_limit=0.2, floor=False)
    result = suite.run({"tiny": TINY}, CPU, settings, [], contestants=lambda task: table)
    entries = result["rows"][0]["contestants"]
    assert list(entries) == list(table)
    assert entries["absent"] == {"status": "absent", "message": "not here"}
    assert entries["endless"] == {
        "status": "error", "message": "TimeoutError: the first call took more than 0.2 s",
    }  # fmt: skip
    assert suite.all_right(result)


def test_time_limit_ends_with_its_block() -> None:
    with time_limit(0.05):
        pass
    time.sleep(0.1)
    with pytest.raises(TimeoutError, match=r"more than 0\.05 s"), time_limit(0.05):
        time.sleep(5)


def test_who_compiles_is_asked_on_quick_rows_or_by_name() -> None:
    row = suite.Row(suite.SUITES["penalty"], PENALTY, "x", TINY, 3, CPU, measures.Settings())
    assert not row._spared("torch-func")
    full = Workload(TINY.critic, (3,), 3, 3, "full", "tiny")
    for named, spared in ((False, True), (True, False)):
        row = suite.Row(suite.SUITES["penalty"], PENALTY, "x", full, 3, CPU, measures.Settings(named=named))
        assert row._spared("torch-func") == spared
        assert not row._spared("jax")


def test_selection_of_contestants() -> None:
    chosen = suite.chosen("critic_step", measures.Settings(contestants=("jax", "ours-penalty-only")))
    assert list(chosen["critic_step"]) == ["stock", "jax", "ours-penalty-only"]
    assert list(suite.chosen("critic_step", measures.Settings())["critic_step"]) == [
        "stock", "stock-channels-last", "ours", "ours-penalty-only",
    ]  # fmt: skip
    full = suite.chosen("memory", measures.Settings(rivals="full"))
    assert set(full["penalty"]) == {"stock", "ours", *contestants.RIVALS}
    with pytest.raises(ValueError, match="unknown contestant lazy; known: stock"):
        suite.chosen("penalty", measures.Settings(contestants=("lazy",)))


def test_convolutions_as_products_are_convolutions() -> None:
    layers = [nn.Conv2d(2, 3, (3, 5), (2, 1), (1, 2), (1, 2)), nn.Conv2d(3, 2, 3, bias=False), nn.Flatten()]
    for critic, x in (
        (nn.Sequential(*layers), torch.randn(2, 2, 9, 11)),
        (nn.Sequential(nn.Conv1d(2, 3, 25, 4, 11), nn.Conv1d(3, 1, 1)), torch.randn(2, 2, 64)),
    ):
        critic, x = critic.double(), x.double()
        expected = critic(x)
        found = correctness.as_products(critic)(x)
        assert all("forward" in vars(layer) for layer in critic if not isinstance(layer, nn.Flatten))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_train_step_is_judged() -> None:
    (row,) = with_generators({"trained": TRAINED, "without": TINY}).values()
    table = contestants.table(TRAIN_STEP)
    assert list(table) == ["stock", "ours"]
    judge = correctness.Judge(row, CPU, task=TRAIN_STEP)
    for contestant in table.values():
        right, draws = judge.judge(contestant)
        assert right, draws
    off = TRAIN_STEP.around(lambda *inputs: 1.01 * TRAIN_STEP.stock(*inputs), FLOAT32)
    assert not judge.judge(off)[0]


def test_train_step_moves_both_networks() -> None:
    (row,) = with_generators({"trained": TRAINED}).values()
    model, real, fake = row.build(CPU)
    before = [p.detach().clone() for p in model.parameters()]
    built = correctness.make(contestants.table(TRAIN_STEP)["ours"], model, real, fake, 0)
    built.step(*built.inputs)
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before) if p.dim() > 1)
    assert all(p.requires_grad for p in model.parameters())


def test_train_step_tells_seconds_a_thousand_images() -> None:
    result = suite.run({"trained": TRAINED}, CPU, measures.Settings(batch=4), [], "train_step")
    (row,) = result["rows"]
    for name in ("stock", "ours"):
        entry = row["contestants"][name]
        assert entry["sec_per_kimg"] == pytest.approx(entry["median_s"] * 1000 / (5 * 4))
        assert f"{entry['sec_per_kimg']:.3g}" in report.markdown(result)
    assert "sec/kimg" in report.columns(result)
    others = suite.run({"tiny": TINY}, CPU, measures.Settings(batch=4), [], "critic_step")
    assert "sec/kimg" not in report.columns(others)


def test_memory_suite_counts_both_steps() -> None:
    result = suite.run({"tiny": TINY}, CPU, measures.Settings(), [], "memory")
    assert [row["step"] for row in result["rows"]] == ["penalty", "critic_step"]
    for row in result["rows"]:
        stock, ours = (row["contestants"][name] for name in ("stock", "ours"))
        assert stock["peak_ratio"] == 1.0
        assert ours["peak_ratio"] == ours["peak_bytes"] / stock["peak_bytes"]
        assert "seconds" not in stock
        assert row["contestants"]["stock-channels-last"]["status"] == "absent"


def test_accuracy_suite_orders_the_arithmetics() -> None:
    settings = measures.Settings(rivals="full", draws=3)
    result = suite.run({"tiny": TINY}, CPU, settings, [], "accuracy")
    assert [row["step"] for row in result["rows"]] == ["penalty", "critic_step"]
    for row in result["rows"]:
        assert list(row["contestants"]) == ["stock", "ours"]
        assert row["absent_modes"]["tf32"]
        for entry in row["contestants"].values():
            narrow, wide = entry["errors"]["bf16-autocast"], entry["errors"]["fp32"]
            assert 0 < wide["all_gradients"]["worst"] < 1e-5
            assert 1e-5 < narrow["all_gradients"]["median"] < 0.1
            assert wide["loss"]["worst"] < 1e-5
            assert wide["kinked"] == 0
            assert narrow["kinked"] is None
            assert len(set(wide["loss"]["draws"])) == len(wide["loss"]["draws"]) == 3  # each another draw


def test_accuracy_draws_are_those_of_their_seeds() -> None:
    """The second of two draws is the first of a run that begins there; its step was built for another."""
    runs = [
        suite.run({"tiny": TINY}, CPU, measures.Settings(seed=seed, draws=draws), [], "accuracy")
        for seed, draws in ((5, 2), (6, 1))
    ]
    later, alone = (
        run["rows"][0]["contestants"]["ours"]["errors"]["fp32"]["one_gradient"]["draws"] for run in runs
    )
    assert later[1] == alone[0]


def test_accuracy_summary_counts_kinks_and_keeps_what_is_not_finite() -> None:
    def draw(error: float) -> dict[str, float]:
        return dict.fromkeys(accuracy.MEASURES, error)

    found = accuracy.summary([draw(e) for e in (1e-6, 2e-6, 9e-5, 2e-4, 5e-2)], counts_kinks=True)
    assert found["kinked"] == 2
    assert found["one_gradient"]["median"] == 9e-5
    assert found["one_gradient"]["worst"] == 5e-2
    lost = accuracy.summary([draw(e) for e in (1e-6, math.nan, 2e-6)], counts_kinks=True)
    assert (lost["loss"]["median"], lost["loss"]["worst"]) == (2e-6, None)
    assert lost["loss"]["draws"] == [1e-6, None, 2e-6]
    assert lost["kinked"] == 0


def test_accuracy_of_a_draw_by_hand() -> None:
    truth = [
        {"penalty": torch.tensor(2.0), "grad a": torch.tensor([3.0, 0.0]), "grad b": torch.tensor([4.0])}
    ]
    found = [
        {"penalty": torch.tensor(2.5), "grad a": torch.tensor([3.0, 0.5]), "grad b": torch.tensor([4.0])}
    ]
    expected = {"loss": 0.25, "all_gradients": 0.5 / 5, "one_gradient": 0.5 / 3}
    assert accuracy.of_draw(found, truth) == pytest.approx(expected)


def test_compile_time_suite_asks_fresh_processes() -> None:
    settings = measures.Settings(batch=2, contestants=("stock-cuda-graph",))
    entries = {name: measures.Entry(name, contestants.stock) for name in ("stock", "stock-cuda-graph")}
    judge = correctness.Judge(WORKLOADS["toy"], CPU, batch=2)
    measures.first_calls(entries, judge, "toy", settings)
    found = {name: entry.result for name, entry in entries.items()}
    assert found["stock"]["status"] == "ok"
    assert all(found["stock"][key] > 0 for key in ("first_call_s", "second_call_s", "second_shape_s"))
    assert found["stock-cuda-graph"] == {"status": "absent", "message": "CUDA graphs need a CUDA device"}


def test_channels_last_and_wide_rows_exist_on_a_gpu() -> None:
    assert WORKLOADS["dcgan64"].batches("cuda") == [64, 256]
    assert WORKLOADS["dcgan64"].batches("cpu") == [16]
    assert "dim 64" in WORKLOADS["resnet101"].describe("cuda")
    assert "dim 16" in WORKLOADS["resnet101"].describe("cpu")
