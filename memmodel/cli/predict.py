"""`memmodel predict`."""

from typing import Any

import click

from memmodel.cli.options import (
    algorithm_option,
    alloc_option,
    calibration_option,
    case_arguments,
    case_options,
    chosen_calibration,
    chosen_gpu,
    config,
    examples,
    gpu_options,
    print_json,
    show,
    split_names,
)


@click.command(
    "predict",
    epilog=examples(
        "memmodel predict --gpu A100 --seq 16384",
        "memmodel predict --like llama-3-8b --seq 8k --gpu H100 --phase inference",
    ),
)
@gpu_options
@case_options
@algorithm_option
@alloc_option
@calibration_option
@click.option("--explain", is_flag=True, help="Every number's formula, inputs and source; every kernel's ceilings.")
@click.option("--json", "as_json", is_flag=True, help="JSON, with the keys of docs/json.md.")
def command(
    gpu: str | None,
    gpu_file: str | None,
    algorithms: str | None,
    expandable_segments: bool,
    calibration: str | None,
    explain: bool,
    as_json: bool,
    **case: Any,
) -> None:
    """Predict the memory, work and time of attention."""
    from memmodel.predictor import predict

    device = chosen_gpu(gpu, gpu_file)
    report = predict(
        device,
        split_names(algorithms),
        config=config(expandable_segments),
        calibration=chosen_calibration(calibration, gpu, device),
        **case_arguments(case),
    )
    if as_json:
        print_json(report.to_dict())
    elif explain:
        from memmodel.closed_forms import formulas_of
        from memmodel.report.explain import explanation

        show(explanation(report, [formulas_of(p.case) for p in report.predictions]))
    else:
        show(report)
