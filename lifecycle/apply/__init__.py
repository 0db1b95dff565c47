"""`pgveil apply`: bring a database to what the rules say. `make_plan` looks, `execute` does."""

from lifecycle.apply.model import ApplyError, ApplyPlan, Change, Obstacle, ObstaclesError, StalePlanError
from lifecycle.apply.plan import make_plan
from lifecycle.apply.run import execute

__all__ = [
    "ApplyError",
    "ApplyPlan",
    "Change",
    "Obstacle",
    "ObstaclesError",
    "StalePlanError",
    "execute",
    "make_plan",
]
