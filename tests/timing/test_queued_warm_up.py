"""A mean forward that holds a warm-up which nothing waits for: by the definition of a mean, and on recorded runs."""

import pytest
from msgspec.structs import replace

from memmodel_evidence.programs import program_of
from memmodel_evidence.records import everything
from memmodel_evidence.times import machine_of, predicted_seconds, times
from memmodel_validate.ledger import Source


def test_the_first_of_a_hundred_forwards_holds_five_steps() -> None:
    ledger = everything()
    queued = ledger.sources["sara-eager"]
    waited = Source(queued.name, queued.environment, {k: v for k, v in queued.protocol.items() if "queued" not in k})
    run = ledger.of("sara-eager")[0]
    program, machine = program_of(run, queued), machine_of(queued, None)
    forward, backward = (predicted_seconds(program, phase, waited, machine) for phase in ("forward", "backward"))
    samples = [forward + 5 * (forward + backward)] + [forward] * 99
    assert predicted_seconds(program, "forward", queued, machine) == pytest.approx(sum(samples) / 100)
    assert predicted_seconds(program, "backward", queued, machine) == backward
    only = replace(queued, protocol={**waited.protocol, "queued_forwards": "0.05"})
    assert predicted_seconds(program, "forward", only, machine) == pytest.approx(1.05 * forward)


@pytest.mark.parametrize(("table", "steps"), [("sara-eager", True), ("sara-eager-2", True), ("jennjwang-eager", False)])
def test_recorded_forwards_differ_from_a_table_that_waits_by_just_that(table: str, steps: bool) -> None:
    """Three B200s, one script each: what subha-eager, which waits for each warm-up, would have had."""
    ledger = everything()
    shapes = {}
    for run in ledger.of("subha-eager"):
        shapes[run.case["seq"], run.case["head_dim"]] = [timed.seconds for timed in times(run)]
    ratios = []
    for run in ledger.of(table):
        if run.case["seq"] >= 4096 and run.measured:
            forward, backward = shapes[run.case["seq"], run.case["head_dim"]]
            expected = forward + 0.05 * (forward + (backward if steps else 0.0))
            ratios.append(run.measured["forward_time"].value / expected)
    assert len(ratios) == 12
    assert min(ratios) > 0.94
    assert max(ratios) < 1.01
