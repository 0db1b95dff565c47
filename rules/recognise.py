"""Columns that look like customer information by name and type (policy 3.1 and 4.1), in English and Chinese.

Conservative: a column is recognised for a reason that can be told, and never by a word that usually means something else. A flag, a
counter or a foreign key beside such a word ("phone_verified", "address_id") is not the information itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rules.logical import Family, family
from rules.model import Level

if TYPE_CHECKING:
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
    # The run must be in a table about people.
    people_only: frozenset[tuple[str, ...]] = frozenset()


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

# The first that fits is told, so the more special kinds stand first.
_KINDS = (
    _Kind(
        "bank card",
        Level.CORE,
        "bank_card",
        _runs(
            "pan, card no, card num, card number, cardno, cardnumber, cardnum, credit card, debit card, bank card, bankcard, creditcard,"
            " card pan, cvv, cvv2, cvc, cvc2, card security code"
        ),
        ("银行卡", "信用卡", "借记卡", "储蓄卡", "卡号"),
        _NUMBERS,
        not_signs=("会员卡号", "门禁卡号", "显卡"),
        not_words=_set("gift loyalty sim network graphics"),
    ),
    _Kind(
        "bank account",
        Level.IMPORTANT,
        "keep_last",
        _runs("iban, bank account, account number, account no, bankaccount, acct no, acct number"),
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
            " social security, passport, passport no, citizen id, driver license, driving licence, drivers license, sfz, sfzh"
        ),
        ("身份证", "证件号", "护照", "社保号", "社会保障号", "驾驶证", "驾照", "军官证"),
        _NUMBERS,
    ),
    _Kind(
        "e-mail address",
        Level.IMPORTANT,
        "email",
        _runs("email, e mail, mail address, mailaddress, emailaddress"),
        ("邮箱", "电子邮件", "电邮"),
        _WORDS,
        not_words=_set("subject body template content"),
    ),
    _Kind(
        "telephone number",
        Level.IMPORTANT,
        "phone",
        _runs(
            "phone, mobile, cellphone, cell phone, telephone, tel, msisdn, whatsapp, phonenumber, mobilephone, fax, contact number"
        ),
        ("手机", "电话", "座机", "联系方式", "传真"),
        _NUMBERS,
        not_words=_set("model brand os app version platform"),
        not_signs=("手机型号", "手机品牌", "手机系统"),
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
        _runs("birth date, birthdate, birthday, date of birth, dob, birth day, birth, born"),
        ("出生", "生日"),
        _DATES,
    ),
    _Kind(
        "postal address",
        Level.IMPORTANT,
        "keep_first",
        _runs(
            "home address, street address, postal address, billing address, shipping address, delivery address, residence, address line,"
            " mailing address, street, address, addr"
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
            }
        ),
        not_signs=("网络地址", "网址", "IP地址", "MAC地址", "链接地址", "接口地址", "服务器地址"),
    ),
    _Kind(
        "person's name",
        Level.IMPORTANT,
        "name",
        _runs(
            "first name, last name, full name, given name, family name, middle name, surname, firstname, lastname, fullname, real name,"
            " realname, customer name, client name, patient name, member name, holder name, cardholder, card holder, contact name,"
            " contact person, recipient name, receiver name, employee name, maiden name, payee name, payer name, name"
        ),
        ("姓名", "联系人", "收件人", "收货人", "持卡人", "客户名", "真实名字", "真名", "曾用名"),
        _WORDS,
        people_only=_runs("name"),
        not_words=_set("file table column class domain display host product user"),
    ),
    _Kind(
        "vehicle plate",
        Level.IMPORTANT,
        "keep_first_last",
        _runs("license plate, licence plate, plate number, plate no, number plate"),
        ("车牌",),
        _WORDS,
    ),
)

_PEOPLE = _set(
    "customer customers client clients person persons people patient patients member members contact contacts employee employees cardholder"
    " cardholders guest guests passenger passengers subscriber subscribers resident residents citizen citizens applicant applicants"
)
_PEOPLE_SIGNS = ("客户", "顾客", "会员", "联系人", "用户", "员工", "患者", "人员")

# What stands at the end of the name of a flag, a counter, a type or a time.
_ASIDE = _set(
    "type kind status state verified confirmed validated count flag enabled sent at required visible changed attempts format length"
    " bounced opt optin optout country template"
)
_ASIDE_SIGNS = ("类型", "状态", "数量", "次数", "是否", "标志", "时间")

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


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
    if not kind.not_words.isdisjoint(words):
        return None
    for run in sorted(kind.words, key=lambda r: (-len(r), r)):
        if not any(words[i : i + len(run)] == run for i in range(len(words) - len(run) + 1)):
            continue
        if run in kind.people_only and not (words == run and _is_about_people(table)):
            continue
        return " ".join(run)
    return None


def _told_by_signs(kind: _Kind, column: str) -> str | None:
    if any(sign in column for sign in kind.not_signs):
        return None
    return next((sign for sign in kind.signs if sign in column), None)


def _is_about_people(table: TableName) -> bool:
    return not _PEOPLE.isdisjoint(_words(table.name)) or any(sign in table.name for sign in _PEOPLE_SIGNS)
