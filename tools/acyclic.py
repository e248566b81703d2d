"""A contract for import-linter: no circle of imports between files, imports inside functions included."""

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output
from importlinter.application import contract_utils


class Acyclic(Contract):
    """Files can be sorted so that each imports earlier ones alone; `acyclic_siblings` sorts packages only."""

    ignore_imports = fields.SetField(subfield=fields.ImportExpressionField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Drop the ignored imports, then sort the files; a circle is what cannot be sorted."""
        contract_utils.remove_ignored_imports_and_report(
            graph, self.ignore_imports or (), contract_utils.AlertLevel.ERROR
        )
        circles = list(_circles({m: graph.find_modules_directly_imported_by(m) for m in graph.modules}))
        return ContractCheck(kept=not circles, metadata={"circles": circles})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """One line for each circle."""
        for circle in check.metadata["circles"]:
            output.print_error(" -> ".join(circle))


def _circles(imports: dict[str, Any]) -> Iterable[list[str]]:
    """Circles, each broken at one import before the next is searched."""
    while True:
        try:
            TopologicalSorter(imports).prepare()
        except CycleError as error:
            circle = error.args[1][::-1]  # graphlib lists what is imported first
            yield circle
            imports[circle[0]] = imports[circle[0]] - {circle[1]}
        else:
            return
