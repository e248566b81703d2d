"""`memmodel models`."""

from memmodel.cli.commands import argument, subcommand
from memmodel.cli.options import json_option
from memmodel.cli.output import print_json, show


@subcommand("models", "memmodel models", "memmodel models llama", "memmodel predict --like llama-3-8b --seq 8k")
@argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the models that --like takes, or those with NAME in their name; one model in full, with its source."""
    from memmodel.models.catalogue import listed, models

    known = models()
    wanted = (name or "").casefold()
    found = [known[wanted]] if wanted in known else [model for key, model in known.items() if wanted in key]
    found = found or [listed(wanted)]  # another name of a model, or an error
    if as_json:
        print_json({"schema": 1, "models": [model.to_dict() for model in found]})
        return
    from memmodel.report.models import model_sheet, model_table

    show(model_sheet(found[0]) if len(found) == 1 else model_table(found))
