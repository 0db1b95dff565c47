"""Values on their way in and out: the client's forms to sealed text, and back, masked where the verdict says so."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from keys.lookup import NOTHING, TICKET_SECONDS, Bearer, ticket
from keys.mask import MaskError, make_mask
from keys.ring import UnknownDomainError
from keys.sealed import NONCE_SIZE as _NONCE_SIZE
from keys.sealed import SealedError, TooLongError, open_batch_lenient, seal
from keys.typeio_array import print_array
from keys.types import (
    CANONICAL_SETTINGS,
    ArrayValue,
    TypeSpecError,
    UnrepresentableError,
    WireValueError,
    array_of,
    decode,
    decode_array,
    decode_literal,
    encoder,
    parse_type,
    with_enum,
)
from proxy.session.gate import BadValue
from rules.model import OnDamage, Protection, SealMode, Verdict
from rules.plan import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keys.mask import Mask
    from keys.sealed import DataKey
    from keys.types import LogicalType, OutputSettings
    from rules.catalog import EnumType
    from rules.model import Column, ColumnName

# What no canonical value begins with: a value that the column cannot hold is sealed behind it, and so equals nothing that is stored.
_PSEUDONYM: Final = re.compile(rb"p_[0-9a-f]+")
_NEVER: Final = b"\0pgveil:unrepresentable:"
ELEMENTS: Final = 200_000  # of one array that is sealed: some seconds
_TEXT_OID, _TEXT_ARRAY_OID = 25, 1009
_TEXT_OIDS: Final = frozenset({25, 1043})
_UNKNOWN_OID: Final = 705
_COMPARED_AS: Final = {1043: _TEXT_OID, 1015: _TEXT_ARRAY_OID}


class Keys(Protocol):
    """What is needed of `keys.ring.KeyRing`."""

    def newest(self, domain: str) -> DataKey:
        """The key to seal with. Raises UnknownDomainError."""

    def keys(self, domain: str) -> Mapping[int, DataKey]:
        """Every live key by id. Raises UnknownDomainError."""


@dataclass(slots=True)
class _Known:
    """What has been worked out about a column."""

    column: Column
    type: LogicalType
    elements: LogicalType
    mask: Mask | None
    encoders: dict[tuple[int, OutputSettings], Callable[[bytes], bytes] | None] = field(default_factory=dict)


class ValueCodec:
    """Seals and opens the values of sealed columns. One serves every session of a process in one database.

    `random` gives nonces. `enums`: the database's own, by the name that the rules write (Catalog.enums). Memory is bounded by the number of columns, and of
    settings in use (`_ENCODERS` a column). `clock`: seconds since 1970, for tickets, which want a `lookup_key` as well.
    """

    __slots__ = ("_clock", "_databases", "_enums", "_known", "_lookup_key", "_pseudonym_key", "_random", "_ring")

    def __init__(
        self,
        ring: Keys,
        *,
        random: Callable[[int], bytes],
        enums: Mapping[str, EnumType] | None = None,
        pseudonym_key: bytes | None = None,
        lookup_key: bytes | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._ring = ring
        self._random = random
        self._enums = {} if enums is None else dict(enums)
        self._pseudonym_key = pseudonym_key
        self._lookup_key = lookup_key
        self._clock = clock
        self._known: dict[ColumnName, _Known] = {}
        self._databases: list[ValueCodec] = []

    def rekey(self, *, pseudonym_key: bytes | None, lookup_key: bytes | None) -> None:
        """The keys of pseudonyms and look-ups, from now on. Those of columns are asked of the ring each time."""
        if (pseudonym_key, lookup_key) != (self._pseudonym_key, self._lookup_key):
            self._pseudonym_key, self._lookup_key = pseudonym_key, lookup_key
            self._known.clear()
            for codec in self._databases:
                codec.rekey(pseudonym_key=pseudonym_key, lookup_key=lookup_key)

    def in_database(self) -> ValueCodec:
        """Another one with the same keys, for a database that has enums of its own."""
        codec = ValueCodec(
            self._ring,
            random=self._random,
            enums=self._enums,
            pseudonym_key=self._pseudonym_key,
            lookup_key=self._lookup_key,
            clock=self._clock,
        )
        self._databases.append(codec)
        return codec

    def leave_database(self, codec: ValueCodec) -> None:
        """One that `in_database` gave is used no more."""
        self._databases.remove(codec)

    def know_enums(self, enums: Mapping[str, EnumType]) -> None:
        """The database's enums are these from now on."""
        if self._enums != enums:
            self._enums = dict(enums)
            self._known.clear()

    def logical_type(self, column: Column) -> LogicalType:
        """The type under which clients see a column. Raises BadValue where the rules' spelling is not one."""
        return self._of(column).type

    def parameter_oid(self, column: Column, *, array: bool, exact: bool = False) -> int:
        """The type OID that a parameter of the column shows. `exact`: it is compared, and varchar has only text's operators."""
        known = self._of(column)
        oid = known.elements.oid if array else known.type.oid
        return _COMPARED_AS.get(oid, oid) if exact else oid

    # -- in --------------------------------------------------------------------------------------------------------------------------

    def seal_param(
        self,
        column: Column,
        data: bytes,
        format: int,  # noqa: A002 - the protocol's own word
        declared_oid: int,
        settings: OutputSettings,
        *,
        array: bool = False,
        exact: bool = False,
        cast: bool = False,
        given: bool = False,
        login: str = "",
    ) -> bytes:
        """A parameter as the client sent it (format 0 text, 1 binary), sealed, in text form. With `array` each element is sealed.

        `cast`: the statement casts it to the column's type, so a text is read as that type reads it.

        `exact`: it is compared, so what the column cannot hold equals nothing; else it is stored, and such a value fails. `given`: as `vouch`.
        `login`: whom a ticket is for. Raises BadValue.
        """
        known = self._of(column)
        # A client that declares nothing sends what the description showed it.
        declared_oid = declared_oid or self.parameter_oid(column, array=array, exact=exact)
        if cast and declared_oid in _TEXT_OIDS and known.type.oid not in _TEXT_OIDS:
            declared_oid, format = _UNKNOWN_OID, 0  # noqa: A001 - the binary form of a text is the text
        try:
            if array:
                value = decode_array(
                    known.elements,
                    data,
                    format,
                    declared_oid=declared_oid,
                    settings=settings,
                    exact=exact,
                    absent=_NEVER,
                )
                return self._seal_array(column, value, login)
            plain = decode(known.type, data, format, declared_oid=declared_oid, settings=settings, exact=exact)
            sealed = self._seal(column, plain, login)
            return self.vouch(column, sealed, login) if given else sealed
        except UnrepresentableError:
            return self._seal(column, _NEVER + data, login)
        except WireValueError as error:
            raise _bad(error, column) from None

    def seal_literal(
        self,
        column: Column,
        text: str,
        *,
        number: bool = False,
        array: bool = False,
        exact: bool = False,
        settings: OutputSettings | None = None,
        login: str = "",
    ) -> bytes:
        """A SQL constant, sealed: a string constant's content, or with `number` a numeric constant's text (sign included).

        With `array` the constant is an array's, and its elements are sealed. `exact` and `login` as in `seal_param`. Raises BadValue.
        """
        known = self._of(column)
        try:
            if array:
                value = decode_array(known.elements, text.encode(), 0, settings=settings, exact=exact, absent=_NEVER)
                return self._seal_array(column, value, login)
            plain = decode_literal(known.type, text, number=number, settings=settings, exact=exact)
            return self._seal(column, plain, login)
        except UnrepresentableError:
            return self._seal(column, _NEVER + text.encode("utf-8", "replace"), login)
        except WireValueError as error:
            raise _bad(error, column) from None
        except UnicodeEncodeError:
            raise BadValue(
                Reason.BAD_VALUE, "22021", 'invalid byte sequence for encoding "UTF8"', column.name
            ) from None

    def vouch(self, column: Column, sealed: bytes, login: str) -> bytes:
        """The ticket with which a sealed value is stored by who does not see the column clear; one of a column that is kept plain it is already.

        What looks like a mask is refused: it would be stored over the value that it stands for. Raises BadValue.
        """
        if column.protection is not Protection.SEALED:
            return sealed
        key, bearer = self._bearing(column, login)
        if self._is_mask(column, sealed):
            raise BadValue(
                Reason.ORACLE,
                "42501",
                f'column "{column.name}" can\'t be given what looks like its mask by a login that sees it masked',
                column.name,
                "Leave the column out where it was not changed.",
            )
        return ticket(key, str(column.name), sealed, bearer)

    def _bearing(self, column: Column, login: str) -> tuple[bytes, Bearer]:
        """What tickets are made with. Raises BadValue."""
        if self._lookup_key is None or self._clock is None:
            raise _no_key(column)
        return self._lookup_key, Bearer(login, int(self._clock()))

    def vouches(self, made: float | None) -> bool:
        """Whether tickets that were made then will do for a statement that is sent now: till half of their time, for clocks that differ."""
        return made is None or abs(self.now - made) < TICKET_SECONDS / 2

    @property
    def now(self) -> float:
        """When a ticket would be made."""
        return 0.0 if self._clock is None else self._clock()

    def _is_mask(self, column: Column, sealed: bytes) -> bool:
        """Whether a value is, or looks like, what the column's mask makes of values."""
        mask = self._of(column).mask
        if mask is None or column.mask is None:
            return False
        (plain,) = self.open_batch(column, Verdict.CLEAR, [sealed], 0)
        (masked,) = self.open_batch(column, Verdict.MASKED, [sealed], 0)
        if plain is None or plain == masked:
            return True
        if column.mask.kind == "pseudonym":
            return _PSEUDONYM.fullmatch(plain) is not None
        return b"*" in plain and masked is not None and b"*" in masked

    def canonical(
        self,
        column: Column,
        data: bytes,
        format: int,  # noqa: A002
        declared_oid: int,
        settings: OutputSettings,
    ) -> bytes:
        """A value as the client has it, in the form in which equal values are equal bytes. What is not of the type equals nothing else."""
        known = self._of(column)
        declared_oid = declared_oid or self.parameter_oid(column, array=False)
        if declared_oid in _TEXT_OIDS and known.type.oid not in _TEXT_OIDS:
            declared_oid, format = _UNKNOWN_OID, 0  # noqa: A001 - the binary form of a text is the text
        try:
            return decode(known.type, data, format, declared_oid=declared_oid, settings=settings, exact=True)
        except (UnrepresentableError, WireValueError):
            return _NEVER + data

    def canonical_constant(self, column: Column, text: str, settings: OutputSettings, *, number: bool) -> bytes:
        """`canonical` of a SQL constant."""
        try:
            return decode_literal(self._of(column).type, text, number=number, settings=settings, exact=True)
        except (UnrepresentableError, WireValueError, UnicodeEncodeError):
            return _NEVER + text.encode("utf-8", "replace")

    def seal_canonical(self, column: Column, canonical: bytes) -> bytes:
        """Canonical bytes, sealed under the newest key. Raises BadValue."""
        return self._seal(column, canonical)

    def _seal(self, column: Column, canonical: bytes, login: str = "") -> bytes:
        if column.protection is Protection.MASKED:
            return self._ticket(column, canonical, login)
        try:
            key = self._ring.newest(column.key_domain)
            return seal(key, canonical, nonce=self._random(_NONCE_SIZE) if column.mode is SealMode.RANDOMIZED else None)
        except UnknownDomainError:
            raise _no_key(column) from None
        except TooLongError as error:
            raise BadValue(
                Reason.LIMIT, "54000", f"value too long for sealed column {column.name}", column.name, str(error)
            ) from None

    def _ticket(self, column: Column, canonical: bytes, login: str) -> bytes:
        """What a look-up by a column that is kept plain sends in place of the value."""
        key, bearer = self._bearing(column, login)
        if canonical.startswith(_NEVER):
            return NOTHING
        change = self._encoder(self._of(column), 0, CANONICAL_SETTINGS)
        return ticket(key, str(column.name), canonical if change is None else change(canonical), bearer)

    def _seal_array(self, column: Column, value: ArrayValue, login: str) -> bytes:
        if len(value.elements) > ELEMENTS:
            raise BadValue(
                Reason.LIMIT,
                "54000",
                f"an array of {len(value.elements)} elements for a sealed column, more than {ELEMENTS}",
                column.name,
            )
        return print_array(value.map(lambda element: self._seal(column, element, login)))

    # -- out -------------------------------------------------------------------------------------------------------------------------

    def open_batch(
        self,
        column: Column,
        verdict: Verdict,
        cells: list[bytes | None],
        format: int,  # noqa: A002
        settings: OutputSettings = CANONICAL_SETTINGS,
    ) -> list[bytes | None]:
        """Sealed values in the form that the client asked for, masked where `verdict` says so; None (null) stays.

        What does not open becomes the column's placeholder, or (OnDamage.FAIL) raises BadValue naming column and key id.
        """
        if verdict is Verdict.REFUSED:
            raise BadValue(Reason.VERDICT, "42501", f"permission denied for column {column.name}", column.name)
        known = self._of(column)
        if verdict is Verdict.MASKED and known.mask is None:
            raise BadValue(
                Reason.VERDICT, "42501", f"permission denied for column {column.name}", column.name, "It has no mask."
            )
        try:
            keys = self._ring.keys(column.key_domain)
        except UnknownDomainError:
            raise _no_key(column) from None
        try:
            change = self._encoder(known, format, settings)
            mask = known.mask.apply if verdict is Verdict.MASKED and known.mask is not None else None
            values: list[bytes | None] = []
            for value in open_batch_lenient(keys, cells):
                plain = value
                if isinstance(plain, SealedError):
                    plain = self._damaged(column, known, plain)
                elif mask is not None:
                    plain = mask(plain)
                values.append(plain if change is None or plain is None else change(plain))
        except WireValueError as error:
            raise _bad(error, column) from None
        return values

    def _damaged(self, column: Column, known: _Known, error: SealedError) -> bytes | None:
        """What stands for a value that does not open."""
        if column.on_damage is OnDamage.PLACEHOLDER:
            return None if column.placeholder is None else decode_literal(known.type, column.placeholder)
        key_id = getattr(error, "key_id", None)
        named = "it is not in the sealed format" if key_id is None else f"it names key {key_id}"
        raise BadValue(
            Reason.DAMAGED,
            "XX001",
            f"a stored value of column {column.name} cannot be opened",
            column.name,
            f"Of the value, {named}.",
        ) from None

    def _encoder(self, known: _Known, form: int, settings: OutputSettings) -> Callable[[bytes], bytes] | None:
        key = (form, settings)
        found = known.encoders.get(key, _MISSING)
        if found is _MISSING:
            if len(known.encoders) >= _ENCODERS:
                known.encoders.clear()
            found = known.encoders[key] = encoder(known.type, form, settings)
        return found

    def _of(self, column: Column) -> _Known:
        known = self._known.get(column.name)
        if known is not None and (known.column is column or known.column == column):
            return known
        known = self._work_out(column)
        self._known[column.name] = known
        return known

    def _work_out(self, column: Column) -> _Known:
        try:
            type_ = parse_type(column.type or "")
            enum = None if type_.scalar.labels is None else self._enums.get(type_.scalar.name)
            if enum is not None:
                type_ = with_enum(type_, oid=enum.oid, array_oid=enum.array_oid, labels=enum.labels)
            elements = type_ if type_.array else array_of(type_)
            if enum is not None and not type_.array:
                elements = replace(elements, oid=enum.array_oid)
            mask = None
            if column.mask is not None:
                params = {name: value for name, value in column.mask.params if value is not None}
                mask = make_mask(column.mask.kind, params, type_, pseudonym_key=self._pseudonym_key)
        except (TypeSpecError, MaskError) as error:
            raise BadValue(
                Reason.UNSUPPORTED,
                "0AP01",
                f"the rules of column {column.name} cannot be used",
                column.name,
                str(error),
            ) from None
        return _Known(column, type_, elements, mask)


# Combinations of format and settings whose encoders are kept for a column; sessions of one application share theirs.
_ENCODERS: Final = 32


def _missing(_value: bytes) -> bytes:
    raise AssertionError


_MISSING: Final = _missing


def _bad(error: WireValueError, column: Column) -> BadValue:
    reason = Reason.UNSUPPORTED if error.sqlstate == "0AP01" else Reason.BAD_VALUE
    return BadValue(reason, error.sqlstate, error.message, column.name, error.detail)


def _no_key(column: Column) -> BadValue:
    return BadValue(
        Reason.DAMAGED,
        "55000",
        f"there is no key for column {column.name}",
        column.name,
        "It was destroyed, or has not been made.",
    )
