"""`memmodel models`."""

import click

from memmodel.cli.options import json_option, subcommand
from memmodel.cli.output import print_json, show


@subcommand("models", "memmodel models", "memmodel models llama", "memmodel predict --like llama-3-8b --seq 8k")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the models that --like takes, or those with NAME in their name: heads, head dim, mask and source."""
    from memmodel.errors import unknown
    from memmodel.models import models

    known = models()
    found = {key: shape for key, shape in known.items() if (name or "").casefold() in key}
    if not found:
        raise unknown("model", name, known)
    if as_json:
        print_json({"schema": 1, "models": [{"name": key, **shape} for key, shape in found.items()]})
    else:
        from memmodel.report.tables import model_table

        show(model_table(found))
