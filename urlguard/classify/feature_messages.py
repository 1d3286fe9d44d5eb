"""
The messages that describe features: one sentence for each, in English, for translation.

Data alone; `describe` fills the placeholders and `urlguard.i18n` translates.  A feature that counts
something has a singular.  Where 0 means that there is nothing, a second message says so.  The
placeholders are:

    n          the value
    p          the value as a percentage
    times      how many harmless names have a trigram, from its commonness
    lean       whether odds indicate fraud, with the number
    others     parts of the item: see `describe.ItemParts`
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from urlguard.i18n import Plural, gettext_noop, ngettext_noop


class FeatureMessage(NamedTuple):
    """Messages of one feature; ``none`` is for the value 0 and may be empty."""

    full: str | Plural
    none: str = ""


# The memory of campaigns: the names that share one of its keys.
MEMORY: Final[Mapping[str, str]] = {
    "shape": gettext_noop("names shaped like “{label}” below .{suffix}"),
    "series": gettext_noop("names like “{label}” with other numbers"),
    "begins": gettext_noop("names below .{suffix} that begin with “{first5}”"),
    "ends": gettext_noop("names below .{suffix} that end with “{last5}”"),
    "begins_anywhere": gettext_noop("names that begin with “{first6}”"),
    "ends_anywhere": gettext_noop("names that end with “{last6}”"),
    "begins_longer": gettext_noop("names that begin with “{first8}”"),
    "pattern": gettext_noop(
        "names below .{suffix} that begin with “{first3}” and mix letters and digits alike"
    ),
    "before_series": gettext_noop(
        "names with {ahead}, or that with other numbers, before the domain"
    ),
    "whole_shape": gettext_noop("names shaped like this one in all parts, below .{suffix}"),
    "suffix": gettext_noop("names below .{suffix}"),
    "top_level": gettext_noop("names below .{top}"),
    "label": gettext_noop("names “{label}” on whatever suffix"),
    "file": gettext_noop("pages of other sites with this file name"),
    "first": gettext_noop("pages of other sites below this first folder"),
    "shape_path": gettext_noop("paths of the same shape"),
    "path_series": gettext_noop("this path, whatever its numbers, on other hosts"),
}

# How a brand is spelled, by the number that the features give: `brands.Spelling` and one.
SPELLINGS: Final[Mapping[int, str]] = {
    1: gettext_noop("plainly"),
    2: gettext_noop("with hyphens inside"),
    3: gettext_noop("with signs that look like others"),
    4: gettext_noop("with digits pushed in"),
    5: gettext_noop("with a letter swapped, doubled or missing"),
    6: gettext_noop("with a letter's neighbour on the keyboard"),
}

_M = FeatureMessage

_SHAPE: Final[Mapping[str, FeatureMessage]] = {
    "length": _M(gettext_noop("the name has {n} characters")),
    "label_length": _M(
        ngettext_noop(
            "the label “{label}” has {n} character", "the label “{label}” has {n} characters",
        ),
    ),
    "before_length": _M(
        ngettext_noop("{n} character before the domain", "{n} characters before the domain"),
        gettext_noop("nothing before the domain"),
    ),
    "before_labels": _M(
        ngettext_noop("{n} label before the domain", "{n} labels before the domain"),
        gettext_noop("no label before the domain"),
    ),
    "suffix_labels": _M(
        ngettext_noop("{n} dot in the suffix .{suffix}", "{n} dots in the suffix .{suffix}"),
        gettext_noop("the suffix .{suffix} is a single label"),
    ),
    "suffix_length": _M(
        ngettext_noop(
            "the suffix .{suffix} has {n} character", "the suffix .{suffix} has {n} characters",
        ),
        gettext_noop("no public suffix"),
    ),
    "hosting": _M(
        gettext_noop("a customer's place on shared hosting, .{suffix}"),
        gettext_noop("a domain of its own, not on shared hosting"),
    ),
    "digits": _M(
        ngettext_noop("{n} digit in the label", "{n} digits in the label"),
        gettext_noop("no digits in the label"),
    ),
    "digit_runs": _M(
        ngettext_noop("digits in {n} place of the label", "digits in {n} places of the label"),
        gettext_noop("digits nowhere in the label"),
    ),
    "digit_longest": _M(
        ngettext_noop("{n} digit in a row in the label", "{n} digits in a row in the label"),
        gettext_noop("no run of digits in the label"),
    ),
    "digit_share": _M(
        gettext_noop("digits are {p} of the label"),
        gettext_noop("digits have no share of the label"),
    ),
    "digit_first": _M(
        gettext_noop("the label begins with a digit"),
        gettext_noop("the label does not begin with a digit"),
    ),
    "digit_last": _M(
        gettext_noop("the label ends with a digit"),
        gettext_noop("the label does not end with a digit"),
    ),
    "hyphens": _M(
        ngettext_noop("{n} hyphen in the label", "{n} hyphens in the label"),
        gettext_noop("no hyphens in the label"),
    ),
    "token_longest": _M(
        ngettext_noop(
            "the longest part between hyphens has {n} character",
            "the longest part between hyphens has {n} characters",
        ),
        gettext_noop("no part between hyphens"),
    ),
    "token_shortest": _M(
        ngettext_noop(
            "the shortest part between hyphens has {n} character",
            "the shortest part between hyphens has {n} characters",
        ),
        gettext_noop("an empty part between hyphens"),
    ),
    "vowel_share": _M(
        gettext_noop("{p} of the label's letters are vowels"),
        gettext_noop("no vowels in the label"),
    ),
    "consonants_longest": _M(
        ngettext_noop(
            "{n} consonant in a row in the label", "{n} consonants in a row in the label",
        ),
        gettext_noop("no consonants in a row in the label"),
    ),
    "repeat_longest": _M(
        ngettext_noop("the same sign {n} time in a row", "the same sign {n} times in a row"),
    ),
    "entropy": _M(
        gettext_noop("the label's signs have {n} bits of entropy"),
        gettext_noop("the label has one kind of sign alone"),
    ),
    "distinct": _M(
        ngettext_noop("{n} different sign in the label", "{n} different signs in the label"),
    ),
    "hexadecimal": _M(
        gettext_noop("the label is hexadecimal digits alone"),
        gettext_noop("the label is not a hexadecimal number"),
    ),
    "before_digits": _M(
        ngettext_noop("{n} digit before the domain", "{n} digits before the domain"),
        gettext_noop("no digits before the domain"),
    ),
    "before_digit_longest": _M(
        ngettext_noop(
            "{n} digit in a row before the domain", "{n} digits in a row before the domain",
        ),
        gettext_noop("no run of digits before the domain"),
    ),
    "before_hyphens": _M(
        ngettext_noop("{n} hyphen before the domain", "{n} hyphens before the domain"),
        gettext_noop("no hyphens before the domain"),
    ),
    "before_consonants": _M(
        ngettext_noop(
            "{n} consonant in a row before the domain", "{n} consonants in a row before the domain",
        ),
        gettext_noop("no consonants in a row before the domain"),
    ),
}  # fmt: skip

_LEARNT: Final[Mapping[str, FeatureMessage]] = {
    "grams": _M(gettext_noop("the spelling of the whole name {lean}")),
    "grams_label": _M(gettext_noop("the spelling of the label {lean}")),
    "grams_before": _M(gettext_noop("the spelling before the domain {lean}")),
    "grams_suffix": _M(gettext_noop("the suffix .{suffix} {lean}")),
    "grams_mean": _M(gettext_noop("the spelling of the label, sign for sign, {lean}")),
    "gram_worst": _M(gettext_noop("the most suspicious piece of the label{gram_worst} {lean}")),
    "gram_best": _M(gettext_noop("the least suspicious piece of the label{gram_best} {lean}")),
    "gram_before_worst": _M(gettext_noop("the most suspicious piece before the domain {lean}")),
    "common": _M(
        gettext_noop(
            "three signs in a row of the label stand in some {times} harmless names, in the mean",
        ),
        gettext_noop("no three signs in a row of the label stand in a harmless name"),
    ),
    "common_least": _M(
        gettext_noop(
            "the label's rarest three signs in a row stand in some {times} harmless names",
        ),
        gettext_noop("the label has three signs in a row that no harmless name has"),
    ),
    "words": _M(
        ngettext_noop("{n} known word in the label", "{n} known words in the label"),
        gettext_noop("no known words in the label"),
    ),
    "words_share": _M(
        gettext_noop("known words are {p} of the label"),
        gettext_noop("known words have no share of the label"),
    ),
    "word_longest": _M(
        ngettext_noop(
            "the longest known word in the label has {n} letter",
            "the longest known word in the label has {n} letters",
        ),
        gettext_noop("not one known word in the label"),
    ),
    "word_worst": _M(
        gettext_noop("the most suspicious word of the label{word_worst} {lean}"),
        gettext_noop("no suspicious word in the label"),
    ),
    "word_best": _M(
        gettext_noop("the least suspicious word of the label{word_best} {lean}"),
        gettext_noop("no word in the label that speaks against fraud"),
    ),
    "words_odds": _M(gettext_noop("the vocabulary of the label {lean}")),
    "unknown_longest": _M(
        ngettext_noop(
            "a stretch of {n} sign of the label makes no known word",
            "a stretch of {n} signs of the label makes no known word",
        ),
        gettext_noop("the label is known words throughout"),
    ),
    "before_words": _M(
        ngettext_noop("{n} known word before the domain", "{n} known words before the domain"),
        gettext_noop("no known words before the domain"),
    ),
    "before_word_worst": _M(
        gettext_noop("the most suspicious word before the domain{before_word_worst} {lean}"),
        gettext_noop("no suspicious word before the domain"),
    ),
    "before_words_odds": _M(gettext_noop("the vocabulary before the domain {lean}")),
    "pinyin_longest": _M(
        ngettext_noop(
            "{n} letter of pinyin in a row in the label",
            "{n} letters of pinyin in a row in the label",
        ),
        gettext_noop("no pinyin in the label"),
    ),
    "pinyin_whole": _M(
        gettext_noop("the label is pinyin throughout"),
        gettext_noop("the label is not pinyin throughout"),
    ),
    "brand": _M(
        gettext_noop("the label has the name of {brand}, written {written}"),
        gettext_noop("no known brand in the label"),
    ),
    "brand_share": _M(
        gettext_noop("the brand's name is {p} of the label"),
        gettext_noop("a brand's name has no share of the label"),
    ),
    "brand_odds": _M(gettext_noop("this brand in a name {lean}")),
    "brand_before": _M(
        gettext_noop(
            "the name of {brand_before} stands before the domain, written {written_before}",
        ),
        gettext_noop("no known brand before the domain"),
    ),
    "brand_before_odds": _M(gettext_noop("this brand before a domain {lean}")),
    "brand_own": _M(
        gettext_noop("a domain of the brand's own{owner}"),
        gettext_noop("no brand's own domain"),
    ),
    "brands": _M(
        ngettext_noop("{n} known brand in the name", "{n} known brands in the name"),
        gettext_noop("no known brand in the name"),
    ),
    "foreign_labels": _M(
        ngettext_noop("{n} label beyond ASCII", "{n} labels beyond ASCII"),
        gettext_noop("no label beyond ASCII"),
    ),
    "foreign_mixed": _M(
        gettext_noop("scripts are mixed in one label"),
        gettext_noop("no scripts are mixed"),
    ),
    "foreign_alike": _M(
        ngettext_noop(
            "{n} sign that look like Latin letters and are none",
            "{n} signs that look like Latin letters and are none",
        ),
        gettext_noop("no signs that pass for Latin letters"),
    ),
    "foreign_brand": _M(
        gettext_noop("a label beyond ASCII looks like a brand{foreign}"),
        gettext_noop("no label beyond ASCII looks like a brand"),
    ),
}  # fmt: skip

_PATH: Final[Mapping[str, FeatureMessage]] = {
    "path_length": _M(ngettext_noop("the path has {n} character", "the path has {n} characters")),
    "path_depth": _M(
        ngettext_noop("the path is {n} segment deep", "the path is {n} segments deep"),
    ),
    "path_digits": _M(
        ngettext_noop("{n} digit in the path", "{n} digits in the path"),
        gettext_noop("no digits in the path"),
    ),
    "path_digit_longest": _M(
        ngettext_noop("{n} digit in a row in the path", "{n} digits in a row in the path"),
        gettext_noop("no run of digits in the path"),
    ),
    "path_hyphens": _M(
        ngettext_noop("{n} hyphen in the path", "{n} hyphens in the path"),
        gettext_noop("no hyphens in the path"),
    ),
    "path_uppercase": _M(
        ngettext_noop("{n} capital in the path", "{n} capitals in the path"),
        gettext_noop("no capitals in the path"),
    ),
    "path_entropy": _M(
        gettext_noop("the path's signs have {n} bits of entropy"),
        gettext_noop("the path has one kind of sign alone"),
    ),
    "path_longest": _M(
        ngettext_noop(
            "the longest segment of the path has {n} character",
            "the longest segment of the path has {n} characters",
        ),
        gettext_noop("no segment in the path"),
    ),
    "path_random": _M(
        ngettext_noop(
            "{n} letter and digits mixed in a row in the path",
            "{n} letters and digits mixed in a row in the path",
        ),
        gettext_noop("no letters and digits mixed in the path"),
    ),
    "path_dots": _M(
        ngettext_noop("{n} dot in the path", "{n} dots in the path"),
        gettext_noop("no dots in the path"),
    ),
    "path_escaped": _M(
        ngettext_noop("{n} percent sign in the path", "{n} percent signs in the path"),
        gettext_noop("no percent signs in the path"),
    ),
    "path_tilde": _M(
        gettext_noop("a tilde in the path: somebody's folder"),
        gettext_noop("no tilde in the path"),
    ),
    "path_ends_slash": _M(
        gettext_noop("the path ends in a folder"),
        gettext_noop("the path does not end in a folder"),
    ),
    "path_double": _M(
        gettext_noop("an address or double slash inside the path"),
        gettext_noop("no address inside the path"),
    ),
    "path_name": _M(
        gettext_noop("a host name inside the path"),
        gettext_noop("no host name inside the path"),
    ),
    "path_mail": _M(gettext_noop("an at sign in the path"), gettext_noop("no at sign in the path")),
    "type_odds": _M(gettext_noop("the type of the file {lean}")),
    "query_length": _M(
        ngettext_noop("the query has {n} character", "the query has {n} characters"),
        gettext_noop("no query"),
    ),
    "query_parameters": _M(
        ngettext_noop("{n} parameter in the query", "{n} parameters in the query"),
        gettext_noop("no parameters in the query"),
    ),
    "query_longest": _M(
        ngettext_noop(
            "the query's longest value has {n} character",
            "the query's longest value has {n} characters",
        ),
        gettext_noop("no values in the query"),
    ),
    "query_digits": _M(
        ngettext_noop("{n} digit in the query", "{n} digits in the query"),
        gettext_noop("no digits in the query"),
    ),
    "query_address": _M(
        gettext_noop("an address in the query"),
        gettext_noop("no address in the query"),
    ),
    "query_mail": _M(
        gettext_noop("an e-mail address in the query"),
        gettext_noop("no e-mail address in the query"),
    ),
    "query_odds": _M(gettext_noop("the query's set of parameters {lean}")),
    "grams_path": _M(gettext_noop("the spelling of the path {lean}")),
    "grams_query": _M(gettext_noop("the spelling of the query {lean}")),
    "gram_path_worst": _M(gettext_noop("the most suspicious piece of the path {lean}")),
    "grams_url": _M(gettext_noop("the spelling of the whole address {lean}")),
    "words_path": _M(
        ngettext_noop("{n} known word in the path", "{n} known words in the path"),
        gettext_noop("no known words in the path"),
    ),
    "words_path_worst": _M(
        gettext_noop("the most suspicious word of the path{words_path_worst} {lean}"),
        gettext_noop("no suspicious word in the path"),
    ),
    "words_path_odds": _M(gettext_noop("the vocabulary of the path {lean}")),
    "brand_path": _M(
        gettext_noop("the name of {brand_path} stands in the path, written {written_path}"),
        gettext_noop("no known brand in the path"),
    ),
    "brand_path_odds": _M(gettext_noop("this brand in a path {lean}")),
    "address": _M(
        gettext_noop("an IP address in the place of a name"),
        gettext_noop("a name, not an IP address"),
    ),
    "bare": _M(gettext_noop("no path at all"), gettext_noop("a path or query follows the host")),
}  # fmt: skip

# Every feature but those of the memory.
FEATURES: Final[Mapping[str, FeatureMessage]] = {**_SHAPE, **_LEARNT, **_PATH}
