"""
Refangs URLs: undoes ``hxxp``, ``[.]``, ``dot``, ``c o m`` and other multi-character spellings.

Knows how people obfuscate a URL to get past a filter, and how careful people defang one so that
nobody follows it; does not know whether the result is a name.  An unambiguous substitute for a dot
becomes a dot.  An ambiguous one becomes a placeholder of `normalize` that keeps its kind, so that
`hosts` can require more evidence.

How it works.  Two passes of one regular expression each.  The first joins letters that are spaced
out; the second finds everything else, and the group that matched selects the replacement.  All
repetitions are bounded, or are of characters that cannot begin what follows, so the time is linear
in the text.  A message with instructions, such as "remove the #", is searched a second time after
they have been followed.
"""

import re
from collections.abc import Iterator

from urlguard.messages.hosts import FIRM, SOFT
from urlguard.messages.normalize import COMMA, LOOSE, PICTURE, SPELLED, TIGHT, Edit, Normalized

# The characters of a host in a text: ASCII, and scripts that put spaces between words and whose
# letters look like Latin ones.  Other scripts do not show where a name begins; `finding` searches
# those backwards from the suffix.
HOST = (
    "a-z0-9_\\-\u00df-\u00f6\u00f8-\u02af\u0300-\u058f\u10a0-\u10ff\u13a0-\u13ff\u1c80-\u1c8f"
    "\u1d00-\u1dbf\u1e00-\u1fff\u2c00-\u2dff\ua640-\ua69f\ua720-\ua7ff\uab30-\uabbf"
)

_firm = "|".join(sorted(FIRM, key=len, reverse=True))
_any = "|".join(sorted(FIRM | SOFT, key=len, reverse=True))
_open, _close = r"[\[({<（【〔《「『]", r"[\])}>）】〕》」』]"
_not_more = r"(?![a-z0-9])"

_gap = r"[ \t*~|+^`']{1,2}"
_mark = rf"(?:[./:·。点點-]|{_open}[.点點]{_close})"
_spaced = re.compile(
    rf"(?<![a-z0-9])[a-z0-9]"
    rf"(?:{_gap}[a-z0-9]|(?:{_gap})?{_mark}(?:(?:{_gap})?{_mark}){{0,3}}(?:{_gap})?[a-z0-9])"
    rf"{{3,}}{_not_more}"
)
_gaps = re.compile(_gap)

_defanged = re.compile(
    # hxxp, h**p, ht tp, http[:]//, http:\\, http//, http:/
    rf"(?P<scheme>h(?:[ ]?t[ ]?t|xx|tx|xt|\*\*)[ ]?p[ ]?(?P<s>s?)[ ]?"
    rf"(?:{_open}?[ ]?:[ ]?{_close}?)?[ ]?"
    rf"(?:{_open}?//{_close}?|[/\\][ ]?[/\\]{_close}?|(?<=:)[/\\]|{_open}//?{_close})[ ]{{0,2}}"
    rf"(?=[^\s/\\]))"
    # [.] (dot) {点} <.>, and the same for "/", ":" and "@"
    rf"|(?P<dot>[ ]{{0,2}}{_open}[ ]{{0,2}}(?:\.|dot|d0t|dian|point|[点點。·])[ ]{{0,2}}{_close}"
    rf"[ ]{{0,2}}(?=[{HOST}])|(?<=[{HOST}])(?:\[\.|\.\]|[\"“'‘]\.[\"”'’])(?=[{HOST}]))"
    rf"|(?P<char>[ ]?{_open}(?P<what>/|:|@|at)[ ]?{_close}[ ]?)"
    # 三w., and "www demo com" or "www,demo,com"
    rf"|(?P<three>(?:三个?|3个)w(?=[.。·点點]))"
    rf"|(?P<www>(?<![{HOST}])www)(?:[ ]{{1,2}}|[,，、])(?P<middle>[{HOST}]{{2,63}})"
    rf"(?:[ ]{{1,2}}|[,，、])(?=(?:{_firm}|top|vip){_not_more})"
    # a dot in words
    rf"|(?<=[{HOST}])(?P<word>(?P<gap>[ _*-])[ _*-]{{0,2}}(?:dot|d0t|dian)(?P=gap)[ _*-]{{0,2}}"
    rf"(?=[{HOST}]))"
    rf"|(?<=[{HOST}])(?P<spelled>dot(?=(?:{_any})(?![a-z0-9]|[.-][a-z0-9]))|[ ]?[点點][ ]?"
    rf"(?=(?:[{HOST}]{{1,63}}[点點.。·]){{0,2}}(?:{_any}|c0m){_not_more}|[a-z]{{2,8}}/[a-z0-9_]{{3}}))"
    # an ending with a gap in it
    rf"|(?<=[{HOST}])(?P<ending>\.(?:c[ ]om|co[ ]m)){_not_more}"
    # other dots without spaces, and a comma in place of one
    rf"|(?<=[a-z0-9])(?P<comma>[,，](?=(?:com|cn|xyz|cc){_not_more}))"
    rf"|(?<=[{HOST}])(?P<tight>[。·])(?=[{HOST}])"
    # dots with spaces or pictures about them; with one space only before an ending that is no word
    rf"|(?<=[{HOST}])(?P<loose>[ ]{{1,3}}\.[ ]{{1,3}}(?=[{HOST}])"
    rf"|[ ]{{0,2}}{PICTURE}{{1,3}}\.[ ]{{0,2}}{PICTURE}{{0,3}}(?=[a-z])"
    rf"|\.[ ]{{0,2}}{PICTURE}{{1,3}}(?=[a-z])"
    rf"|(?:[ ]{{1,3}}\.|\.[ ]{{1,3}})(?=(?:{_firm}){_not_more})|(?<=www)(?:\.[ ]|[ ]\.)"
    rf"(?=[{HOST}]))"
)
_PUT = {
    "dot": ".",
    "three": "www",
    "word": LOOSE,
    "spelled": SPELLED,
    "tight": TIGHT,
    "comma": COMMA,
    "ending": ".com",
    "loose": LOOSE,
}

_instructs = re.compile(
    r"[删刪去除](?:掉|除|去)?.{0,6}(?:中文|汉字|漢字|文字|表情|符号|符號|空格|括号|星号|图标)"
    r"|(?:中文|汉字|漢字|文字|表情|符号|符號|空格|括号|星号|图标).{0,6}(?:[删刪]|去掉|去除)"
    r"|remove .{0,12}(?:space|emoji|symbol|star|character|bracket)"
)
# "Take out the # and open it": a character that the message names.
_named = r"[ ]?[\"“'‘]?(?P<{}>[^\w\s.])[\"”'’]?"
_names_character = re.compile(
    rf"[把将]{_named.format('a')}号?[ ]?[都全]?[删刪去]"
    rf"|(?:去掉|删除|刪除|删掉|去除){_named.format('b')}"
    rf"|\b(?:remove|delete|without)(?:[ ]the)?{_named.format('c')}"
)
_in_between = re.compile(
    rf"(?<=[a-z0-9.-])[^\x00-\x7f点點。·]{{1,4}}(?=[a-z0-9.])|(?<=\.)[{PICTURE} *]+"
)


def refanged(text: Normalized) -> Normalized:
    """The text with defanged and obfuscated URLs restored."""
    text = text.edited(_drawn_together(text.text))
    return text.edited(_replaced(text.text))


def _drawn_together(text: str) -> Iterator[Edit]:
    """Gaps between letters that stand one by one: ``w w w . d e m o . c o m``."""
    for run in _spaced.finditer(text):
        for gap in _gaps.finditer(text, *run.span()):
            yield *gap.span(), ""


def _replaced(text: str) -> Iterator[Edit]:
    for found in _defanged.finditer(text):
        kind = found.lastgroup
        if kind == "scheme":
            yield *found.span(), f"http{found['s']}://"
        elif kind == "char":
            yield *found.span(), "@" if found["what"] == "at" else found["what"]
        elif kind == "middle":
            yield found.end("www"), found.start("middle"), "."
            yield found.end("middle"), found.end(), "."
        elif kind is not None:
            yield *found.span(kind), _PUT[kind]


def as_instructed(text: Normalized) -> Normalized | None:
    """
    The refanged text after the message's own instructions were followed; None if it has none.

    Such as "remove the Chinese characters and open it", or "delete the #".
    """
    if named := _names_character.search(text.text):
        char = re.escape(named[named.lastindex or 0])
        within = re.compile(rf"(?<=[a-z0-9.-]){char}{{1,3}}(?=[a-z0-9.-])")
        return refanged(text.edited((*one.span(), "") for one in within.finditer(text.text)))
    if not _instructs.search(text.text):
        return None
    return refanged(text.edited((*one.span(), "") for one in _in_between.finditer(text.text)))
