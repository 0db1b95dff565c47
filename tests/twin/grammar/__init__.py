"""Statements over the shop's schema, composed at random: typed, so that nearly all are valid, and with answers that do not depend on chance."""

from tests.twin.grammar.statements import Composer, Statement, compose

__all__ = ["Composer", "Statement", "compose"]
