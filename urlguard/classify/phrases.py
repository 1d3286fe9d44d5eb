"""
The features in words, for people: what a number says about a name or URL, in English and Chinese.

Knows the features' names and what their values mean; knows neither models nor what a value did to
a score, which `explain` adds.

How it works.  Each feature has one template a language, filled with its value and with pieces of
the item.  Where 0 means that there is nothing, a second template says so.  In braces stand:

    n, s       the value, and the English plural's letter
    p          the value as a percentage
    times      how many harmless names have a trigram, from its commonness
    lean       what odds speak for, with the number
    known      how many names are known with a key of the memory of campaigns, and their odds
    others     pieces of the item: `explain` says which
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

LANGUAGES: Final = ("en", "zh")


class Phrase(NamedTuple):
    """Templates of one feature; ``none`` is for the value 0 and may be empty."""

    en: str
    zh: str
    none_en: str = ""
    none_zh: str = ""

    def template(self, language: str, value: float) -> str:
        """The template for a value."""
        full, none = (self.en, self.none_en) if language == "en" else (self.zh, self.none_zh)
        return full if value or not none else none


# The memory of campaigns: what names have in common that it knows by one key.
MEMORY: Final[Mapping[str, tuple[str, str]]] = {
    "shape": (
        "names shaped like “{label}” below .{suffix}",
        "与“{label}”同形且后缀为.{suffix}的域名",
    ),
    "series": ("names like “{label}” with other numbers", "仅数字与“{label}”不同的域名"),
    "begins": (
        "names below .{suffix} that begin with “{first5}”",
        "后缀为.{suffix}且以“{first5}”开头的域名",
    ),
    "ends": (
        "names below .{suffix} that end with “{last5}”",
        "后缀为.{suffix}且以“{last5}”结尾的域名",
    ),
    "begins_anywhere": ("names that begin with “{first6}”", "以“{first6}”开头的域名"),
    "ends_anywhere": ("names that end with “{last6}”", "以“{last6}”结尾的域名"),
    "begins_longer": ("names that begin with “{first8}”", "以“{first8}”开头的域名"),
    "pattern": (
        "names below .{suffix} that begin with “{first3}” and mix letters and digits alike",
        "后缀为.{suffix}、以“{first3}”开头且字母数字排列相同的域名",
    ),
    "before_series": (
        "names with{ahead_en}, or that with other numbers, before the domain",
        "域名主体之前同样{ahead_zh}（数字可不同）的域名",
    ),
    "whole_shape": (
        "names shaped like this one in all parts, below .{suffix}",
        "各部分均与本域名同形且后缀为.{suffix}的域名",
    ),
    "suffix": ("names below .{suffix}", "后缀为.{suffix}的域名"),
    "top_level": ("names below .{top}", "顶级域为.{top}的域名"),
    "label": ("names “{label}” on whatever suffix", "主体同为“{label}”的域名（不论后缀）"),
    "file": ("pages of other sites with this file name", "其他网站上同名的文件"),
    "first": ("pages of other sites below this first folder", "其他网站上同名首级目录下的页面"),
    "shape_path": ("paths of the same shape", "同形的路径"),
    "path_series": (
        "this path, whatever its numbers, on other hosts",
        "其他主机上相同的路径（数字可不同）",
    ),
}  # fmt: skip

# How a brand is written, by the number that the features give: `brands.Kind` and one.
WRITTEN: Final[Mapping[int, tuple[str, str]]] = {
    1: ("plainly", "原样书写"),
    2: ("with hyphens inside", "中间夹连字符"),
    3: ("with signs that look like others", "使用形近字符"),
    4: ("with digits pushed in", "夹入数字"),
    5: ("with a letter swapped, doubled or missing", "字母颠倒、重复或缺失"),
    6: ("with a letter's neighbour on the keyboard", "用键盘邻键替换"),
}

_P = Phrase

_SHAPE: Final[Mapping[str, Phrase]] = {
    "length": _P("the name has {n} characters", "整个域名长{n}个字符"),
    "label_length": _P("the label “{label}” has {n} character{s}", "域名主体“{label}”长{n}个字符"),
    "before_length": _P(
        "{n} character{s} before the domain", "域名主体之前有{n}个字符",
        "nothing before the domain", "域名主体之前没有内容",
    ),
    "before_labels": _P(
        "{n} label{s} before the domain", "域名主体之前有{n}级子域名",
        "no label before the domain", "没有子域名",
    ),
    "suffix_labels": _P(
        "{n} dot{s} in the suffix .{suffix}", "后缀.{suffix}内含{n}个点",
        "the suffix .{suffix} is a single label", "后缀.{suffix}只有一级",
    ),
    "suffix_length": _P(
        "the suffix .{suffix} has {n} character{s}", "后缀.{suffix}长{n}个字符",
        "no public suffix", "没有公共后缀",
    ),
    "hosting": _P(
        "a customer's place on shared hosting, .{suffix}", "位于共享托管平台.{suffix}",
        "a domain of its own, not on shared hosting", "独立域名，不在共享托管平台上",
    ),
    "digits": _P(
        "{n} digit{s} in the label", "域名主体含{n}个数字",
        "no digits in the label", "域名主体不含数字",
    ),
    "digit_runs": _P(
        "digits in {n} place{s} of the label", "域名主体有{n}处数字",
        "digits nowhere in the label", "域名主体各处均无数字",
    ),
    "digit_longest": _P(
        "{n} digit{s} in a row in the label", "域名主体最多连续{n}个数字",
        "no run of digits in the label", "域名主体没有数字串",
    ),
    "digit_share": _P(
        "digits are {p} of the label", "数字占域名主体的{p}",
        "digits have no share of the label", "数字在域名主体中占比为零",
    ),
    "digit_first": _P(
        "the label begins with a digit", "域名主体以数字开头",
        "the label does not begin with a digit", "域名主体不以数字开头",
    ),
    "digit_last": _P(
        "the label ends with a digit", "域名主体以数字结尾",
        "the label does not end with a digit", "域名主体不以数字结尾",
    ),
    "hyphens": _P(
        "{n} hyphen{s} in the label", "域名主体含{n}个连字符",
        "no hyphens in the label", "域名主体不含连字符",
    ),
    "token_longest": _P(
        "the longest part between hyphens has {n} character{s}", "连字符之间最长的一段有{n}个字符",
        "no part between hyphens", "连字符之间没有内容",
    ),
    "token_shortest": _P(
        "the shortest part between hyphens has {n} character{s}",
        "连字符之间最短的一段有{n}个字符",
        "an empty part between hyphens", "连字符之间有空段",
    ),
    "vowel_share": _P(
        "{p} of the label's letters are vowels", "域名主体的字母中元音占{p}",
        "no vowels in the label", "域名主体没有元音字母",
    ),
    "consonants_longest": _P(
        "{n} consonant{s} in a row in the label", "域名主体最多连续{n}个辅音字母",
        "no consonants in a row in the label", "域名主体没有连续的辅音字母",
    ),
    "repeat_longest": _P("the same sign {n} time{s} in a row", "同一字符最多连续出现{n}次"),
    "entropy": _P(
        "the label's signs have {n} bits of entropy", "域名主体的字符熵为{n}比特",
        "the label has one kind of sign alone", "域名主体只有一种字符",
    ),
    "distinct": _P("{n} different sign{s} in the label", "域名主体有{n}种不同的字符"),
    "hexadecimal": _P(
        "the label is hexadecimal digits alone", "域名主体全是十六进制字符",
        "the label is not a hexadecimal number", "域名主体不是十六进制数",
    ),
    "before_digits": _P(
        "{n} digit{s} before the domain", "域名主体之前含{n}个数字",
        "no digits before the domain", "域名主体之前不含数字",
    ),
    "before_digit_longest": _P(
        "{n} digit{s} in a row before the domain", "域名主体之前最多连续{n}个数字",
        "no run of digits before the domain", "域名主体之前没有数字串",
    ),
    "before_hyphens": _P(
        "{n} hyphen{s} before the domain", "域名主体之前含{n}个连字符",
        "no hyphens before the domain", "域名主体之前不含连字符",
    ),
    "before_consonants": _P(
        "{n} consonant{s} in a row before the domain", "域名主体之前最多连续{n}个辅音字母",
        "no consonants in a row before the domain", "域名主体之前没有连续的辅音字母",
    ),
}  # fmt: skip

_LEARNT: Final[Mapping[str, Phrase]] = {
    "grams": _P("the spelling of the whole name {lean}", "整个域名的字母组合{lean}"),
    "grams_label": _P("the spelling of the label {lean}", "域名主体的字母组合{lean}"),
    "grams_before": _P("the spelling before the domain {lean}", "域名主体之前的字母组合{lean}"),
    "grams_suffix": _P("the suffix .{suffix} {lean}", "后缀.{suffix}{lean}"),
    "grams_mean": _P(
        "the spelling of the label, sign for sign, {lean}", "域名主体平均每个字符的组合{lean}"
    ),
    "gram_worst": _P(
        "the most suspicious piece of the label{gram_worst} {lean}",
        "域名主体中最可疑的片段{gram_worst}{lean}",
    ),
    "gram_best": _P(
        "the least suspicious piece of the label{gram_best} {lean}",
        "域名主体中最不可疑的片段{gram_best}{lean}",
    ),
    "gram_before_worst": _P(
        "the most suspicious piece before the domain {lean}", "域名主体之前最可疑的片段{lean}"
    ),
    "common": _P(
        "three signs in a row of the label stand in some {times} harmless names, in the mean",
        "域名主体的三字符序列平均见于约{times}个正常域名",
        "no three signs in a row of the label stand in a harmless name",
        "域名主体的三字符序列从未见于正常域名",
    ),
    "common_least": _P(
        "the label's rarest three signs in a row stand in some {times} harmless names",
        "域名主体最罕见的三字符序列见于约{times}个正常域名",
        "the label has three signs in a row that no harmless name has",
        "域名主体含正常域名所没有的三字符序列",
    ),
    "words": _P(
        "{n} known word{s} in the label", "域名主体含{n}个已知词",
        "no known words in the label", "域名主体不含已知词",
    ),
    "words_share": _P(
        "known words are {p} of the label", "已知词占域名主体的{p}",
        "known words have no share of the label", "已知词在域名主体中占比为零",
    ),
    "word_longest": _P(
        "the longest known word in the label has {n} letter{s}",
        "域名主体中最长的已知词有{n}个字母",
        "not one known word in the label", "域名主体没有任何已知词",
    ),
    "word_worst": _P(
        "the most suspicious word of the label{word_worst} {lean}",
        "域名主体中最可疑的词{word_worst}{lean}",
        "no suspicious word in the label", "域名主体没有可疑的词",
    ),
    "word_best": _P(
        "the least suspicious word of the label{word_best} {lean}",
        "域名主体中最不可疑的词{word_best}{lean}",
        "no word in the label that speaks against fraud", "域名主体没有倾向正常的词",
    ),
    "words_odds": _P("the vocabulary of the label {lean}", "域名主体的词合起来{lean}"),
    "unknown_longest": _P(
        "a stretch of {n} sign{s} of the label makes no known word",
        "域名主体有连续{n}个字符不成词",
        "the label is known words throughout", "域名主体全由已知词组成",
    ),
    "before_words": _P(
        "{n} known word{s} before the domain", "域名主体之前含{n}个已知词",
        "no known words before the domain", "域名主体之前不含已知词",
    ),
    "before_word_worst": _P(
        "the most suspicious word before the domain{before_word_worst} {lean}",
        "域名主体之前最可疑的词{before_word_worst}{lean}",
        "no suspicious word before the domain", "域名主体之前没有可疑的词",
    ),
    "before_words_odds": _P(
        "the vocabulary before the domain {lean}", "域名主体之前的词合起来{lean}"
    ),
    "pinyin_longest": _P(
        "{n} letter{s} of pinyin in a row in the label", "域名主体最多连续{n}个字母可读作拼音",
        "no pinyin in the label", "域名主体不含拼音",
    ),
    "pinyin_whole": _P(
        "the label is pinyin throughout", "域名主体全为拼音",
        "the label is not pinyin throughout", "域名主体不全是拼音",
    ),
    "brand": _P(
        "the label has the name of {brand}, written {written_en}",
        "域名主体含品牌名{brand}，{written_zh}",
        "no known brand in the label", "域名主体不含已知品牌",
    ),
    "brand_share": _P(
        "the brand's name is {p} of the label", "品牌名占域名主体的{p}",
        "a brand's name has no share of the label", "品牌名在域名主体中占比为零",
    ),
    "brand_odds": _P("this brand in a name {lean}", "含该品牌的域名{lean}"),
    "brand_before": _P(
        "the name of {brand_before} stands before the domain, written {written_before_en}",
        "域名主体之前含品牌名{brand_before}，{written_before_zh}",
        "no known brand before the domain", "域名主体之前不含已知品牌",
    ),
    "brand_before_odds": _P(
        "this brand before a domain {lean}",
        "含域名主体之前那个品牌的域名{lean}",
    ),
    "brand_own": _P(
        "a domain of the brand's own{owner}", "品牌自有域名{owner}",
        "no brand's own domain", "不是任何品牌的自有域名",
    ),
    "brands": _P(
        "{n} known brand{s} in the name", "域名含{n}个已知品牌",
        "no known brand in the name", "域名不含已知品牌",
    ),
    "foreign_labels": _P(
        "{n} label{s} beyond ASCII", "{n}级标签为国际化域名",
        "no label beyond ASCII", "没有国际化域名标签",
    ),
    "foreign_mixed": _P(
        "scripts are mixed in one label", "同一标签混用多种文字",
        "no scripts are mixed", "没有混用文字",
    ),
    "foreign_alike": _P(
        "{n} sign{s} that look like Latin letters and are none", "{n}个字符貌似拉丁字母而并非",
        "no signs that pass for Latin letters", "没有冒充拉丁字母的字符",
    ),
    "foreign_brand": _P(
        "a label beyond ASCII looks like a brand{foreign}", "国际化标签形似品牌{foreign}",
        "no label beyond ASCII looks like a brand", "没有国际化标签形似品牌",
    ),
}  # fmt: skip

_PATH: Final[Mapping[str, Phrase]] = {
    "path_length": _P("the path has {n} character{s}", "路径长{n}个字符"),
    "path_depth": _P("the path is {n} segment{s} deep", "路径深{n}级"),
    "path_digits": _P(
        "{n} digit{s} in the path", "路径含{n}个数字", "no digits in the path", "路径不含数字"
    ),
    "path_digit_longest": _P(
        "{n} digit{s} in a row in the path", "路径最多连续{n}个数字",
        "no run of digits in the path", "路径没有数字串",
    ),
    "path_hyphens": _P(
        "{n} hyphen{s} in the path", "路径含{n}个连字符",
        "no hyphens in the path", "路径不含连字符",
    ),
    "path_uppercase": _P(
        "{n} capital{s} in the path", "路径含{n}个大写字母",
        "no capitals in the path", "路径不含大写字母",
    ),
    "path_entropy": _P(
        "the path's signs have {n} bits of entropy", "路径的字符熵为{n}比特",
        "the path has one kind of sign alone", "路径只有一种字符",
    ),
    "path_longest": _P(
        "the longest segment of the path has {n} character{s}", "路径最长的一级有{n}个字符",
        "no segment in the path", "路径没有分级",
    ),
    "path_random": _P(
        "{n} letter{s} and digits mixed in a row in the path", "路径有连续{n}个字母数字混排的字符",
        "no letters and digits mixed in the path", "路径没有字母数字混排",
    ),
    "path_dots": _P(
        "{n} dot{s} in the path", "路径含{n}个点", "no dots in the path", "路径不含点"
    ),
    "path_escaped": _P(
        "{n} percent sign{s} in the path", "路径含{n}个百分号",
        "no percent signs in the path", "路径不含百分号",
    ),
    "path_tilde": _P(
        "a tilde in the path: somebody's folder", "路径含波浪号，为个人目录",
        "no tilde in the path", "路径不含波浪号",
    ),
    "path_ends_slash": _P(
        "the path ends in a folder", "路径以目录结尾",
        "the path does not end in a folder", "路径不以目录结尾",
    ),
    "path_double": _P(
        "an address or double slash inside the path", "路径内含网址或双斜杠",
        "no address inside the path", "路径内没有网址",
    ),
    "path_name": _P(
        "a host name inside the path", "路径内含域名",
        "no host name inside the path", "路径内没有域名",
    ),
    "path_mail": _P(
        "an at sign in the path", "路径含@号", "no at sign in the path", "路径不含@号"
    ),
    "type_odds": _P("the type of the file {lean}", "此类文件{lean}"),
    "query_length": _P(
        "the query has {n} character{s}", "查询串长{n}个字符", "no query", "没有查询串"
    ),
    "query_parameters": _P(
        "{n} parameter{s} in the query", "查询串有{n}个参数",
        "no parameters in the query", "查询串没有参数",
    ),
    "query_longest": _P(
        "the query's longest value has {n} character{s}", "查询串最长的值有{n}个字符",
        "no values in the query", "查询串没有值",
    ),
    "query_digits": _P(
        "{n} digit{s} in the query", "查询串含{n}个数字",
        "no digits in the query", "查询串不含数字",
    ),
    "query_address": _P(
        "an address in the query", "查询串内含网址",
        "no address in the query", "查询串内没有网址",
    ),
    "query_mail": _P(
        "an e-mail address in the query", "查询串内含电子邮件地址",
        "no e-mail address in the query", "查询串内没有电子邮件地址",
    ),
    "query_odds": _P("the query's set of parameters {lean}", "带有这些参数的查询串{lean}"),
    "grams_path": _P("the spelling of the path {lean}", "路径的字母组合{lean}"),
    "grams_query": _P("the spelling of the query {lean}", "查询串的字母组合{lean}"),
    "gram_path_worst": _P(
        "the most suspicious piece of the path {lean}",
        "路径中最可疑的片段{lean}",
    ),
    "grams_url": _P("the spelling of the whole address {lean}", "整个网址的字母组合{lean}"),
    "words_path": _P(
        "{n} known word{s} in the path", "路径含{n}个已知词",
        "no known words in the path", "路径不含已知词",
    ),
    "words_path_worst": _P(
        "the most suspicious word of the path{words_path_worst} {lean}",
        "路径中最可疑的词{words_path_worst}{lean}",
        "no suspicious word in the path", "路径没有可疑的词",
    ),
    "words_path_odds": _P("the vocabulary of the path {lean}", "路径的词合起来{lean}"),
    "brand_path": _P(
        "the name of {brand_path} stands in the path, written {written_path_en}",
        "路径含品牌名{brand_path}，{written_path_zh}",
        "no known brand in the path", "路径不含已知品牌",
    ),
    "brand_path_odds": _P("this brand in a path {lean}", "含该品牌的路径{lean}"),
    "address": _P(
        "an IP address in the place of a name", "以IP地址代替域名",
        "a name, not an IP address", "是域名而非IP地址",
    ),
    "bare": _P(
        "no path at all",
        "没有路径",
        "a path or query follows the host",
        "主机名后有路径或查询串",
    ),
}  # fmt: skip

_REMEMBERED: Final = {
    f"{key}_{what}": _P(f"{en}: {{known}}", f"{zh}：{{known}}")
    for key, (en, zh) in MEMORY.items()
    for what in ("odds", "evidence")
}

PHRASES: Final[Mapping[str, Phrase]] = {**_SHAPE, **_LEARNT, **_REMEMBERED, **_PATH}

_LEANS: Final = {
    # strongly for, for, neither, against, strongly against
    "en": (
        *("speaks strongly for fraud", "speaks for fraud", "says little"),
        *("speaks against fraud", "speaks strongly against fraud"),
    ),
    "zh": ("明显偏向诈骗", "偏向诈骗", "参考意义不大", "偏向正常", "明显偏向正常"),
}
_STRONG, _SOME = 2.0, 0.5  # log-odds
_MOST = 12  # steps of evidence; tables count no further
COMMON_STEPS: Final = 6  # of a trigram's commonness for each doubling, as training counts


def lean(language: str, odds: float) -> str:
    """What log-odds speak for, in words and with the number."""
    strength = [_STRONG, _SOME, -_SOME, -_STRONG]
    at = next((n for n, least in enumerate(strength) if odds >= least), len(strength))
    # A border counts as the stronger of its two sides, on either side of 0.
    if odds in (-_SOME, -_STRONG):
        at += 1
    words = _LEANS[language][at]
    return f"{words} ({odds:+.2f})" if language == "en" else f"{words}（{odds:+.2f}）"


def known(language: str, odds: float, evidence: float) -> str:
    """How many are remembered by a key, in powers of two, and what their odds speak for."""
    if not evidence:
        return "none remembered" if language == "en" else "未见记录"
    if evidence >= _MOST:
        count = {"en": "thousands", "zh": "数千个"}[language]
    else:
        number = round(2**evidence) - 1
        count = f"some {number:,}" if language == "en" else f"约{number}个"
    if language == "en":
        return f"{count} known, which {lean(language, odds)}"
    return f"已知{count}，{lean(language, odds)}"


class _Pieces(dict[str, str]):
    """What is not known of an item is left out of a sentence."""

    def __missing__(self, key: str) -> str:
        return ""


def say(language: str, feature: str, values: Mapping[str, float], pieces: Mapping[str, str]) -> str:
    """
    A feature's value in words; for a feature that has none, its name and value.

    Args:
        language: one of `LANGUAGES`.
        feature: its name.
        values: of all features of the item, by name.
        pieces: of the item, by the names that stand in braces in templates; see `explain`.
    """
    value = values[feature]
    phrase = PHRASES.get(feature)
    if phrase is None:
        return f"{feature}: {_number(value)}"
    if feature == "vowel_share" and value < 0:
        return {"en": "the label has no letters", "zh": "域名主体没有字母"}[language]
    key = feature.rpartition("_")[0]
    filled = _Pieces(
        pieces,
        n=_number(value),
        s="" if value == 1 else "s",
        p=f"{value:.0%}",
        times=_number(round(2 ** (max(value, 0) / COMMON_STEPS)) - 1 or 1),
        lean=lean(language, value),
        known=known(language, values.get(f"{key}_odds", 0), values.get(f"{key}_evidence", 0)),
    )
    text = phrase.template(language, value).format_map(filled)
    # Quotations come with a space before them, which Chinese has not.
    return text if language == "en" else text.replace(" “", "“")


def _number(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:,.0f}"
