"""The largest sequence that fits: naive attention and FlashAttention-2, one training step, on a few GPUs."""

from memmodel import load_gpu, make_case
from memmodel.thresholds import Threshold, threshold

GPUS = ("RTX 4090", "A100", "H100", "H200")
ALGORITHMS = ("naive", "naive-by-hand", "flash")


def wall(gpu: str, algorithm: str) -> Threshold:
    """The largest number of queries, in steps of 128, for 32 heads of 128 in bf16."""
    case = make_case(algorithm, heads=32, seq=4096, head_dim=128)
    return threshold(case, load_gpu(gpu), over="seq", step=128)


def main() -> None:
    """One line per GPU: the last size that fits and the first that does not."""
    print(f"{'largest seq (first that fails)':32}" + "".join(f"{name:>22}" for name in ALGORITHMS))
    for gpu in GPUS:
        walls = (wall(gpu, algorithm) for algorithm in ALGORITHMS)
        cells = (f"{found.largest:,} ({found.first_failing:,})" for found in walls)
        print(f"{load_gpu(gpu).name:32}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
