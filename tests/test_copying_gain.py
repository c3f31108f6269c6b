"""The copying gain of bodies is read off their pretraining, and orders what frozen bodies reach only
where the records say so."""

import json
import shutil

import pytest

from fpt import UserError
from fpt.bodies import SHIPPED
from scripts import claims, pretrain, results_tables, studies
from scripts.claims_document import document
from scripts.claims_verdicts import judge
from scripts.figure import COLOURS
from scripts.ledger import Ledger
from scripts.qualities import qualities
from scripts.results import RESULTS
from tests.made_results import FLOOR, recorded, rows, write
from tests.test_results_figures import data, drawn, words

__all__ = ["drawn"]  # a fixture
STUDY = studies.study("copying-gain")
# What the made-up pretrainings come to after a step: copying gain, and loss on validation.
PRETRAINED = {"language": lambda step: (0.3 + step / 1_000, 4 - step / 10_000),
              "copy": lambda step: (step / 50, 3)}


def shipped(name):
    return json.loads((SHIPPED / name / "pretraining.json").read_text())


def gains():
    """States the copying gain of each condition for which it is known."""
    random = shipped("gpt2-mini")["curve"][0]["probes"]
    found = {"language": shipped("gpt2-mini")["result"]["figures"]["copying gain"],
             "copying": shipped("gpt2-mini-copy")["result"]["figures"]["copying gain"],
             "random": random["random"]["loss"] - random["repeated"]["loss"]}
    for condition in STUDY.conditions:
        made, _, step = condition.settings.get("body", "").partition("@")
        if step:
            found[condition.name], _ = PRETRAINED[made](int(step))
    return found


def pretraining(name):
    """Makes up the record of a pretraining that the study asks for."""
    _, config, _ = pretrain.stated(STUDY.bodies[name].split())
    score = {"accuracy": 0.1, "loss": 1.0, "slices": {}}
    curve = []
    for step in range(0, config.steps + 1, config.eval_every):
        gain, loss = PRETRAINED[name](step)
        curve.append({"step": step, "train": None, "validation": score | {"loss": loss},
                      "probes": {"random": {"loss": 9.0}, "repeated": {"loss": 9.0 - gain}}})
    result = {"floors": {"majority": 0.1}, "test": score, "validation": score,
              "best_step": config.steps}
    return {"run": config.name, "config": json.loads(json.dumps(config.record())),
            "curve": curve, "result": result}


def reached(order, low=0.90, apart=0.005):
    """States accuracies that rise by a step from one condition to the next."""
    return {name: low + apart * place for place, name in enumerate(order)}


ORDERED = sorted(gains(), key=gains().get)
ALONE = "language alone +1.000; copy alone +1.000"  # the order within each pretraining
OTHERS = ["statistics of language", "mimetic attention"]  # bodies of unknown gain


@pytest.fixture
def folder(tmp_path):
    """Makes a folder of results in which the copying gain orders the bodies of the study."""
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("papers.json", "claims.toml"):
        shutil.copy(RESULTS / name, folder)
    write(folder, map(pretraining, PRETRAINED), "bodies")
    reach(folder, reached(ORDERED))
    return folder


def reach(folder, accuracies):
    write(folder, recorded(accuracies, ["bit-memory"], STUDY.name), STUDY.name)


def known(folder):
    return qualities(STUDY.cells("mini"), folder / "records")


def details(folder, over="copying gain", task="bit-memory"):
    """Finds what the page of claims says of an order on a task, were there no other claims."""
    asked = {name: studies.study(name) for name in studies.names()}
    orders = [claim for claim in claims.read(folder / "claims.toml", asked, "mini")
              if getattr(claim, "over", None) == over and task in (claim.tasks or [task])]
    records = {STUDY.name: Ledger(folder / "records" / f"{STUDY.name}.jsonl")}
    page = document(orders, judge(orders, asked, "mini", records), "mini")
    return rows(page, "1", task)[0][2:]


def test_gains_are_those_of_the_pretraining_at_the_step_of_the_body(folder):
    assert {name: one.gain for name, one in known(folder).items()} == pytest.approx(gains())
    assert len(gains()) == len(STUDY.conditions) - len(OTHERS)


def test_a_random_body_has_the_gain_of_untrained_weights(folder):
    assert known(folder)["random"].pretraining == "random"
    assert abs(known(folder)["random"].gain) < 0.01 < known(folder)["language"].gain


def test_bodies_drawn_anew_or_loaded_in_part_have_no_known_gain(folder):
    assert not {*OTHERS} & known(folder).keys()


def test_a_pretraining_with_other_settings_is_not_taken_for_a_bodys(folder):
    other = pretraining("copy")
    other["config"]["lr"] *= 2
    write(folder, [other, pretraining("language")], "bodies")
    assert known(folder).keys() == {name for name in gains() if not name.startswith("copying, ")}


def test_a_pretraining_that_diverged_or_did_not_measure_gives_no_gain(folder):
    language, copy = map(pretraining, PRETRAINED)
    for line in language["curve"]:
        del line["probes"]
    for line in copy["curve"]:
        line["probes"]["repeated"]["loss"] = None
    write(folder, [language, copy], "bodies")
    assert known(folder).keys() == {"language", "copying", "random"}


def test_the_verdict_on_an_order_follows_the_records_and_flips_when_they_are_reversed(folder):
    found = details(folder)
    assert found[:3] == [f"rho +1.000 ({ALONE})", "+1.000 to +1.000", f"{len(ORDERED)} bodies"]
    assert found[3] == "<0.001" and found[-1] == "supported"
    reach(folder, reached(reversed(ORDERED)))
    found = details(folder)
    assert found[0].startswith("rho -1.000 (") and found[-1] == "contradicted"
    reach(folder, reached(ORDERED[::2] + ORDERED[1::2][::-1]))  # up, and down again
    assert details(folder)[-1] == "undecided"


def test_bodies_of_unknown_gain_do_not_count_in_an_order(folder):
    reach(folder, reached(ORDERED) | dict.fromkeys(OTHERS, 0.6))
    assert details(folder)[::2][:2] == [f"rho +1.000 ({ALONE})", f"{len(ORDERED)} bodies"]


def test_an_order_of_too_few_bodies_is_not_tested(folder):
    # Without the last, which is `copying`, the rate of those that take it is not known.
    reach(folder, reached([*ORDERED[:8], ORDERED[-1]]))
    assert details(folder)[2:] == ["9 bodies", "-", "not tested"]
    reach(folder, reached([*ORDERED[:9], ORDERED[-1]]))
    assert details(folder)[2::2] == ["10 bodies", "supported"]


def test_a_body_of_which_a_seed_is_missing_does_not_count_in_an_order(folder):
    file = folder / "records" / f"{STUDY.name}.jsonl"
    runs = [json.loads(line) for line in file.read_text().splitlines()]
    one = next(run for run in runs if run["config"]["body"].endswith("language-400")
               and run["config"]["seed"] == 1)
    runs.remove(one)
    write(folder, runs, STUDY.name)
    assert details(folder)[2] == f"{len(ORDERED) - 1} bodies"


def test_the_order_within_each_pretraining_is_stated_beside_that_of_all_bodies(folder):
    language = [name for name in ORDERED if known(folder)[name].pretraining == "language"]
    others = [name for name in ORDERED if name not in language]
    reach(folder, reached([*others, *reversed(language)]))
    assert details(folder)[0].endswith("(language alone -1.000; copy alone +1.000)")


def test_an_order_of_bodies_that_all_fail_says_nothing(folder):
    reach(folder, reached(ORDERED, low=0.3))
    assert details(folder)[-1] == "undecided (none passes the floor)"


def test_a_lower_loss_on_text_counts_as_better(folder):
    losses = {name: one.loss for name, one in known(folder).items() if one.loss is not None}
    assert len(losses) == 11 and max(losses, key=losses.get) == "random"
    reach(folder, reached(sorted(losses, key=losses.get, reverse=True)))
    assert details(folder, "language loss")[:3] == [
        "rho +1.000 (language alone +1.000)", "+1.000 to +1.000", "11 bodies"]


@pytest.mark.parametrize("stated, said", [
    ('over = "copying gain"\nother = "random"', "states both `over`, .* and `other`, .* leave one"),
    ('over = "copying gain"\nmargin = 0.02', "states both `over`, .* and `margin`"),
    ('over = "copying gains"', "quality of bodies, in claim .* did you mean 'copying gain'"),
    ('over = "copying gain"\ntasks = ["mnits"]', "task of copying-gain.* did you mean 'mnist'")])
def test_a_mistake_in_a_claim_about_an_order_is_one_line(folder, stated, said):
    file = folder / "claims.toml"
    file.write_text('[[claims]]\nsentence = "S"\nsource = "here"\nstudy = "copying-gain"\n'
                    f"{stated}\n")
    with pytest.raises(UserError, match=said) as refused:
        claims.read(file, {STUDY.name: STUDY}, "mini")
    assert "claim 1 of" in str(refused.value) and "\n" not in str(refused.value)


def test_the_table_states_the_gain_of_each_body(folder):
    records = Ledger(folder / "records" / f"{STUDY.name}.jsonl")
    table = results_tables.tables(STUDY, "mini", records, {})
    place = rows(table, "condition", "rate")[0].index("gain")
    stated = {row[0]: row[place] for row in rows(table) if len(row) > place}
    assert stated["copying"] == "6.24" and stated["copying, 60 steps"] == "1.20"
    assert {stated[name] for name in OTHERS} == {"-"}


def test_a_body_stands_at_its_gain_and_its_accuracy(folder, drawn):
    axes = drawn(data(folder, "gain", STUDY.name))["bit-memory"]
    mean = (1 + 4 + 9) / 3  # of the seeds 1 to 3: what they fall short, in thousandths
    points = {(round(float(x), 6), round(float(y), 6)): (line.get_marker(), line.get_color())
              for line in axes.lines if line.get_linestyle() == "None"
              for x, y in zip(line.get_xdata(), line.get_ydata())}
    expected = {name: (round(gains()[name], 6), round(accuracy - mean / 1_000, 6))
                for name, accuracy in reached(ORDERED).items()}
    assert points.keys() == {*expected.values()}
    looks = [points[expected[name]] for name in ("language", "copying", "random")]
    assert looks == [("o", COLOURS[0]), ("s", COLOURS[1]), ("X", "black")]
    assert axes.get_title(loc="right") == f"rho = +1.00, {len(ORDERED)} bodies"


def test_a_figure_of_gains_names_what_it_leaves_out(folder):
    reach(folder, reached([*ORDERED, *OTHERS]))
    found = words(folder, "gain", STUDY.name)
    assert ("Not shown, as the body's copying gain is not known: statistics of language; mimetic "
            "attention.") in found
    assert {"pretrained on language", "pretrained on copying", "random"} <= {*found}


@pytest.mark.parametrize("low, shown", [(FLOOR + 0.05, True), (FLOOR + 0.4, False)])
def test_a_floor_far_below_all_bodies_is_told_and_not_drawn(folder, drawn, low, shown):
    reach(folder, reached(ORDERED, low=low))
    axes = drawn(data(folder, "gain", STUDY.name))["bit-memory"]
    bottom, _ = axes.get_ylim()
    assert (bottom < FLOOR) == shown
    assert [one.get_text() for one in axes.texts] == ([] if shown else [
        f"best trivial predictor, below: {FLOOR:.3f}"])
