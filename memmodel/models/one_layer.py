"""The model that a case of attention is one layer of, and the cache of all its layers."""

from memmodel.attention.case import SIZES, Case
from memmodel.models.catalogue import listed
from memmodel.models.kv_cache import cache_bytes
from memmodel.prediction import Model


def model_of(like: str, case: Case) -> Model:
    """The listed model called `like`.

    Its cache is known in inference, where the case has the model's own heads and head dims.
    """
    found = listed(like)
    arch, cache = found.architecture, case.cache
    own = all(getattr(case, name) == size for name, size in found.shape.items() if name in SIZES)
    tokens = case.kv_seq if cache.page is None else cache.pages(case.kv_seq) * cache.page
    kept = case.batch * cache_bytes(arch, tokens, itemsize=(cache.dtype or case.dtype).itemsize)
    return Model(found.name, arch.layers, int(kept) if own and case.phase == "inference" else None)
