"""One column of a rules file: what its keys mean together."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

from rules.document import Mapping, Scalar
from rules.logical import LOGICAL_TYPES, canonical_type, has_equality, misfit
from rules.masks import MASK_KINDS, masks_for
from rules.model import Column, Level, MaskSpec, OnDamage, Protection, SealMode
from rules.problems import did_you_mean
from rules.schema import COLUMN_KEYS, DOMAIN_FORM, MAX_PLACEHOLDER, MAX_TYPE

if TYPE_CHECKING:
    from rules.document import Node
    from rules.masks import Param
    from rules.model import ColumnName
    from rules.reading import Reader


class Stored(StrEnum):
    """The explicit way out of policy article 3.2 (core information is stored sealed)."""

    SEALED = "sealed"
    PLAIN = "plain"


_DEFAULT_PROTECTION = {
    Level.CORE: Protection.SEALED,
    Level.IMPORTANT: Protection.MASKED,
    Level.GENERAL: Protection.NONE,
}
_SEALED_ONLY = ("mode", "domain", "on_damage", "placeholder")
_NO_MASK = "without a mask, roles with the verdict `masked` are refused"


def read_column(reader: Reader, name: ColumnName, node: Node) -> Column | None:
    """The column that a node describes; None, with errors noted, where it does not describe one."""
    fields = reader.fields(node, f"column {name}", COLUMN_KEYS)
    if fields is None:
        return None
    reader.required(node.place, f"column {name}", fields, ("level",))
    level = reader.choice(fields.get("level"), "level", Level)
    given = reader.choice(fields.get("protection"), "protection", Protection)
    stored = reader.choice(fields.get("stored"), "stored", Stored)
    mode = reader.choice(fields.get("mode"), "mode", SealMode)
    logical = _type(reader, fields.get("type"))
    domain = _domain(reader, fields.get("domain"))
    mask = _mask(reader, fields["mask"], logical) if "mask" in fields else None
    on_damage = reader.choice(fields.get("on_damage"), "on_damage", OnDamage) or OnDamage.FAIL
    placeholder = _placeholder(reader, fields, logical, on_damage)
    if level is None or ("protection" in fields and given is None):
        return None
    protection = _protection(reader, node, level, given, stored)
    if protection is Protection.SEALED:
        for key, value in (("type", logical), ("mode", mode)):
            if value is None and key not in fields:
                _missing(reader, node, name, key)
        if domain is None and "domain" not in fields and not str(name).isprintable():
            reader.error(
                node.place,
                "the column's name cannot name its key domain: it holds a character that cannot be printed",
                "add `domain:`",
            )
        if mode is SealMode.DETERMINISTIC and logical is not None and not has_equality(logical):
            reader.error(
                fields["mode"].place,
                f"values of type {logical} cannot be compared when they are sealed",
                "write `mode: randomized`",
            )
    else:
        _useless(reader, fields, protection)
        mode, domain, on_damage, placeholder = None, None, OnDamage.FAIL, None
    if protection is Protection.NONE and "mask" in fields:
        reader.error(
            fields["mask"].place,
            "a mask on a column without protection would never be used",
            "add `protection: masked`",
        )
    if protection is Protection.MASKED and "mask" not in fields:
        reader.warn(node.place, f"column {name} is masked but has no mask: {_NO_MASK}", _mask_fix(logical))
    return Column(
        name=name,
        level=level,
        protection=protection,
        mode=mode,
        type=logical,
        domain=(domain or str(name)) if protection is Protection.SEALED else None,
        mask=mask,
        on_damage=on_damage,
        placeholder=placeholder,
    )


def _protection(
    reader: Reader, node: Node, level: Level, given: Protection | None, stored: Stored | None
) -> Protection:
    default = _DEFAULT_PROTECTION[level]
    if stored is not None and level is not Level.CORE:
        reader.error(node.place, f"`stored` is for core columns; this one is {level}", "remove `stored`")
        return given or default
    if stored is Stored.PLAIN:
        if given is Protection.MASKED or given is None:
            reader.warn(
                node.place,
                "a core column stored plain: policy article 3.2 asks for sealing",
                "plan its backfill, then remove `stored: plain`",
            )
            return Protection.MASKED
        reader.error(
            node.place,
            f"`stored: plain` with `protection: {given}`",
            "write `protection: masked`, or remove `stored: plain`",
        )
        return given
    protection = given or default
    if level is Level.CORE and protection is not Protection.SEALED:
        reader.error(
            node.place,
            f"a core column must be sealed, not `{protection}` (policy article 3.2)",
            "write `protection: sealed`; to keep it unsealed knowingly, `protection: masked` with `stored: plain`",
        )
    if level is Level.IMPORTANT and protection is Protection.NONE:
        reader.error(
            node.place,
            "an important column must be masked or sealed (policy article 3.2)",
            "write `protection: masked`, or `level: general` if it is not important",
        )
    return protection


def _missing(reader: Reader, node: Node, name: ColumnName, key: str) -> None:
    if key == "type":
        reader.error(
            node.place,
            f"the sealed column {name} has no `type`",
            "add the type that clients see, e.g. `type: varchar(19)`",
        )
    else:
        reader.error(
            node.place,
            f"the sealed column {name} has no `mode`",
            "add `mode: deterministic` if it is compared or joined, else `mode: randomized`",
        )


def _useless(reader: Reader, fields: dict[str, Node], protection: Protection) -> None:
    for key in _SEALED_ONLY:
        if key in fields:
            reader.error(
                fields[key].place,
                f"`{key}` is for sealed columns; this one is `{protection}`",
                f"remove `{key}`, or seal the column",
            )


def _type(reader: Reader, node: Node | None) -> str | None:
    text = reader.word(node, "type")
    if node is None or text is None:
        return None
    logical = canonical_type(text) if len(text) <= MAX_TYPE else None
    if logical is None:
        word = re.split(r"[\s(\[]", text[:80].lower(), maxsplit=1)[0]
        fix = (
            "check its length or precision, e.g. varchar(19), numeric(12,2), timestamptz(3)"
            if word in LOGICAL_TYPES
            else did_you_mean(word, LOGICAL_TYPES)
        )
        reader.error(node.place, f"{text[:80]!r} is not a type that pgveil knows", fix)
    return logical


def _domain(reader: Reader, node: Node | None) -> str | None:
    text = reader.word(node, "domain")
    if node is None or text is None:
        return None
    if re.fullmatch(DOMAIN_FORM, text) is None:
        reader.error(
            node.place,
            f"{text[:80]!r} cannot name a key domain",
            "use letters, digits, `_`, `-` and dots, at most 128, e.g. `domain: pan`",
        )
        return None
    return text


def _placeholder(reader: Reader, fields: dict[str, Node], logical: str | None, on_damage: OnDamage) -> str | None:
    node = fields.get("placeholder")
    if node is None:
        if on_damage is OnDamage.PLACEHOLDER:
            reader.error(
                fields["on_damage"].place,
                "`on_damage: placeholder` without a placeholder",
                "add `placeholder: text`, or `placeholder: null`",
            )
        return None
    if on_damage is not OnDamage.PLACEHOLDER:
        reader.error(
            node.place,
            "a placeholder is never shown with `on_damage: fail`",
            "add `on_damage: placeholder`, or remove it",
        )
    if isinstance(node, Scalar) and node.value is None:
        return None
    text = reader.word(node, "placeholder")
    if text is None:
        return None
    if len(text) > MAX_PLACEHOLDER:
        reader.error(node.place, f"a placeholder of more than {MAX_PLACEHOLDER} characters")
        return None
    _fits(reader, node, "placeholder", text, logical)
    return text


def _fits(reader: Reader, node: Node, what: str, text: str, logical: str | None) -> None:
    """A text that clients would get as a value of the type must be one."""
    if logical is None:
        return
    why = misfit(text, logical)
    if why is not None:
        reader.error(node.place, f"the {what} {why}", f"give a value of type {logical}, or NULL")


def _mask(reader: Reader, node: Node, logical: str | None) -> MaskSpec | None:
    given: dict[str, tuple[Scalar, Node]] = {}
    kind_node = node
    if isinstance(node, Mapping):
        given = {key.text: (key, value) for key, value in node.entries}
        if "kind" not in given:
            reader.error(node.place, "a mask has no `kind`", f"add `kind:`, one of {', '.join(MASK_KINDS)}")
            return None
        kind_node = given.pop("kind")[1]
    if isinstance(kind_node, Scalar) and kind_node.value is None:
        reader.error(
            kind_node.place, "an empty mask", 'to show NULL write "null" in quotes; for no mask at all remove `mask`'
        )
        return None
    word = reader.word(kind_node, "mask")
    if word is None:
        return None
    if word not in MASK_KINDS:
        reader.error(kind_node.place, f"unknown mask {word[:80]!r}", did_you_mean(word, MASK_KINDS))
        return None
    if not MASK_KINDS[word].suits(logical):
        reader.error(
            kind_node.place,
            f"the mask {word} does not fit the type {logical}",
            f"masks for it: {', '.join(masks_for(logical))}",
        )
    params = _params(reader, kind_node, word, given)
    if word == "constant" and "value" in params:
        _fits(reader, given["value"][1], "mask's value", _as_text(params["value"]), logical)
    return MaskSpec(word, tuple(sorted(params.items())))


def _as_text(value: str | int) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _params(reader: Reader, place: Node, kind: str, given: dict[str, tuple[Scalar, Node]]) -> dict[str, str | int]:
    """The parameters as given, defaults filled in."""
    known = MASK_KINDS[kind].params
    for key, (node, _) in given.items():
        if key not in known:
            reader.error(node.place, f"the mask {kind} has no parameter {key[:80]!r}", did_you_mean(key, known))
    params: dict[str, str | int] = {}
    for name, param in known.items():
        value = _param(reader, name, param, given[name][1]) if name in given else param.default
        if value is not None:
            params[name] = value
        elif name not in given:
            example = f"{{kind: {kind}, {', '.join(f'{n}: ...' for n in MASK_KINDS[kind].required)}}}"
            reader.error(place.place, f"the mask {kind} has no `{name}` ({param.doc})", f"write `mask: {example}`")
    return params


def _param(reader: Reader, name: str, param: Param, node: Node) -> str | int | None:
    value = node.value if isinstance(node, Scalar) else None
    if param.kind == "int":
        if isinstance(value, int) and not isinstance(value, bool) and param.minimum <= value <= param.maximum:
            return value
        reader.error(
            node.place, f"`{name}` must be a whole number from {param.minimum} to {param.maximum} ({param.doc})"
        )
        return None
    if param.kind == "value" and isinstance(value, int):
        return value
    text = reader.word(node, name)
    if text is not None and not param.minimum <= len(text) <= param.maximum:
        reader.error(node.place, f"`{name}` must have {param.minimum} to {param.maximum} characters ({param.doc})")
        return None
    return text


def _mask_fix(logical: str | None) -> str:
    return f"add `mask:`, e.g. one of {', '.join(masks_for(logical or 'text', bare=True))}"
