"""What the database computes of a statement on sealed columns, and what has to be computed over the opened rows.

A statement that PostgreSQL can't run on sealed values is taken apart into leaves, SELECTs that it can run, and the client's own text with
relations put in for what the leaves give. `clauses` finds the parts of the text, `names` what is used of a relation, `tail` and `leaves` make
proposals; whoever asks judges every leaf like a statement of the client's.
"""

from rules.split.compose import LeafText, Split, propose, propose_fold, propose_keep, propose_write, united
from rules.split.keeping import KeepText, Shown
from rules.split.parts import leaf_name
from rules.split.writing import WriteText, many_rows

__all__ = [
    "KeepText",
    "LeafText",
    "Shown",
    "Split",
    "WriteText",
    "leaf_name",
    "many_rows",
    "propose",
    "propose_fold",
    "propose_keep",
    "propose_write",
    "united",
]
