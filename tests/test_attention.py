"""Attention that one looks into: maps are the model's own, measures what a hand computes, ablations what they say."""

import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasks
from fpt import Config, UserError, attention, load_body, load_run, records, train
from fpt.arrays import unpack
from fpt.attention import ALL, READ
from fpt.task import Split
from tasks.bits import BitMemory, BitXor
from tasks.expressions import read as symbols_of
from tasks.images import Mnist
from tasks.listops import ListOps, ListOpsOriginal

XOR = BitXor(bits=3)
SHORT = ListOps(shortest=4, longest=20, train_examples=60, held_out=40)




def trained(body, out, task, **settings):
    """A run of a few steps, loaded."""
    config = Config(task, str(body), **dict(steps=3, batch=4, lr=1e-2, eval_every=3) | settings)
    train(config, out, quiet=True)
    folder, = out.iterdir()
    return load_run(folder)


@pytest.fixture(scope="module")
def xor(tiny_folder, tmp_path_factory):
    return trained(tiny_folder, tmp_path_factory.mktemp("xor"), XOR, steps=40)


@pytest.fixture(scope="module")
def listops(tiny_folder, tmp_path_factory):
    return trained(tiny_folder, tmp_path_factory.mktemp("listops"), SHORT)


def test_split(run, count=None):
    split = run.task.load(None, lambda line: None)["test"]
    return Split(split.inputs[:count], split.targets[:count])


test_split.__test__ = False


@pytest.mark.parametrize("name", ["xor", "listops"])
def test_the_maps_of_a_run_are_those_of_its_forward_pass(request, name):
    run = request.getfixturevalue(name)
    inputs = test_split(run, 5).inputs
    _, seen = run(inputs, maps=True)
    found = list(attention.maps(run, inputs))
    assert len(found) == 2
    for weights, whole in zip(found, seen.maps):
        np.testing.assert_allclose(weights, whole, atol=1e-6)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
        assert not np.triu(weights, 1).any()


@pytest.mark.parametrize("task", [XOR, BitMemory(strings=2, bits=4, patch=2), SHORT, Mnist(patch=14)],
                         ids=lambda task: task.name)
def test_the_maps_of_a_trained_run_are_torchs_of_the_body_that_it_exports(tiny_folder, tmp_path, monkeypatch, task):
    torch = pytest.importorskip("torch")
    from transformers import GPT2Model

    if task.name == "mnist":
        noise = np.random.default_rng(0)
        digits = lambda count: (noise.integers(0, 256, (count, 28, 28, 1), np.uint8), noise.integers(0, 10, count))
        (train_images, train_labels), (test_images, test_labels) = digits(5_040), digits(20)
        monkeypatch.setattr(Mnist, "_arrays", lambda *_: {
            "train_images": train_images, "train_labels": train_labels, "test_images": test_images, "test_labels": test_labels})
    run = trained(tiny_folder, tmp_path / "runs", task, steps=20, eval_examples=20)
    run.export(tmp_path / "exported")
    inputs = test_split(run, 4).inputs
    theirs = GPT2Model.from_pretrained(tmp_path / "exported", attn_implementation="eager").eval()
    tokens = task.encode(jnp.asarray(inputs))
    values = {name: np.asarray(value) for name, value in run.parameters.items()}
    embeds = values["input/embedding"][np.asarray(tokens)] if "input/embedding" in values else (
        np.asarray(tokens) @ values["input/kernel"] + values["input/bias"])
    with torch.no_grad():
        wanted = theirs(inputs_embeds=torch.tensor(embeds), output_attentions=True).attentions
    for ours, other in zip(attention.maps(run, inputs), wanted, strict=True):
        np.testing.assert_allclose(ours, other.numpy(), atol=1e-6)


def test_the_maps_of_a_body_are_those_of_its_forward_pass(tiny_folder):
    body = load_body(tiny_folder)
    embeds = jax.random.normal(jax.random.key(0), (2, 5, 32))
    for weights, whole in zip(attention.maps(body, embeds), body(embeds, maps=True)[1], strict=True):
        np.testing.assert_allclose(weights, whole, atol=1e-6)
    with pytest.raises(UserError, match="65 tokens, but the body has 64 positions"):
        next(attention.maps(body, np.zeros((1, 65, 32), np.float32)))


def by_hand(run, inputs, masks):
    """The measures of the maps of each layer, with loops over examples, heads and queries."""
    tokens = np.asarray(run.task.encode(jnp.asarray(inputs)))
    lengths = [run.task.interface.tokens if run.task.interface.pad is None else int((row != run.task.interface.pad).sum()) for row in tokens]
    found = []
    for weights in map(np.asarray, attention.maps(run, inputs)):
        layer = {}
        for head in range(run.geometry.heads):
            rows = {}
            for example, length in enumerate(lengths):
                for query in range(length):
                    row = weights[example, head, query].astype(np.float64)
                    seen = row[row > 0]
                    values = {"entropy": -(seen * np.log(seen)).sum(), "first token": row[0],
                              "distance": sum(row[key] * (query - key) for key in range(query + 1))}
                    if run.task.grid:
                        place = lambda token: divmod(token, run.task.grid[1])
                        for axis, name in enumerate(("distance in rows", "distance in columns")):
                            values[name] = sum(row[key] * abs(place(query)[axis] - place(key)[axis]) for key in range(query + 1))
                    for name, value in values.items():
                        rows.setdefault((name, ALL), []).append(value)
                    asked = query - (length - run.task.interface.queries)
                    if asked >= 0:
                        for name, value in values.items():
                            rows.setdefault((name, READ), []).append(value)
                        for name, mask in masks.items():
                            rows.setdefault((name, READ), []).append((row * mask[example, asked]).sum())
            for key, values in rows.items():
                layer.setdefault(key, []).append(np.mean(values))
        found.append(layer)
    return {key: np.array([layer[key] for layer in found]) for key in found[0]}


@pytest.mark.parametrize("name", ["xor", "listops", "grid"])
def test_measures_are_what_loops_over_the_maps_give(request, name, monkeypatch):
    """Also where examples do not fill the last chunk."""
    monkeypatch.setattr(attention, "TOKENS_AT_ONCE", 60)
    run = request.getfixturevalue("xor" if name == "grid" else name)
    if name == "grid":
        monkeypatch.setattr(BitXor, "grid", (2, 3))
    inputs = test_split(run, 7).inputs
    masks = run.task.answer_tokens(inputs)
    found, wanted = attention.measure(run, inputs), by_hand(run, inputs, masks)
    assert found.n == 7 and list(found.values) == [*masks, *attention.units(run.task)]
    assert {(name, which) for name, values in found.values.items() for which in values} == set(wanted)
    for (measure, which), values in wanted.items():
        np.testing.assert_allclose(found.values[measure][which], values, atol=2e-6, err_msg=f"{measure}, {which}")
    maps = np.stack([np.asarray(weights) for weights in attention.maps(run, inputs)])
    if name != "listops":
        np.testing.assert_allclose(found.mean, maps.mean(axis=1), atol=1e-6)


def test_uniform_attention_is_the_null_of_each_measure(xor, monkeypatch):
    """Strings of three bits: the tokens that are read see four, five and six tokens, two of which hold the answer."""
    monkeypatch.setattr(BitXor, "grid", (2, 3))
    found = attention.measure(xor, test_split(xor, 5).inputs).uniform
    assert found["bits of that position"][READ] == pytest.approx((2 / 4 + 2 / 5 + 2 / 6) / 3)
    assert found["those of earlier strings"][READ] == pytest.approx((1 / 4 + 1 / 5 + 1 / 6) / 3)
    assert found["entropy"][READ] == pytest.approx(np.log([4, 5, 6]).mean())
    assert found["entropy"][ALL] == pytest.approx(np.log([1, 2, 3, 4, 5, 6]).mean())
    assert found["distance"][READ] == pytest.approx((1.5 + 2 + 2.5) / 3)
    assert found["first token"][READ] == pytest.approx((1 / 4 + 1 / 5 + 1 / 6) / 3)
    assert found["distance in rows"][READ] == pytest.approx((3 / 4 + 3 / 5 + 3 / 6) / 3)
    assert found["distance in columns"][READ] == pytest.approx((3 / 4 + 3 / 5 + 6 / 6) / 3)


def test_the_mean_map_leaves_pads_out(listops):
    inputs = test_split(listops, 40).inputs
    found = attention.measure(listops, inputs).mean
    lengths = (np.asarray(inputs) != 0).sum(axis=1)
    assert lengths.min() < lengths.max()
    maps = np.stack([np.asarray(weights) for weights in attention.maps(listops, inputs)])
    last = int(lengths.max()) - 1
    np.testing.assert_allclose(found[:, :, last], maps[:, :, :, last][:, lengths > last].mean(axis=1), atol=1e-6)
    assert not found[:, :, last + 1 :].any()


def test_before_the_first_step_a_run_is_the_one_that_was_stopped_at_step_0(tiny_folder, tmp_path):
    """Stopped before it took a step, and once more, trained to its end."""
    arguments = ["bit-xor", "--bits", "3", "--body", str(tiny_folder), "--steps", "30", "--batch", "4", "--eval-every", "10",
                 "--out", str(tmp_path / "stopped")]
    stop = ("import os, signal, sys; from fpt.stack import Stack; advance = Stack._advance\n"
            "Stack._advance = lambda self, progress: os.kill(os.getpid(), signal.SIGINT) or advance(self, progress)\n"
            "from fpt import stack; evaluate = stack.evaluate\n"
            "def evaluated(*arguments): os.kill(os.getpid(), signal.SIGINT); return evaluate(*arguments)\n"
            "stack.evaluate = evaluated\n"
            "from scripts import train; from scripts.command import run; sys.argv[1:] = " + repr(arguments) + "; run(train.main)")
    process = subprocess.run([sys.executable, "-c", stop], capture_output=True, text=True)
    assert process.returncode == 128 + signal.SIGINT, process.stderr
    folder, = (tmp_path / "stopped").iterdir()
    state, _ = unpack(folder / "state-00000000.safetensors")
    begun = {name.removeprefix("0/trainable/"): value for name, value in state.items() if name.startswith("0/trainable/")}
    run = trained(tiny_folder, tmp_path / "runs", XOR, steps=30, eval_every=10, lr=run_rate())
    before = run.at(0)
    assert set(begun) == set(before.trainable)
    for name, value in begun.items():
        np.testing.assert_array_equal(before.trainable[name][0], value, err_msg=name)
    stopped = run.at(0)
    stopped.trainable = {name: jnp.asarray(value)[None] for name, value in begun.items()}
    inputs = test_split(run, 8).inputs
    for ours, theirs, after in zip(attention.maps(before, inputs), attention.maps(stopped, inputs), attention.maps(run, inputs)):
        np.testing.assert_array_equal(ours, theirs)
        assert np.abs(ours - after).max() > 0


def run_rate():
    return tasks.find("bit-xor").presets["laptop"].lr


@pytest.mark.parametrize("by", attention.BY)
@pytest.mark.parametrize("name", ["xor", "listops"])
def test_an_ablation_that_takes_no_head_out_changes_nothing_to_the_bit(request, name, by):
    """Against the same blocks without an ablation; against the run's own answers, which are compiled as a whole, nearly."""
    run = request.getfixturevalue(name)
    split = test_split(run, 16)
    own = run.trainer.answer(run.frozen, run.trainable, split.inputs, split.targets)
    found = attention.Ablation(run, split, by).answers()
    np.testing.assert_array_equal(found[0], own[0][0])
    np.testing.assert_allclose(found[1], own[1][0], atol=1e-6)
    x, (_, places) = run.enter(split.inputs), attention._tokens(run, split.inputs)
    for layer in range(2):
        x, _ = attention._through(attention._block(run), attention._parameters(run, layer), x, places if layer else None)
    np.testing.assert_array_equal(found[1], attention._scored(run.leave(x), split.targets)[1])


def without(run, inputs, kept, instead):
    """The logits with only the heads that are kept, bool [L, H], written out: the others pass on instead [L, T, H, D / H]."""
    p, geometry = {name: np.asarray(value, np.float64) for name, value in run.parameters.items()}, run.geometry
    tokens = np.asarray(run.task.encode(jnp.asarray(inputs)))
    x = p["input/embedding"][tokens] if "input/embedding" in p else tokens @ p["input/kernel"] + p["input/bias"]
    x = x + p["body/wpe"][: x.shape[1]]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + geometry.epsilon)
        return x * p[f"{name}/scale"] + p[f"{name}/bias"]

    passed = []
    for layer in range(geometry.layers):
        own, size = f"body/h_{layer}", geometry.width // geometry.heads
        joint = norm(x, f"{own}/ln_1") @ p[f"{own}/attn/c_attn/kernel"] + p[f"{own}/attn/c_attn/bias"]
        query, key, value = (part.reshape(*x.shape[:2], geometry.heads, size) for part in np.split(joint, 3, axis=-1))
        scores = np.einsum("bqhd,bthd->bhqt", query, key) / np.sqrt(size)
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("bhqt,bthd->bqhd", weights / weights.sum(-1, keepdims=True), value)
        passed.append(mixed)
        mixed = np.where(kept[layer][:, None], mixed, instead[layer]).reshape(x.shape)
        x = x + mixed @ p[f"{own}/attn/c_proj/kernel"] + p[f"{own}/attn/c_proj/bias"]
        inner = norm(x, f"{own}/ln_2") @ p[f"{own}/mlp/c_fc/kernel"] + p[f"{own}/mlp/c_fc/bias"]
        inner = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        x = x + inner @ p[f"{own}/mlp/c_proj/kernel"] + p[f"{own}/mlp/c_proj/bias"]
    read = np.asarray(run.model.read(tokens)) if run.task.interface.pad is not None else np.broadcast_to(
        np.arange(x.shape[1] - run.task.interface.queries, x.shape[1]), (len(x), run.task.interface.queries))
    x = np.take_along_axis(norm(x, "body/ln_f"), read[:, :, None], axis=1)
    return (x @ p["output/kernel"] + p["output/bias"]).reshape(len(x), -1, run.task.interface.classes), np.array(passed)


def losses_of(logits, targets):
    logits = logits - logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, targets[:, :, None], axis=2)[:, :, 0]
    return (np.log(np.exp(logits).sum(-1)) - chosen).mean(-1)


@pytest.mark.parametrize("by", attention.BY)
@pytest.mark.parametrize("name", ["xor", "listops"])
@pytest.mark.parametrize("gone", ["a layer", "the last layer", "a head of each"])
def test_without_heads_it_answers_as_a_forward_pass_that_is_written_out(request, name, by, gone, monkeypatch):
    monkeypatch.setattr(attention, "TOKENS_AT_ONCE", 100)  # several chunks
    run = request.getfixturevalue(name)
    split = test_split(run, 16)
    kept = np.ones((2, 4), bool)
    kept[{"a layer": 0, "the last layer": 1, "a head of each": ([0, 1], [2, 3])}[gone]] = False
    _, passed = without(run, split.inputs, np.ones((2, 4), bool), np.zeros(2))
    tokens = np.asarray(run.task.encode(jnp.asarray(split.inputs)))
    real = np.ones(tokens.shape[:2], bool) if run.task.interface.pad is None else tokens != run.task.interface.pad
    instead = np.zeros((2, *passed.shape[2:]))
    if by == "mean":
        for token in np.flatnonzero(real.any(axis=0)):
            instead[:, token] = passed[:, real[:, token], token].mean(axis=1)
    logits, _ = without(run, split.inputs, kept, instead)
    predictions, losses = attention.Ablation(run, split, by).answers(kept)
    np.testing.assert_allclose(losses, losses_of(logits, split.targets), atol=2e-6)
    sure = np.ptp(np.sort(logits, axis=-1)[..., -2:], axis=-1) > 1e-4
    assert sure.mean() > 0.9 and (predictions == logits.argmax(-1))[sure].all()
    assert np.abs(losses - attention.Ablation(run, split, by).answers()[1]).max() > 1e-4


def test_what_is_lost_without_each_head_is_told_whole_and_by_slices(tiny_folder, tmp_path):
    task = BitMemory(strings=2, bits=4, patch=2)
    run = trained(tiny_folder, tmp_path, task, eval_examples=50).at(0)  # it is near to many of its decisions
    split = test_split(run, 1_000)
    ablation, steps = attention.Ablation(run, split, "zero"), []
    found = attention.ablate(ablation, lambda: steps.append(1))
    assert len(steps) == 8 and found.n == 1_000 and set(found.slices) == {"hidden", "visible"}
    whole, hidden = ablation.answers()[0] == split.targets, task.slices(split.inputs)["hidden"]
    assert found.accuracy == whole.mean()
    kept, place = np.ones((2, 4), bool), np.unravel_index(found.error.argmax(), (2, 4))
    kept[place] = False
    predictions, losses = ablation.answers(kept)
    differ = whole.astype(float) - (predictions == split.targets)
    assert found.lost[place] == pytest.approx(differ.mean())
    assert found.error[place] == pytest.approx(differ.mean(axis=1).std() / np.sqrt(1_000)) and found.error[place] > 0
    assert found.nats[place] == pytest.approx(losses.mean(dtype=np.float64) - ablation.answers()[1].mean(dtype=np.float64))
    assert found.slices["hidden"][place] == pytest.approx(differ[hidden].mean())


class Known:
    """An ablation whose accuracy is known: 0.5, and 0.3, 0.2 for two heads that are there together or alone."""

    split = Split(np.zeros((100, 1)), np.ones((100, 1), np.int32))

    def answers(self, kept):
        right = 50 + 30 * kept[0, 1] + 20 * kept[1, 0]
        return (np.arange(100) < right)[:, None].astype(np.int32), None


def test_a_smallest_set_keeps_the_share_and_has_no_head_too_many():
    lost = np.array([[0.0, 0.3], [0.2, 0.0]])
    losses = attention.Losses(100, 1.0, lost, lost, lost, {})
    tries = []
    kept, accuracy = attention.smallest(Known(), losses, floor=0.5, step=lambda: tries.append(1))
    assert kept.tolist() == [[False, True], [True, False]] and accuracy == 1.0 and len(tries) == 4 + 2
    kept, accuracy = attention.smallest(Known(), losses, floor=0.5, share=0.7)  # 0.85, which 0.8 is below, and above 0.7
    assert kept.sum() == 2 and accuracy == 1.0
    kept, accuracy = attention.smallest(Known(), losses, floor=0.5, share=0.6)
    assert kept.tolist() == [[False, True], [False, False]] and accuracy == 0.8


def test_the_correlation_is_spearmans_and_its_interval_the_bootstraps():
    from scipy.stats import bootstrap, spearmanr

    noise = np.random.default_rng(0)
    mass = noise.uniform(size=(6, 8))
    lost = mass + noise.normal(size=mass.shape)
    found, spearman = attention.correlation(mass, lost), lambda *values: spearmanr(*values).statistic
    assert found["rho"] == pytest.approx(spearman(mass.ravel(), lost.ravel()))
    wanted = bootstrap((mass.ravel(), lost.ravel()), spearman, paired=True, vectorized=False, n_resamples=500,
                       method="percentile", rng=noise).confidence_interval
    assert (found["low"], found["high"]) == pytest.approx(wanted, abs=0.06)


def test_a_correlation_that_hangs_on_one_head_has_no_interval():
    lost = np.zeros((6, 8))
    assert attention.correlation(np.arange(48), lost) == {"rho": None, "low": None, "high": None}
    lost[3, 4] = 0.2
    found = attention.correlation(np.arange(48).reshape(6, 8), lost)
    assert found["rho"] > 0 and found["low"] is None and found["high"] is None


def test_the_answer_of_bit_xor_lies_at_the_same_place_of_each_string():
    masks = BitXor(bits=2).answer_tokens(np.zeros((3, 2, 2), np.int8))
    assert masks["bits of that position"][1].tolist() == [[True, False, True, False], [False, True, False, True]]
    assert masks["those of earlier strings"][2].tolist() == [[True, False, False, False], [False, True, False, False]]


def test_the_answer_of_bit_memory_lies_in_the_strings_that_agree_with_what_is_visible():
    inputs = np.array([[[1, -1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 1]], [[1, -1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]])
    masks = BitMemory(strings=2, bits=4, patch=2).answer_tokens(inputs)
    both, second = masks["matching string"].tolist()
    assert both == [[True, False, True, False, False, False], [False, True, False, True, False, False]]
    assert second == [[False, False, True, False, False, False], [False, False, False, True, False, False]]
    assert masks["other strings"][1].tolist() == [[True, False, False, False, False, False],
                                                  [False, True, False, False, False, False]]


def test_the_answer_of_listops_is_the_root_and_its_direct_arguments():
    expression = "[MAX 1 [MIN 2 [SM 3 4 ] ] 5 [MED 6 7 ] ]"
    symbols = np.array([[*symbols_of(expression), 0, 0]], np.uint8)
    masks = ListOps(shortest=4, longest=20).answer_tokens(symbols)
    told = {name: [word for word, on in zip(expression.split(), mask[0, 0]) if on] for name, mask in masks.items()}
    assert told == {"root operator": ["[MAX"], "direct arguments": ["1", "[MIN", "]", "5", "[MED", "]"]}
    assert not any(mask[0, 0, -2:].any() for mask in masks.values())
    assert list(ListOpsOriginal().answer_tokens(symbols)) == ["root operator"]


def test_images_have_a_grid_and_a_picture_that_it_divides():
    task = Mnist(side=32)
    picture = task.picture(np.full((28, 28, 1), 7, np.uint8))
    assert task.grid == (8, 8) and picture.shape == (32, 32, 1) and picture[2:30, 2:30].all() and picture.sum() == 7 * 28**2
    assert XOR.grid is None and XOR.picture(np.zeros((2, 3))) is None and Mnist().answer_tokens(np.zeros((1, 28, 28, 1))) == {}


def test_a_long_map_is_walked_through_one_layer_at_a_time(tiny_folder):
    """What a layer made is let go before the next one is computed."""
    body = load_body(tiny_folder)
    walk = attention.maps(body, np.zeros((1, 5, 32), np.float32))
    first = next(walk)
    assert first.shape == (1, 4, 5, 5) and len([*walk]) == 1


def test_parameters_of_a_step_that_was_not_kept_are_refused(xor):
    with pytest.raises(UserError, match=r"no parameters of step 7, but of 0; train it anew with --keep N"):
        xor.at(7)
    assert records.kept(xor.folder) == ()
