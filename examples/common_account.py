"""The widely circulated tables on naive attention and FlashAttention, computed, and where that account is wrong.

KB, MB and GB in that account are binary, as here. Head dim 64, fp16, and one head unless a line says otherwise.
"""

from dataclasses import replace
from math import exp

from memmodel import load_gpu, make_case
from memmodel.base.units import bytes_text
from memmodel.events.program import Launch
from memmodel.gpus import Value
from memmodel.predictor import predict, predict_case
from memmodel.recorder import record


def tensor_bytes(names: str, n: int, batch: int = 1, heads: int = 1) -> int:
    """Bytes of the named tensors in inference by naive attention."""
    case = make_case("naive", batch=batch, heads=heads, seq=n, dtype_name="fp16", phase="inference")
    return sum(tensor.nbytes for tensor in predict_case(case, load_gpu("A100")).tensors if tensor.name in names.split())


def kernels(n: int, phase: str = "inference") -> list[Launch]:
    """The kernels that naive attention launches."""
    return list(record(make_case("naive", seq=n, dtype_name="fp16", phase=phase)).launches())


def balance(name: str, **rounded: float) -> float:
    """FLOP per byte where arithmetic takes as long as memory; the GPU's values replaced by rounded ones."""
    gpu = load_gpu(name)
    values = {key.replace("_", "."): Value(number, "rounded") for key, number in rounded.items()}
    return replace(gpu, values={**gpu.values, **values}).balance_point("fp16")


def row_gradients(scores: list[float], grad: list[float]) -> dict[str, list[float]]:
    """The gradient of softmax over one row: by finite differences, with the row sum, and taken for elementwise."""

    def softmax(at: int = 0, by: float = 0.0) -> list[float]:
        powers = [exp(x + by * (i == at)) for i, x in enumerate(scores)]
        return [power / sum(powers) for power in powers]

    def loss(at: int, by: float) -> float:
        return sum(p * g for p, g in zip(softmax(at, by), grad, strict=True))

    pairs = list(zip(softmax(), grad, strict=True))
    row_sum = sum(p * g for p, g in pairs)
    return {
        "by differences": [(loss(i, 1e-5) - loss(i, -1e-5)) / 2e-5 for i in range(len(scores))],
        "P (dP - sum(P dP))": [p * (g - row_sum) for p, g in pairs],
        "P (1 - P) dP": [p * (1 - p) * g for p, g in pairs],
    }


def main() -> None:
    """Print the tables."""
    print("What holds of that account\n      n  Q, K, V, O      S + P")
    for n in (512, 1024, 2048, 4096, 8192, 16384):
        small, large = (bytes_text(tensor_bytes(names, n)) for names in ("q k v output", "scores probs"))
        print(f"{n:7}  {small:>10} {large:>10}")
    print("batch 8, 12 heads, n = 4096: S + P", bytes_text(tensor_bytes("scores probs", 4096, batch=8, heads=12)))
    qk, _, softmax, pv = (kernel.work for kernel in kernels(16384))
    of_matrix = (qk.flops / qk.written, softmax.flops / softmax.hbm_bytes, pv.flops / qk.written)
    print("FLOP/B over the n x n matrices: QK^T {:g} = d, softmax {:g}, PV {:g} = d".format(*of_matrix))
    print(f"  with Q, K, V and O too: QK^T {qk.intensity:.1f}, PV {pv.intensity:.1f}, below d for every n")
    print(f"balance point of A100 {balance('A100'):.1f}, at 2.0 TB/s {balance('A100', bandwidth=2e12):.0f} FLOP/B")
    h100 = balance("H100", tensor_fp16=990e12, bandwidth=3.35e12)
    print(f"balance point of H100 {balance('H100'):.1f}, at 990 TFLOP/s and 3.35 TB/s {h100:.0f} FLOP/B\n")
    print("What does not hold\n1. softmax's gradient is not elementwise: it needs the row sum. Scores 0 1 2:")
    for how, row in row_gradients([0, 1, 2], [1, 0, 0]).items():
        print(f"     {how:20}", *(f"{x:+.3f}" for x in row))
    naive, flash = (p.memory for p in predict("A100", batch=8, heads=12, head_dim=64, dtype="fp16").predictions)
    of_peak = (naive.saved_bytes / naive.live_peak_bytes, naive.saved_bytes / naive.phase_peaks["forward"])
    print("2. what is saved is {:.1%} of the peak, in backward, not 49.9 %; {:.1%} of forward's.".format(*of_peak))
    of_naive = (flash.saved_bytes / naive.saved_bytes, flash.live_peak_bytes / naive.live_peak_bytes)
    print("3. FlashAttention-2 keeps {:.1%} of what naive keeps, not half, and peaks at {:.1%}.".format(*of_naive))


if __name__ == "__main__":
    main()
