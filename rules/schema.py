"""The form of a rules file: its keys in one place, for the loader and for the published JSON Schema (draft 2020-12).

`docs/rules.schema.json` is `json_schema()` written out (`pgveil schema`); editors complete and check rules files with it.
"""

from __future__ import annotations

from typing import Any

from rules.logical import LOGICAL_TYPES
from rules.masks import MASK_KINDS, MaskKind, Param
from rules.model import Level, OnDamage, Protection, SealMode, Verdict
from rules.names import PLAIN_PART, QUOTED_PART

FORMAT_VERSION = 1

# Longer words than these are mistakes.
MAX_WORD = 200
MAX_PLACEHOLDER = 200
# An enum's labels are part of its type.
MAX_TYPE = 10_000
MAX_LIST = 10_000

STORED = ("sealed", "plain")

TOP_KEYS = ("version", "tables", "roles")
TABLE_KEYS = ("subject", "columns")
COLUMN_KEYS = ("level", "protection", "stored", "mode", "type", "domain", "mask", "on_damage", "placeholder")
ROLE_KEYS = ("logins", "member_of", "levels", "columns", "lookups", "mixed_domains")
ROLE_COLUMN_KEYS = ("verdict", "lookup", "write")
LOOKUPS_KEYS = ("per_minute",)
LOOKUP_FORMS = ("equality", "none")
WRITE_FORMS = ("values", "none")

# Look-ups a minute that a role gets when it does not say how many; and the most that can be meant.
DEFAULT_LOOKUPS = 30
MAX_LOOKUPS = 1_000_000

# A domain names keys, files and metrics labels.
DOMAIN_FORM = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}"
# A post's name appears in reports; any script will do.
ROLE_FORM = r"[^\s\x00-\x1f\x7f.,:;\"'`{}\[\]](?:[^\s\x00-\x1f\x7f\"'`{}\[\]]| (?=\S)){0,62}"

_PART = f"(?:{PLAIN_PART}|{QUOTED_PART})"


def json_schema() -> dict[str, Any]:
    """The schema as a JSON value."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pgveil rules",
        "description": "What is protected, and from whom. Reference: docs/rules.md.",
        "type": "object",
        "required": ["version", "tables"],
        "additionalProperties": False,
        "properties": {
            "version": {"description": "The form of this file.", "const": FORMAT_VERSION},
            "tables": {
                "description": "Classified tables, by schema.table as SQL writes it.",
                "type": "object",
                "maxProperties": MAX_LIST,
                "propertyNames": {"pattern": _whole(f"{_PART}\\.{_PART}")},
                "additionalProperties": {"$ref": "#/$defs/table"},
            },
            "roles": {
                "description": "Posts: who sees what.",
                "type": ["object", "null"],
                "maxProperties": MAX_LIST,
                "propertyNames": {"pattern": _whole(ROLE_FORM)},
                "additionalProperties": {"$ref": "#/$defs/role"},
            },
        },
        "$defs": {
            "name": {"type": "string", "pattern": _whole(_PART)},
            "names": {"type": ["array", "null"], "items": {"$ref": "#/$defs/name"}, "maxItems": MAX_LIST},
            "verdict": {"enum": [*Verdict]},
            "role_column": _role_column(),
            "table": _table(),
            "column": _column(),
            "mask": _mask(),
            "role": _role(),
        },
    }


def _table() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["columns"],
        "additionalProperties": False,
        "properties": {
            "subject": {"description": "The column that tells whose row it is.", "$ref": "#/$defs/name"},
            "columns": {
                "description": "Classified columns.",
                "type": "object",
                "maxProperties": 1600,
                "propertyNames": {"pattern": _whole(_PART)},
                "additionalProperties": {"$ref": "#/$defs/column"},
            },
        },
    }


def _column() -> dict[str, Any]:
    properties = {
        "level": {"description": "Level of the information (policy 3.1).", "enum": [*Level]},
        "protection": {
            "description": "How the column is kept. Default: sealed for core, masked for important, none for general.",
            "enum": [*Protection],
        },
        "stored": {
            "description": "`plain` keeps a core column unsealed, against the policy's article 3.2.",
            "enum": [*STORED],
        },
        "mode": {
            "description": "Sealed columns: whether equal values seal equal, so that = and joins work.",
            "enum": [*SealMode],
        },
        "type": {
            "description": f"The type that clients see: {', '.join(LOGICAL_TYPES)}, with a length where SQL takes one, or an array.",
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_TYPE,
        },
        "domain": {
            "description": "Key domain. Columns that share one can be joined. Default: the column's full name.",
            "type": "string",
            "pattern": _whole(DOMAIN_FORM),
        },
        "mask": {"description": "What masked roles see. Without one they are refused.", "$ref": "#/$defs/mask"},
        "on_damage": {"description": "What a value that does not open gives. Default: fail.", "enum": [*OnDamage]},
        "placeholder": {
            "description": "The text shown for a value that does not open; null for NULL.",
            "type": ["string", "null"],
            "maxLength": MAX_PLACEHOLDER,
        },
    }
    assert tuple(properties) == COLUMN_KEYS
    return {"type": "object", "required": ["level"], "additionalProperties": False, "properties": properties}


def _mask() -> dict[str, Any]:
    bare = [kind for kind, m in MASK_KINDS.items() if not m.required]
    return {
        "oneOf": [
            {"description": "A mask without parameters.", "enum": bare},
            *({"description": m.doc, **_mask_object(kind, m)} for kind, m in MASK_KINDS.items()),
        ]
    }


def _mask_object(kind: str, mask: MaskKind) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["kind", *mask.required],
        "additionalProperties": False,
        "properties": {"kind": {"const": kind}, **{name: _param(p) for name, p in mask.params.items()}},
    }


def _param(param: Param) -> dict[str, Any]:
    form: dict[str, Any]
    if param.kind == "int":
        form = {"type": "integer", "minimum": param.minimum, "maximum": param.maximum}
    elif param.kind == "str":
        form = {"type": "string", "minLength": param.minimum, "maxLength": param.maximum}
    else:
        form = {"type": ["string", "integer", "boolean"], "maxLength": param.maximum}
    default = {} if param.default is None else {"default": param.default}
    return {"description": param.doc, **form, **default}


def _role() -> dict[str, Any]:
    return {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {
            "logins": {"description": "Database logins that hold the post.", "$ref": "#/$defs/names"},
            "member_of": {"description": "Database roles whose members hold the post.", "$ref": "#/$defs/names"},
            "levels": {
                "description": "What the post gets of each level.",
                "type": ["object", "null"],
                "propertyNames": {"enum": [*Level]},
                "additionalProperties": {"$ref": "#/$defs/verdict"},
            },
            "columns": {
                "description": "What the post gets of single columns; this goes before `levels`.",
                "type": ["object", "null"],
                "maxProperties": MAX_LIST,
                "propertyNames": {"pattern": _whole(f"{_PART}\\.{_PART}\\.{_PART}")},
                "additionalProperties": {"$ref": "#/$defs/role_column"},
            },
            "lookups": {
                "description": "How often the post may look up, over all columns with `lookup` or `write`.",
                "type": "object",
                "required": [*LOOKUPS_KEYS],
                "additionalProperties": False,
                "properties": {
                    "per_minute": {
                        "description": "Values a minute and login.",
                        "type": "integer",
                        "minimum": 1,
                        "maximum": MAX_LOOKUPS,
                        "default": DEFAULT_LOOKUPS,
                    }
                },
            },
            "mixed_domains": {
                "description": "Key domains of which the post may see some columns clear and others not, though it writes them.",
                "type": ["array", "null"],
                "maxItems": MAX_LIST,
                "items": {"type": "string"},
            },
        },
    }


def _role_column() -> dict[str, Any]:
    return {
        "oneOf": [
            {"$ref": "#/$defs/verdict"},
            {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": False,
                "properties": {
                    "verdict": {"description": "Default: the level's.", "$ref": "#/$defs/verdict"},
                    "lookup": {
                        "description": "`equality`: rows may be found by the real value of a column that is seen masked.",
                        "enum": [*LOOKUP_FORMS],
                    },
                    "write": {
                        "description": "`values`: a column that is not seen clear may be given values, each of which counts as a look-up.",
                        "enum": [*WRITE_FORMS],
                    },
                },
            },
        ]
    }


def _whole(pattern: str) -> str:
    return f"^(?:{pattern})$"
