"""
The features that models see, in order: the name of each, and what it catches.

Data alone; `features` computes the values.  A change here changes the digest of the features, and
models made for another list are refused.
"""

from typing import Final, NamedTuple


class Feature(NamedTuple):
    """A number that a model sees: its name, and what it catches."""

    name: str
    catches: str


SHAPE: Final = (
    Feature("length", "long names, in which a brand's name is only the beginning"),
    Feature("label_length", "labels that are longer or shorter than people choose"),
    Feature("before_length", "long names before the domain, which push it out of a narrow screen"),
    Feature("before_labels", "many labels before the domain"),
    Feature("suffix_labels", "suffixes of several labels, such as shared hosting"),
    Feature("suffix_length", "long suffixes: services and new top-level domains"),
    Feature("hosting", "a place on shared hosting instead of a domain that was bought"),
    Feature("digits", "digits in the label"),
    Feature("digit_runs", "digits scattered over the label"),
    Feature("digit_longest", "serial numbers, dates and phone numbers"),
    Feature("digit_share", "labels that are mostly digits"),
    Feature("digit_first", "a digit at the label's beginning"),
    Feature("digit_last", "a number at the label's end, as of a series of names"),
    Feature("hyphens", "words strung together by hyphens"),
    Feature("token_longest", "the longest part between hyphens"),
    Feature("token_shortest", "the shortest part between hyphens"),
    Feature("vowel_share", "few vowels among the letters: generated names and abbreviations"),
    Feature("consonants_longest", "runs of consonants that nobody can say"),
    Feature("repeat_longest", "the same sign several times"),
    Feature("entropy", "signs spread as evenly as in random names"),
    Feature("distinct", "how many different signs the label has"),
    Feature("hexadecimal", "labels of hexadecimal digits alone"),
    Feature("before_digits", "digits before the domain"),
    Feature("before_digit_longest", "serial numbers before the domain"),
    Feature("before_hyphens", "hyphens before the domain"),
    Feature("before_consonants", "unspeakable runs before the domain"),
)
_GRAMS: Final = (
    Feature("grams", "n-grams of all pieces, weighed together"),
    Feature("grams_label", "n-grams of the label"),
    Feature("grams_before", "n-grams before the domain"),
    Feature("grams_suffix", "what the suffix and the top-level domain speak for"),
    Feature("grams_mean", "n-grams of the label, for one sign of it"),
    Feature("gram_worst", "the label's n-gram that speaks most for fraud"),
    Feature("gram_best", "the label's n-gram that speaks most against it"),
    Feature("gram_before_worst", "the same before the domain, where brands are put"),
    Feature("common", "trigrams that harmless names have, in the mean; low is gibberish"),
    Feature("common_least", "the label's least common trigram"),
)
_WORDS: Final = (
    Feature("words", "known words in the label"),
    Feature("words_share", "how much of the label is known words"),
    Feature("word_longest", "the longest known word"),
    Feature("word_worst", "the word that speaks most for fraud: login, bonus, wallet"),
    Feature("word_best", "the word that speaks most against it"),
    Feature("words_odds", "what the words of the label speak for, together"),
    Feature("unknown_longest", "the longest stretch that is no word"),
    Feature("before_words", "known words before the domain"),
    Feature("before_word_worst", "the word before the domain that speaks most for fraud"),
    Feature("before_words_odds", "what the words before the domain speak for, together"),
    Feature("pinyin_longest", "the longest run of pinyin syllables"),
    Feature("pinyin_whole", "a label of pinyin syllables alone"),
)
_BRANDS: Final = (
    Feature("brand", "a brand in the label, and how it is written, 1 (plain) to 6; 0: none"),
    Feature("brand_share", "how much of the label is the brand"),
    Feature("brand_odds", "how often that brand stands in fraud"),
    Feature("brand_before", "a brand before the domain, and how it is written"),
    Feature("brand_before_odds", "how often that brand stands in fraud"),
    Feature("brand_own", "a brand's own domain"),
    Feature("brands", "how many brands the name has"),
)
_FOREIGN: Final = (
    Feature("foreign_labels", "labels in other scripts than Latin"),
    Feature("foreign_mixed", "labels that mix scripts as no writing system does"),
    Feature("foreign_alike", "signs that look like Latin letters and are none"),
    Feature("foreign_brand", "a brand in what a foreign label looks like"),
)

# What the memory of campaigns keeps: a letter that keeps kinds apart, and what it is.
_KEYS: Final = (
    ("shape", "names of the label's shape, letter for letter and digit for digit, on this suffix"),
    ("series", "the same label with other numbers"),
    ("begins", "the label's first five signs, on this suffix"),
    ("ends", "the label's last five signs, on this suffix"),
    ("begins_anywhere", "the label's first six signs, on any suffix"),
    ("ends_anywhere", "the label's last six signs, on any suffix"),
    ("begins_longer", "the label's first eight signs, on any suffix"),
    ("pattern", "labels with these runs of letters and digits, and the same beginning"),
    ("before_series", "the same names before the domain, with other numbers"),
    ("whole_shape", "names of the same shape in all pieces, on this suffix"),
    ("suffix", "this suffix"),
    ("top_level", "this top-level domain"),
    ("label", "the same label on other suffixes"),
)
_MEMORY: Final = tuple(
    Feature(f"{name}_{what}", f"{words}: {text}")
    for name, text in _KEYS
    for what, words in (("odds", "how often fraud"), ("evidence", "how many known"))
)

_PATH: Final = (
    Feature("path_length", "long paths, where tokens and addresses hide"),
    Feature("path_depth", "segments of the path"),
    Feature("path_digits", "digits in the path"),
    Feature("path_digit_longest", "serial numbers in the path"),
    Feature("path_hyphens", "hyphens in the path: titles of articles"),
    Feature("path_uppercase", "capitals in the path"),
    Feature("path_entropy", "paths of random signs"),
    Feature("path_longest", "the longest segment"),
    Feature("path_random", "the longest run of letters and digits mixed: tokens and hashes"),
    Feature("path_dots", "dots in the path, as of names put into it"),
    Feature("path_escaped", "percent signs: what is hidden from the eye"),
    Feature("path_tilde", "somebody's folder on a shared machine"),
    Feature("path_ends_slash", "a folder instead of a page"),
    Feature("path_double", "a second scheme or slashes inside: an address within the address"),
    Feature("path_name", "a host name inside the path"),
    Feature("path_mail", "an at sign: a victim's e-mail address"),
    Feature("file_odds", "what the file's name speaks for: login.php, index.html"),
    Feature("file_evidence", "how often that file's name is known"),
    Feature("type_odds", "what the file's type speaks for"),
    Feature("first_odds", "what the first segment speaks for: wp-content, blog"),
    Feature("first_evidence", "how often that segment is known"),
    Feature("shape_path_odds", "what paths of the same shape are"),
    Feature("shape_path_evidence", "how many paths of that shape are known"),
    Feature("path_series_odds", "what the same path with other numbers is, on any host"),
    Feature("path_series_evidence", "how many hosts have it: a fraudster's kit"),
    Feature("query_length", "long queries, where tokens and addresses hide"),
    Feature("query_parameters", "how many parameters"),
    Feature("query_longest", "the longest value"),
    Feature("query_digits", "digits in the query"),
    Feature("query_address", "an address in the query: redirectors"),
    Feature("query_mail", "an e-mail address in the query"),
    Feature("query_odds", "what queries with these parameters are"),
    Feature("grams_path", "n-grams of the path"),
    Feature("grams_query", "n-grams of the query"),
    Feature("gram_path_worst", "the path's n-gram that speaks most for fraud"),
    Feature("grams_url", "n-grams of host, path and query, together, by the root of how many"),
    Feature("words_path", "known words in the path"),
    Feature("words_path_worst", "the word in the path that speaks most for fraud"),
    Feature("words_path_odds", "what the words of the path speak for, together"),
    Feature("brand_path", "a brand in the path, and how it is written"),
    Feature("brand_path_odds", "how often that brand stands in fraud"),
    Feature("address", "an IP address instead of a name"),
    Feature("bare", "no path at all"),
)

NAME: Final[tuple[Feature, ...]] = SHAPE + _GRAMS + _WORDS + _BRANDS + _FOREIGN + _MEMORY
URL: Final[tuple[Feature, ...]] = NAME + _PATH

BY_KIND: Final = {"name": NAME, "url": URL}  # by the kind of a model
