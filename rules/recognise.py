"""Columns that look like customer information by name and type (policy 3.1 and 4.1), in English, Chinese and German.

Conservative: a column is recognised for a reason that can be told, and never by a word that usually means something else. A flag, a
counter or a foreign key beside such a word ("phone_verified", "address_id") is not the information itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from rules.logical import Family, family
from rules.model import Level

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rules.model import TableName


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a column looks like: its kind, the level that fits, a mask, and the word that told."""

    kind: str
    level: Level
    mask: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of information. `words`: runs of words in a name; `signs`: parts of a Chinese name; `fits`: families of types."""

    name: str
    level: Level
    mask: str | None
    words: frozenset[tuple[str, ...]]
    signs: tuple[str, ...]
    fits: frozenset[Family]
    # Chinese words that hold a sign and mean something else; English words beside which a run says nothing.
    not_signs: tuple[str, ...] = ()
    not_words: frozenset[str] = frozenset()
    # The run must be all of the name, in a table about this.
    only_in: Mapping[tuple[str, ...], frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    # The run must end the name: what follows it makes another word of it ("pan india").
    last: frozenset[tuple[str, ...]] = frozenset()
    # Tables in which such a column is published, or about a company.
    not_tables: frozenset[str] = frozenset()


def _runs(text: str) -> frozenset[tuple[str, ...]]:
    """ "home address, street" -> {("home", "address"), ("street",)}"""
    return frozenset(tuple(run.split()) for run in text.split(","))


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORDS = frozenset({Family.TEXT})
_NUMBERS = frozenset({Family.TEXT, Family.INTEGER, Family.NUMERIC})
_DATES = frozenset({Family.TEXT, Family.INTEGER, Family.DATE, Family.TIMESTAMP})
_DOCUMENTS = frozenset({Family.TEXT, Family.JSON})
_TEMPLATES = frozenset({Family.TEXT, Family.BYTES, Family.JSON})

_PEOPLE = _set(
    "customer customers client clients person persons people patient patients member members contact contacts employee employees cardholder"
    " cardholders guest guests passenger passengers subscriber subscribers resident residents citizen citizens applicant applicants kunde kunden"
    " mitarbeiter patienten"
)
# Tables in which a photo is of a person, though `name` there may be a login's or a company's.
_PICTURED = _PEOPLE | _set(
    "user users staff personnel student students teacher teachers doctor doctors nurse nurses driver drivers profile profiles tenant tenants"
    " candidate candidates visitor visitors worker workers agent agents benutzer personal schueler studenten lehrer"
)
_CARDS = _set("card cards bankcard bankcards creditcard creditcards karte karten")
_PUBLISHED = _set("actor actors film films movie movies")
_COMPANIES = _set("shipper shippers carrier carriers supplier suppliers vendor vendors")

# The first that fits is told, so the more special kinds stand first.
_KINDS = (
    _Kind(
        "bank card",
        Level.CORE,
        "bank_card",
        _runs(
            "pan, card no, card num, card number, cardno, cardnumber, cardnum, credit card, debit card, bank card, bankcard, creditcard,"
            " card pan, cvv, cvv2, cvc, cvc2, card security code, pan number, pan no, kartennummer, karten nr, kreditkarte, number, karte"
        ),
        ("银行卡", "信用卡", "借记卡", "储蓄卡", "卡号"),
        _NUMBERS,
        not_signs=("会员卡号", "门禁卡号", "显卡"),
        not_words=_set("gift loyalty sim network graphics land"),
        only_in=MappingProxyType({("number",): _CARDS}),
        last=_runs("pan, karte"),
    ),
    _Kind(
        "bank card's expiry",
        Level.CORE,
        "year",
        _runs("expiry date, expires on, expiration date, exp date, valid until, valid thru"),
        (),
        _DATES,
        only_in=MappingProxyType(
            dict.fromkeys(_runs("expiry date, expires on, expiration date, exp date, valid until, valid thru"), _CARDS)
        ),
    ),
    _Kind(
        "bank account",
        Level.IMPORTANT,
        "keep_last",
        _runs(
            "iban, bank account, account number, account no, bankaccount, acct no, acct number, kontonummer, konto nr"
        ),
        ("银行账号", "银行帐号", "银行账户", "银行帐户"),
        _NUMBERS,
    ),
    _Kind(
        "biometrics",
        Level.CORE,
        None,
        _runs(
            "fingerprint, face template, face image, face feature, face encoding, voiceprint, iris, palm print, biometric, biometrics"
        ),
        ("指纹", "人脸", "虹膜", "声纹", "掌纹", "面部特征", "生物特征"),
        _TEMPLATES,
        not_words=frozenset(
            {"key", "cert", "certificate", "ssh", "device", "browser", "file", "error", "request", "query", "tls"}
        ),
        not_signs=("数据指纹", "文件指纹", "设备指纹", "浏览器指纹"),
    ),
    _Kind(
        "identity document",
        Level.CORE,
        "id_number",
        _runs(
            "id card, idcard, id number, id no, idno, id num, identity card, identity number, identity no, national id, ssn,"
            " social security, passport, passport no, citizen id, driver license, driving licence, drivers license, sfz, sfzh, tax id, tax number,"
            " tax no, tin, vat id, steuernummer, steuer id, ausweisnummer, personalausweis"
        ),
        ("身份证", "证件号", "护照", "社保号", "社会保障号", "驾驶证", "驾照", "军官证"),
        _NUMBERS,
    ),
    _Kind(
        "e-mail address",
        Level.IMPORTANT,
        "email",
        _runs("email, e mail, mail address, mail, mailadresse"),
        ("邮箱", "电子邮件", "电邮"),
        _WORDS,
        not_words=_set("subject body template content host folder port server provider box queue text html"),
        last=_runs("mail"),
    ),
    _Kind(
        "telephone number",
        Level.IMPORTANT,
        "phone",
        _runs(
            "phone, phone number, mobile number, mobile phone, mobile, cellphone, cell phone, telephone, tel, msisdn, whatsapp, phonenumber, fax, contact number, cell, cell number,"
            " handy, handynummer, telefon, telefonnummer, mobilnummer, rufnummer"
        ),
        ("手机", "电话", "座机", "联系方式", "传真"),
        _NUMBERS,
        not_words=_set("model brand os app version platform table grid stem battery"),
        not_signs=("手机型号", "手机品牌", "手机系统"),
        last=_runs("cell"),
        not_tables=_COMPANIES,
    ),
    _Kind(
        "messenger account",
        Level.IMPORTANT,
        "keep_first_last",
        _runs("wechat, weixin, wechat id, qq, qq number, openid, unionid"),
        ("微信", "QQ号"),
        _NUMBERS,
    ),
    _Kind(
        "date of birth",
        Level.IMPORTANT,
        "year",
        _runs(
            "birth date, birthdate, birthday, date of birth, dob, birth day, birth, born, geburtsdatum, geburtstag, geboren"
        ),
        ("出生", "生日"),
        _DATES,
    ),
    _Kind(
        "postal address",
        Level.IMPORTANT,
        "keep_first",
        _runs(
            "home address, street address, postal address, billing address, shipping address, delivery address, residence, address line,"
            " mailing address, street, address, addr, postal code, postcode, zip, zip code, zipcode, plz, postleitzahl, anschrift, adresse, strasse,"
            " straße, wohnort, hausnummer"
        ),
        ("地址", "住址", "籍贯", "户籍"),
        _DOCUMENTS,
        not_words=frozenset(
            {
                "ip",
                "mac",
                "web",
                "url",
                "host",
                "server",
                "network",
                "contract",
                "memory",
                "wallet",
                "peer",
                "listen",
                "bind",
                "file",
                "archive",
            }
        ),
        last=_runs("zip"),
        not_signs=("网络地址", "网址", "IP地址", "MAC地址", "链接地址", "接口地址", "服务器地址"),
    ),
    _Kind(
        "person's name",
        Level.IMPORTANT,
        "name",
        _runs(
            "first name, last name, full name, given name, family name, middle name, surname, firstname, lastname, fullname, real name,"
            " realname, customer name, client name, patient name, member name, holder name, cardholder, card holder, contact name,"
            " contact person, recipient name, receiver name, employee name, maiden name, payee name, payer name, vorname, nachname,"
            " familienname, geburtsname, name"
        ),
        ("姓名", "联系人", "收件人", "收货人", "持卡人", "客户名", "真实名字", "真名", "曾用名"),
        _WORDS,
        only_in=MappingProxyType({("name",): _PEOPLE | _CARDS}),
        not_tables=_PUBLISHED,
        not_words=_set("file table column class domain display host product user"),
    ),
    _Kind(
        "vehicle plate",
        Level.IMPORTANT,
        "keep_first_last",
        _runs("license plate, licence plate, plate number, plate no, number plate"),
        ("车牌", "车牌号"),
        _WORDS,
    ),
    _Kind(
        "secret of a login",
        Level.CORE,
        None,
        _runs("password, passwd, pwd, passwort, kennwort, password hash, passphrase, pin code, security answer"),
        ("密码", "口令"),
        _WORDS,
        not_words=_set("policy reset hint min max"),
    ),
    _Kind(
        "gender",
        Level.IMPORTANT,
        "null",
        _runs("gender, sex, geschlecht"),
        ("性别",),
        _NUMBERS,
        last=_runs("gender, sex, geschlecht"),
    ),
    _Kind(
        "income",
        Level.IMPORTANT,
        "range",
        _runs("salary, wage, wages, income, annual income, gehalt, einkommen, lohn"),
        ("工资", "薪资", "薪水", "收入"),
        _NUMBERS,
        not_words=_set("tax statement net operating gross total"),
        last=_runs("salary, wage, wages, income, annual income, gehalt, einkommen, lohn"),
    ),
    _Kind(
        "picture of a person",
        Level.IMPORTANT,
        None,
        _runs(
            "photo, portrait, photograph, picture, avatar, headshot, selfie, passport photo, passport picture, face photo, profile photo,"
            " profile picture, id photo, foto, bild, lichtbild, passfoto, passbild"
        ),
        ("照片", "头像", "人像"),
        _TEMPLATES,
        # Elsewhere they are of goods, films, places: a guess there would be wrong more often than right.
        only_in=MappingProxyType(
            dict.fromkeys(_runs("photo, portrait, foto, photograph, picture, avatar, headshot, bild"), _PICTURED)
        ),
    ),
)
_PEOPLE_SIGNS = ("客户", "顾客", "会员", "联系人", "用户", "员工", "患者", "人员")

# What stands at the end of the name of a flag, a counter, a type or a time.
_ASIDE = _set(
    "type kind status state verified confirmed validated count flag enabled sent at required visible changed attempts format length"
    " bounced opt optin optout country template"
)
_ASIDE_SIGNS = ("类型", "状态", "数量", "次数", "是否", "标志", "时间")

# Of a run that is found at an end of a longer word: shorter ones stand in words that mean something else.
_LONG = 8
_WORD = re.compile(r"[A-ZÄÖÜ]+(?![a-zäöüß])|[A-ZÄÖÜ]?[a-zäöüß]+|[0-9]+")


def recognise(table: TableName, column: str, type_family: Family | None) -> Recognised | None:
    """What the column looks like; None for nothing. A family of None (a type that is not a logical one) is taken as text."""
    kind_of_type = type_family or Family.TEXT
    words = _words(column)
    if _is_aside(words, column, kind_of_type):
        return None
    for kind in _KINDS:
        if kind_of_type not in kind.fits:
            continue
        told = _told_by_words(kind, words, table) or _told_by_signs(kind, column)
        if told is not None:
            return Recognised(kind.name, kind.level, kind.mask, f"its name holds {told!r}")
    return None


def recognise_type(table: TableName, column: str, logical: str | None) -> Recognised | None:
    """As `recognise`, from a canonical type."""
    return recognise(table, column, family(logical))


def _words(name: str) -> tuple[str, ...]:
    """ "homePhone2" -> ("home", "phone"); a number at the end only counts columns."""
    words = [w.lower() for w in _WORD.findall(name)]
    while len(words) > 1 and words[-1].isdigit():
        words.pop()
    return tuple(words)


def _is_aside(words: tuple[str, ...], column: str, kind_of_type: Family) -> bool:
    if kind_of_type is Family.BOOLEAN or column.endswith(_ASIDE_SIGNS) or column.startswith("是否"):
        return True
    if not words:
        return False
    # A foreign key: "address_id bigint". "national_id" as text is the number itself.
    is_key = len(words) > 1 and words[-1] in {"id", "fk"} and kind_of_type in {Family.INTEGER, Family.UUID}
    return (
        words[-1] in _ASIDE
        or words[0] in {"is", "has", "num", "count"}
        or (is_key and words[-2] not in {"national", "citizen"})
    )


def _told_by_words(kind: _Kind, words: tuple[str, ...], table: TableName) -> str | None:
    about = frozenset(_words(table.name))
    if not kind.not_words.isdisjoint(words) or not kind.not_tables.isdisjoint(about):
        return None
    for run in sorted(kind.words, key=lambda r: (-len(r), r)):
        if not (_holds_together(words, run) if run in kind.only_in or run in kind.last else _holds(words, run)):
            continue
        subjects = kind.only_in.get(run)
        if subjects is not None and not (words == run and _is_about(table, about, subjects)):
            continue
        if run in kind.last and words[-len(run) :] != run:
            continue
        return " ".join(run)
    return None


def _holds(words: tuple[str, ...], run: tuple[str, ...]) -> bool:
    """Whether the run stands in the name, also written together: "addressline", "nationalidnumber"."""
    if _holds_together(words, run):
        return True
    joined = "".join(run)
    whole = any(word == joined for word in words)
    return whole or (len(run) > 1 and len(joined) >= _LONG and any(_at_an_end(word, joined) for word in words))


def _holds_together(words: tuple[str, ...], run: tuple[str, ...]) -> bool:
    return any(words[i : i + len(run)] == run for i in range(len(words) - len(run) + 1))


def _at_an_end(word: str, joined: str) -> bool:
    return word.startswith(joined) or word.endswith(joined)


def _told_by_signs(kind: _Kind, column: str) -> str | None:
    if any(sign in column for sign in kind.not_signs):
        return None
    return next((sign for sign in kind.signs if sign in column), None)


def _is_about(table: TableName, about: frozenset[str], subjects: frozenset[str]) -> bool:
    people = subjects >= _PEOPLE and any(sign in table.name for sign in _PEOPLE_SIGNS)
    return people or not subjects.isdisjoint(about)
