"""
Translations of the sentences that people read, in English and Chinese.

Part of the vocabulary.  Knows the catalogues in ``urlguard/locale``; knows nothing of who shows a
sentence, or where.  A worker never imports it: what a client of the resolver gets has no language.

How it works.  The English sentence is the message ID, as usual with gettext: the code stays
readable, English needs no catalogue, translators see source and translation side by side, and a
changed sentence makes its translation fuzzy, which fails a test until somebody reviews it.  Where
one English text needs two translations, `pgettext` tells them apart by a context.

Babel extracts the messages and updates the catalogues (``make messages``).  At run time the
standard library reads the compiled ``.mo`` files: `gettext` is loaded by click in any case, takes
1 ms otherwise, and reads a catalogue in 1 ms, where Babel's reader of ``.po`` files takes 50.  An
editable install has no build step, so the compiled files are kept in the repository, and a test
compares them with their sources.

No sentence is translated lazily: whoever needs one asks for the `translations` of a language and
passes them on.  Tables of messages are marked with `gettext_noop` and `ngettext_noop`, which
return their arguments, and are translated where they are used.  Placeholders are those of
`str.format`, always named.
"""

import gettext
import re
from functools import cache
from pathlib import Path
from typing import Final

LANGUAGES: Final = ("en", "zh")
DEFAULT: Final = "en"  # the language of the message IDs

DOMAIN: Final = "urlguard"  # the catalogues' name
FOLDER: Final = Path(__file__).with_name("locale")

Translations = gettext.NullTranslations
Plural = tuple[str, str]  # the message for one, and for any other number

MAX_RANGES: Final = 20  # of an Accept-Language field; the rest is not read

_range = re.compile(
    r"\s*(?P<tag>[a-z]{1,8}(?:-[a-z0-9]{1,8})*|\*)\s*"
    r"(?:;\s*q=(?P<q>0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*)?",
    re.IGNORECASE | re.ASCII,
).fullmatch


@cache
def translations(language: str) -> Translations:
    """
    The translations into a language, with the methods of `gettext.NullTranslations`.

    The first call for a language reads its catalogue; later ones return the same object.

    Args:
        language: one of `LANGUAGES`.

    Raises:
        ValueError: another language.
        OSError: the catalogue is missing, so the installation is incomplete.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language {language!r}: must be one of {', '.join(LANGUAGES)}")
    if language == DEFAULT:
        return Translations()
    with compiled(language).open("rb") as file:
        return gettext.GNUTranslations(file)


def compiled(language: str) -> Path:
    """The path of a language's compiled catalogue; the source has the suffix ``.po``."""
    return FOLDER / language / "LC_MESSAGES" / f"{DOMAIN}.mo"


def in_every_language(message: str, **values: object) -> dict[str, str]:
    """A message in each of `LANGUAGES`, by language, with its placeholders filled."""
    return {
        language: translations(language).gettext(message).format_map(values)
        for language in LANGUAGES
    }


def negotiate(accept_language: str | None) -> str:
    """
    The language to answer in, by an Accept-Language field (RFC 9110 section 12.5.4).

    The highest quality wins, the earlier of two equal ones; a range with subtags such as ``zh-TW``
    falls back to its language (lookup, RFC 4647 section 3.4).  What is malformed is ignored.

    Args:
        accept_language: the field's value; its first `MAX_RANGES` ranges are read.

    Returns:
        One of `LANGUAGES`; `DEFAULT` without a field, or if it names none of them.
    """
    found = [_range(part) for part in (accept_language or "").split(",", MAX_RANGES)[:MAX_RANGES]]
    ranges = [(one["tag"].lower(), float(one["q"] or 1)) for one in found if one]
    refused = {tag for tag, quality in ranges if not quality}
    for tag, quality in sorted(ranges, key=lambda one: -one[1]):
        wanted = LANGUAGES if tag == "*" else (tag.partition("-")[0],)
        for language in wanted:
            if quality and language in LANGUAGES and language not in refused:
                return language
    return DEFAULT


def gettext_noop(message: str) -> str:
    """The message as it is; marks it for extraction where it is translated later."""
    return message


def ngettext_noop(one: str, other: str) -> Plural:
    """Both forms as they are; marks them for extraction where they are translated later."""
    return one, other
