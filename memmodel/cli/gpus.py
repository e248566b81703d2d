"""`memmodel gpus`."""

import click

from memmodel.cli.options import print_json, show


@click.command("gpus")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="JSON: every value with its unit and source.")
def command(name: str | None, as_json: bool) -> None:
    """List the GPUs known; with a NAME, every value of one and where it comes from."""
    from memmodel.gpus import all_gpus, load_gpu

    found = [load_gpu(name)] if name is not None else list(all_gpus())
    if as_json:
        from memmodel.report.json import gpu_values_dict

        print_json({"schema": 1, "gpus": [gpu_values_dict(gpu) for gpu in found]})
    elif name is not None:
        from memmodel.report.tables import gpu_value_table

        show(gpu_value_table(found[0]))
    else:
        from memmodel.report.tables import gpu_table

        show(gpu_table(found))
