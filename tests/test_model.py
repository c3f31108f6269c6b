"""What a model answers: which numbers of the output layer are whose logits."""

import jax
import numpy as np

from fpt.gpt2 import GPT2
from fpt.model import apply, build, shapes_of
from tasks.bits import BitMemory


def test_the_output_layer_holds_the_classes_of_a_querys_answers_one_answer_after_another():
    """As the released code has it, and as the weights of recorded runs mean it."""
    task = BitMemory(strings=1, bits=6, patch=3)
    model = build(task, GPT2(layers=1, width=8, heads=2, positions=4))
    values = {name: np.zeros(shape, np.float32) for name, shape in shapes_of(model, task).items()}
    values["output/bias"] = np.arange(6, dtype=np.float32)
    logits = jax.jit(lambda tokens: apply(model, values, tokens)[0])(np.zeros((1, task.interface.tokens, 3), np.float32))
    assert logits.tolist() == [2 * [[0, 1], [2, 3], [4, 5]]]  # of two queries, three answers each
