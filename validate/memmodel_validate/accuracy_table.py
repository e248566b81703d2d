"""The README's accuracy table: today's model against every recorded number.

Printed by `python -m memmodel_validate.accuracy_table`.
"""

from memmodel_validate.comparison import Accuracy, accuracy
from memmodel_validate.records import tables

_HEAD = """| recorded run | GPU | torch | what | numbers | exact | largest difference |
| --- | --- | --- | --- | --- | --- | --- |"""


def markdown() -> str:
    """One row per table and column, and the sum. A difference is of the printed, rounded number, in bytes."""
    found = accuracy()
    total = f"| all | | | | {sum(a.rows for a in found)} | {sum(a.exact for a in found)} | |"
    return "\n".join([_HEAD, *map(_row, found), total])


def _row(row: Accuracy) -> str:
    source = tables()[row.table].source
    numbers = f"{row.rows} | {row.exact} | {abs(row.worst_residual):,.0f} B"
    return f"| {row.table} | {source.gpu} | {source.environment['torch']} | {row.column} | {numbers} |"


if __name__ == "__main__":
    print(markdown())
