"""
Describes features in words: what a value says about a name or URL, in one language.

Knows the meaning of values; knows neither models nor how much a value contributed to a score, which
`explain` adds.  The sentences stand in `feature_messages`.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from urlguard.classify.feature_messages import FEATURES, MEMORY, SPELLINGS, FeatureMessage
from urlguard.i18n import Translations, gettext_noop

# The keys of the memory, by the features that each has.
_REMEMBERED: Final = {f"{key}_{what}": key for key in MEMORY for what in ("odds", "evidence")}

DESCRIBED: Final = frozenset((*FEATURES, *_REMEMBERED))  # the features that have a description

_LEANS: Final = (
    gettext_noop("speaks strongly for fraud"),
    gettext_noop("speaks for fraud"),
    gettext_noop("says little"),
    gettext_noop("speaks against fraud"),
    gettext_noop("speaks strongly against fraud"),
)
_STRONG, _SOME = 2.0, 0.5  # log-odds
_MOST = 12  # steps of evidence; tables count no further
COMMON_STEPS: Final = 6  # of a trigram's commonness for each doubling, as training counts


class ItemParts(NamedTuple):
    """
    The parts of an item that sentences quote, by placeholder; a part that is missing is left out.

    Attributes:
        plain: stand as they are.
        quoted: stand in quotation marks, after a space.
        spelled: a brand's spelling (a key of `SPELLINGS`) and the text that is spelled so.
        before: what stands before the domain; may be empty.
    """

    plain: dict[str, str]
    quoted: dict[str, str]
    spelled: dict[str, tuple[int, str]]
    before: str = ""

    def worded(self, translations: Translations) -> dict[str, str]:
        """What stands for each placeholder in a language."""
        # Translators: a quotation and the space that separates it from the word before.
        quotation = translations.gettext(" “{text}”")
        found = dict(self.plain)
        for key, text in self.quoted.items():
            found[key] = quotation.format(text=text) if text else ""
        for key, (spelling, text) in self.spelled.items():
            found[key] = translations.gettext(SPELLINGS[spelling]) + quotation.format(text=text)
        if self.before:
            # Translators: stands for {ahead} in "names with {ahead}, …".
            found["ahead"] = translations.pgettext("ahead", "“{text}”").format(text=self.before)
        else:
            found["ahead"] = translations.pgettext("ahead", "nothing")
        return found


def lean(translations: Translations, odds: float) -> str:
    """Whether log-odds indicate fraud, and how strongly, with the number."""
    strength = [_STRONG, _SOME, -_SOME, -_STRONG]
    at = next((n for n, least in enumerate(strength) if odds >= least), len(strength))
    # A border counts as the stronger of its two sides, on either side of 0.
    if odds in (-_SOME, -_STRONG):
        at += 1
    # Translators: "speaks for fraud (+1.25)".
    return translations.gettext("{leaning} ({odds:+.2f})").format(
        leaning=translations.gettext(_LEANS[at]), odds=odds
    )


def known(translations: Translations, odds: float, evidence: float) -> str:
    """How many names the memory has under a key, in powers of two, and what their odds indicate."""
    if not evidence:
        return translations.gettext("none remembered")
    if evidence >= _MOST:
        count = translations.gettext("thousands")
    else:
        number = round(2**evidence) - 1
        count = translations.gettext("some {number:,}").format(number=number)
    # Translators: "some 63 known, which speaks for fraud (+1.25)".
    return translations.gettext("{count} known, which {lean}").format(
        count=count, lean=lean(translations, odds)
    )


class _Filling(dict[str, str]):
    """What is not known of an item is left out of a sentence."""

    def __missing__(self, key: str) -> str:
        return ""


def describe(
    translations: Translations,
    feature: str,
    values: Mapping[str, float],
    parts: Mapping[str, str],
) -> str:
    """
    A feature's value in words; its name and value if it has no description.

    Args:
        translations: into the language, from `urlguard.i18n`.
        feature: its name.
        values: of all features of the item, by name.
        parts: of the item, by placeholder: see `ItemParts.worded`.
    """
    value = values[feature]
    if (key := _REMEMBERED.get(feature)) is not None:
        # Translators: "names below .top: some 63 known, which speaks for fraud (+1.25)".
        return translations.gettext("{names}: {known}").format(
            names=translations.gettext(MEMORY[key]).format_map(_Filling(parts)),
            known=known(
                translations, values.get(f"{key}_odds", 0), values.get(f"{key}_evidence", 0)
            ),
        )
    if (message := FEATURES.get(feature)) is None:
        return f"{feature}: {_number(value)}"
    if feature == "vowel_share" and value < 0:
        return translations.gettext("the label has no letters")
    filling = _Filling(
        parts,
        n=_number(value),
        p=f"{value:.0%}",
        times=_number(round(2 ** (max(value, 0) / COMMON_STEPS)) - 1 or 1),
        lean=lean(translations, value),
    )
    return _template(translations, message, value).format_map(filling)


def _template(translations: Translations, message: FeatureMessage, value: float) -> str:
    """The translated message for a value, with its placeholders."""
    if message.none and not value:
        return translations.gettext(message.none)
    if isinstance(message.full, str):
        return translations.gettext(message.full)
    # The plural of a number that is not whole: gettext takes integers alone.
    return translations.ngettext(*message.full, 1 if value == 1 else 2)


def _number(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:,.0f}"
