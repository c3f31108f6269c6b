"""Maps names to the project's tasks, each a class in a file; `fpt.packages` finds them here."""

from fpt.registry import find, from_file

__all__ = ["BIRTHS", "DERIVED", "TASKS", "find", "from_file"]

TASKS = {
    "bit-memory": "tasks.bits:BitMemory",
    "bit-xor": "tasks.bits:BitXor",
    "listops": "tasks.listops:ListOps",
    "listops-original": "tasks.listops:ListOpsOriginal",
    "mnist": "tasks.images:Mnist",
    "cifar10": "tasks.images:Cifar10",
    "cifar10-lra": "tasks.images:Cifar10Lra",
}
BIRTHS = {  # what a body is pretrained on
    "language": "tasks.language:Language",
    "copy": "tasks.copying:Copying",
}
DERIVED = {"self-": "tasks.selfsupervised:on_own_inputs"}  # a prefix to the name of another task
