"""Trains a frozen body on a task: `python -m scripts.train TASK`.

Several rates and seeds are trained as one stack: `python -m scripts.train bit-xor --lr 1e-3 3e-4 --seed 0 1 2`.
"""

from scripts.command import chosen_task, run
from scripts.options import configurations, train_all


def main(arguments: list[str]) -> None:
    task_class, file, rest = chosen_task(arguments, "python -m scripts.train TASK [options]")
    train_all(*configurations(task_class, file, rest, f"python -m scripts.train {task_class.name}"))


if __name__ == "__main__":
    run(main)
