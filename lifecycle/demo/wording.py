"""Names, addresses and texts in two languages. Faker fills pools once, a seeded random source combines them: Faker alone is too slow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from faker import Faker

from lifecycle.demo.canaries import MAX_TRIES, ExhaustedError, prefix_free

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

_DRAWS: Final = 4000
_POOL: Final = 400

_PRODUCTS: Final = {
    "books": ("Atlas of rivers", "Cookery for two", "红楼梦精装", "儿童百科", "A history of tea", "水浒传连环画"),
    "health": ("Blood pressure monitor", "Pregnancy vitamins", "助听器", "血糖仪", "Allergy tablets", "中药调理套装"),
    "home": ("Cast iron pan", "Desk lamp", "紫砂壶", "电饭煲", "Cotton bedding", "竹编收纳篮"),
    "travel": (
        "Night train, two berths",
        "Mountain hut, three nights",
        "三亚机票",
        "黄山门票",
        "City museum pass",
        "温泉酒店两晚",
    ),
    "electronics": (
        "Noise-cancelling headphones",
        "Camera lens 50 mm",
        "平板电脑",
        "智能手表",
        "Mechanical keyboard",
        "无人机",
    ),
}
_SUBJECTS: Final = {
    "en_US": (
        "Card was declined",
        "Change of address",
        "Question about fees",
        "Lost card",
        "Statement is missing",
        "Cannot log in",
    ),
    "zh_CN": ("银行卡被拒", "变更地址", "咨询手续费", "挂失卡片", "对账单缺失", "无法登录"),
}
_BRANCHES: Final = ("Beijing East", "Shanghai Bund", "Shenzhen Bay", "Chengdu South", "Hangzhou Lake", "Xi'an Gate")


class Wording:
    """Pools drawn from `seed`. Every method that combines them takes its randomness from the caller."""

    def __init__(self, seed: int) -> None:
        fakers = {locale: Faker(locale, use_weighting=False) for locale in ("zh_CN", "en_US")}
        for faker in fakers.values():
            faker.seed_instance(seed)
        self._people = {locale: _People(locale, faker) for locale, faker in fakers.items()}
        self._places = {locale: _places(locale, faker) for locale, faker in fakers.items()}
        self._texts = {locale: [faker.sentence() for _ in range(_POOL)] for locale, faker in fakers.items()}
        self._free = "\n".join(
            [*self._texts["zh_CN"], *_SUBJECTS["zh_CN"], *(p for ps in _PRODUCTS.values() for p in ps)]
            + [word for words in self._places["zh_CN"] for word in words]
        )
        self._streets: set[str] = set()

    def names(self, locale: str, chance: random.Random) -> Iterator[tuple[str, str]]:
        """(full name, F or M) for ever, none twice and none inside another one. Raises ExhaustedError when the pools are used up."""
        people = self._people[locale]
        return people.chinese(chance, self._free) if locale == "zh_CN" else people.english(chance)

    def email_user(self, name: str, locale: str, chance: random.Random) -> str:
        """The part of an address that tells something of its owner, in ASCII letters; the caller appends a number."""
        if locale == "en_US":
            return ".".join(name.lower().split())
        return "".join(chance.choices("abcdefghjklmnpqrstwxyz", k=5)) + "."

    def address(self, locale: str, chance: random.Random) -> str:
        """A postal address, none twice and none inside another one."""
        first, second = self._places[locale]
        for _ in range(MAX_TRIES):
            area, street = chance.choice(first), chance.choice(second)
            if locale == "zh_CN":
                made = f"{area}{street}{chance.randrange(1, 999)}号{chance.randrange(101, 3200)}室"
            else:
                made = f"{chance.randrange(1000, 10_000)} {street}, {area} {chance.randrange(10_000, 100_000)}"
            if made not in self._streets:
                self._streets.add(made)
                return made
        raise ExhaustedError("no address is left that differs from all the others")

    def branch(self, chance: random.Random) -> str:
        """One of the bank's branches."""
        return chance.choice(_BRANCHES)

    def product(self, chance: random.Random) -> tuple[str, str]:
        """(category, something that people buy)."""
        category = chance.choice(tuple(_PRODUCTS))
        return category, chance.choice(_PRODUCTS[category])

    def subject(self, locale: str, chance: random.Random) -> str:
        """What a support ticket is about."""
        return chance.choice(_SUBJECTS[locale])

    def sentences(self, locale: str, chance: random.Random) -> str:
        """One to three sentences that name nobody."""
        return (" " if locale == "en_US" else "").join(chance.choices(self._texts[locale], k=chance.randrange(1, 4)))


class _People:
    """The parts of names of one language."""

    def __init__(self, locale: str, faker: Faker) -> None:
        given_f = sorted({faker.first_name_female() for _ in range(_DRAWS)})
        given_m = sorted({faker.first_name_male() for _ in range(_DRAWS)})
        family = sorted({faker.last_name() for _ in range(_DRAWS)})
        if locale == "zh_CN":
            self._family = [f for f in family if len(f) == 1]
            self._compound = [f for f in family if len(f) == 2]
        else:
            self._family = prefix_free(f for f in family if f.isalpha())
            self._compound = []
        self._given = {"F": given_f, "M": given_m}

    def english(self, chance: random.Random) -> Iterator[tuple[str, str]]:
        """Given and family name; with a middle initial when that pair is taken."""
        seen: set[str] = set()
        for _ in iter(int, 1):
            gender = chance.choice("FM")
            given, family = chance.choice(self._given[gender]), chance.choice(self._family)
            for _ in range(MAX_TRIES):
                name = f"{given} {family}"
                if name not in seen:
                    break
                given = f"{chance.choice(self._given[gender]).split()[0]} {chance.choice('ABCDEFGHJKLMNPRST')}."
            else:
                raise ExhaustedError("no name is left that differs from all the others")
            seen.add(name)
            yield name, gender

    def chinese(self, chance: random.Random, free: str) -> Iterator[tuple[str, str]]:
        """Two, three and, with a compound family name, four signs; none occurs in `free`, the text that is not protected."""
        signs = {g: sorted({sign for given in pool for sign in given}) for g, pool in self._given.items()}
        seen: set[str] = set()
        inner: set[str] = set()
        for _ in iter(int, 1):
            gender = chance.choice("FM")
            for _ in range(MAX_TRIES):
                name = self._one_chinese(chance, signs[gender])
                parts = _parts(name)
                if name not in seen and name not in inner and seen.isdisjoint(parts) and name not in free:
                    break
            else:
                raise ExhaustedError("no name is left that differs from all the others")
            seen.add(name)
            inner.update(parts)
            yield name, gender

    def _one_chinese(self, chance: random.Random, signs: list[str]) -> str:
        kind = chance.random()
        if kind < 0.03:
            return chance.choice(self._family) + chance.choice(signs)
        if kind < 0.05 and self._compound:
            return chance.choice(self._compound) + "".join(chance.choices(signs, k=2))
        return chance.choice(self._family) + "".join(chance.choices(signs, k=2))


def _parts(name: str) -> list[str]:
    """Every part of two or more signs that is not the whole."""
    size = len(name)
    return [name[at : at + length] for length in range(2, size) for at in range(size - length + 1)]


def _places(locale: str, faker: Faker) -> tuple[list[str], list[str]]:
    """(areas, streets)."""
    if locale == "zh_CN":
        areas = {f"{faker.province()}{faker.city()}{faker.district()}区" for _ in range(_POOL)}
        return sorted(areas), sorted({faker.street_name() for _ in range(_DRAWS)})
    return sorted({faker.city() for _ in range(_POOL)}), sorted({faker.street_name() for _ in range(_DRAWS)})
