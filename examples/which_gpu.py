"""Which GPU trains Llama-3-8B, and how: the largest batch of sequences of 4096 tokens, by setting.

Each number is found with the allocator model: one sequence more runs out of memory.
"""

from memmodel.gpus import load_gpu
from memmodel.models.capacity import model_threshold
from memmodel.models.catalogue import listed
from memmodel.models.choices import model_case

SETTINGS = {
    "as it is": {},
    "recomputed, fused loss": {"checkpoint": "block", "loss": "fused", "optimizer": "adamw-fused"},
    "LoRA on top": {"checkpoint": "block", "loss": "fused", "lora": 16},
}
GPUS = ("h100-sxm", "b200")


def largest(model: str, gpu: str, setting: dict[str, object]) -> int:
    """The largest batch that fits; 0 for none."""
    return model_threshold(model_case(listed(model).architecture, seq=4096, **setting), load_gpu(gpu)).largest


def main() -> None:
    """Print the largest batch by setting and GPU."""
    print(f"{'largest batch of llama-3-8b':30}{''.join(f'{gpu:>10}' for gpu in GPUS)}")
    for name, setting in SETTINGS.items():
        batches = [largest("llama-3-8b", gpu, setting) for gpu in GPUS]
        print(f"{name:30}{''.join(f'{batch:10}' for batch in batches)}")


if __name__ == "__main__":
    main()
