"""
Signs that look like others: decoding A-labels, skeletons, scripts.

Knows Unicode; knows no brands, no names as a whole, and does not say what is fraud.  A label of one
script that is not Latin is as legitimate as any other.

How it works.  UTS 39 compares strings by *skeletons*: two that look alike have the same one.  Ours
is a skeleton onto ASCII, since what is imitated is ASCII: compatibility forms, case and marks are
folded, then each sign in ``urlguard/data/confusables.txt`` becomes the letters or digits that it
looks like, and whatever looks like none stays.  ASCII itself is left alone; that ``rn`` looks like
``m`` is the business of `brands`.  The script of a sign comes from its Unicode name; mixing is
judged as on UTS 39's level "moderately restrictive".
"""

import unicodedata
from functools import cache, lru_cache
from pathlib import Path

_FILE = Path(__file__).parents[1] / "data" / "confusables.txt"
_PREFIX = "xn--"
_MAX_LABEL = 63  # octets; what is longer is no label, and decoding takes the square of the length

# The first word of a sign's Unicode name, where it is not the script's own name.
_SCRIPTS = {"cjk": "han", "ideographic": "han", "hiragana": "kana", "katakana": "kana"}
# First words of signs that belong to no script, such as digits and marks used by several.
_COMMON = frozenset(
    ("digit", "modifier", "prolonged", "katakana-hiragana", "zero", "superscript", "subscript")
)

# Scripts that one writing system uses together, Latin besides (UTS 39 section 5.1).
_TOGETHER = (
    frozenset(("han", "kana", "latin")),
    frozenset(("han", "hangul", "latin")),
    frozenset(("han", "bopomofo", "latin")),
)
# Beside Latin these are mixing, for too many of their letters look like Latin ones.
_ALIKE = frozenset(("cyrillic", "greek", "armenian", "cherokee", "coptic", "lisu", "other"))


def decode(label: str) -> str | None:
    """
    The Unicode form of a canonical A-label (``xn--...``); None for any other text.

    None also for what only looks like an A-label: what cannot be decoded, comes to nothing but
    ASCII, or would be encoded otherwise.  Never raises.
    """
    if not label.startswith(_PREFIX) or len(label) > _MAX_LABEL:
        return None
    try:
        text = label[len(_PREFIX) :].encode("ascii").decode("punycode")
        again = text.encode("punycode").decode("ascii")
    except (UnicodeError, ValueError, OverflowError):
        return None
    if text.isascii() or _PREFIX + again != label or any("\ud800" <= c <= "\udfff" for c in text):
        return None
    return text


def folded(text: str) -> str:
    """Text without compatibility forms, case and marks: ``É`` becomes ``e``."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).lower())
    plain = "".join([sign for sign in text if not unicodedata.combining(sign)])
    return unicodedata.normalize("NFC", plain)


def skeleton(text: str) -> str:
    """
    What a text looks like, as far as it looks like ASCII: ``раураӏ`` in Cyrillic becomes paypal.

    Args:
        text: a decoded label.

    Returns:
        Lower case; signs that look like no ASCII letter or digit as they were, but folded.
    """
    return text.lower() if text.isascii() else folded(text).translate(_alike())


@cache
def _alike() -> dict[int, str]:
    """The table for `str.translate`: what each sign looks like."""
    table: dict[int, str] = {}
    for line in _FILE.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            shape, _, signs = line.partition("\t")
            table.update(dict.fromkeys(map(ord, signs), shape))
    return table


def scripts(text: str) -> frozenset[str]:
    """
    The scripts that a text is written in: latin, han, kana, cyrillic, arabic and so on.

    Digits, hyphens and marks belong to none; a sign without a name is of the script ``other``.
    """
    return frozenset(script for script in map(_script, text) if script)


@lru_cache(4096)
def _script(sign: str) -> str:
    if sign.isascii():
        return "latin" if sign.isalpha() else ""
    if unicodedata.combining(sign):
        return ""
    words = unicodedata.name(unicodedata.normalize("NFKC", sign)[:1], "other").lower().split()
    if words[0] in _COMMON or (not sign.isalnum() and words[0] not in _SCRIPTS):
        return "" if words != ["other"] else "other"
    return _SCRIPTS.get(words[0], words[0])


def mixed(text: str) -> bool:
    """
    True if a label mixes scripts that no writing system uses together.

    Not mixing are one script alone, Latin with Chinese, Japanese or Korean, and Latin with one
    script whose letters do not look like Latin ones.
    """
    found = scripts(text)
    if len(found) < 2 or any(found <= system for system in _TOGETHER):
        return False
    return not (len(found) == 2 and "latin" in found and not found & _ALIKE)
